"""Refunding, whole or in part, once however often the form is sent.

The form carries the number of refunds that its page showed, from which the Idempotency-Key is made here. A form that is
sent twice, or from an old page, has the same key. The key is the same for all people, so refunds of the console have
one caller; the person is in the audit log.
"""

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from payment_service.console.payment import PageContent, facts, read
from payment_service.console.web import HOME, Visit, finish_in_time, money_of, reason_of, redirect, require_proof
from payment_service.errors import InvalidInput, PaymentNotPaid, RefundExceedsRemainder, ServiceError, StillRunning
from payment_service.money import Money
from payment_service.payments.lifecycle import State
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.service import RefundRequest

CALLER: Final = "console"
_DONE: Final = {
    RefundState.SUCCEEDED: "refunded",
    RefundState.FAILED: "not-refunded",
    RefundState.UNKNOWN: "refund-unknown",
    RefundState.SENDING: "refund-unknown",
}


async def refund(visit: Visit) -> Response:
    """The form, and its submission."""
    shown = await read(visit)
    if not visit.is_sent:
        if shown.payment.state != State.PAID:
            raise PaymentNotPaid(shown.payment.state)
        return await _form(visit, shown)
    seen = visit.form_value("seen")
    if seen != str(len(shown.refunds)):
        # Sent before, or somebody else was faster: the page shows which.
        return redirect(f"{HOME}/payments/{shown.payment.id}", done="seen-before")
    try:
        amount = _amount(visit, await visit.services.refunds.left_of(shown.payment))
        if (limit := visit.me.person.refund_limit) is not None and _paid_back(shown) + amount.tiyn > limit:
            return await _form(visit, shown, is_over_limit=True)
        reason = reason_of(visit, "refund_reason")
        await require_proof(visit)
        state = await _refund(visit, shown, amount, seen, reason)
    except StillRunning:
        return redirect(f"{HOME}/payments/{shown.payment.id}", done="seen-before")
    except ServiceError as error:
        return await _form(visit, shown, error)
    return redirect(f"{HOME}/payments/{shown.payment.id}", done=_DONE[state])


async def _refund(visit: Visit, shown: PageContent, amount: Money, seen: str, reason: str) -> RefundState:
    request = RefundRequest(
        caller=replace(visit.me.caller, name=CALLER),
        payment=shown.payment,
        amount=amount,
        idempotency_key=f"{shown.payment.id}-{seen}",
        reason=reason,
    )
    answer = await finish_in_time(visit, visit.services.refunds.refund(request))
    return RefundState(answer.refund.state) if answer else RefundState.SENDING


def _amount(visit: Visit, left: Money) -> Money:
    """The amount that was typed, which confirms the choice of all or a part.

    Raises:
        InvalidInput: when it is no amount, or not all that is left although that was chosen.
        RefundExceedsRemainder: when it is more than what is left.
    """
    amount = money_of(visit, "amount")
    if not amount.tiyn:
        raise InvalidInput("amount", "is no sum")
    if visit.form_value("how") != "part" and amount != left:
        raise InvalidInput("whole_amount", "is not all that is left")
    if amount > left:
        raise RefundExceedsRemainder(left)
    return amount


def _paid_back(shown: PageContent) -> int:
    """Tiyn of a payment that were refunded, or may have been."""
    return shown.payment.refunded_amount + shown.payment.reserved_amount


async def _form(
    visit: Visit, shown: PageContent, error: ServiceError | None = None, *, is_over_limit: bool = False
) -> Response:
    limit = visit.me.person.refund_limit
    return visit.form_page(
        "refund.html",
        error,
        **await facts(visit, shown),
        seen=len(shown.refunds),
        limit=None if limit is None else Money(max(limit - _paid_back(shown), 0)).number,
        is_over_limit=is_over_limit,
        how=visit.form_value("how") or "all",
        amount=visit.form_value("amount"),
        reason=visit.form_value("reason"),
        **({"status": 403} if is_over_limit else {}),
    )
