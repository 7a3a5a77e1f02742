"""Refunding, whole or in part, once however often the form is sent.

The form carries the number of refunds that its page showed, from which the Idempotency-Key is made here. A form that is
sent twice, or from an old page, has the same key. The key is the same for all people, so refunds of the console have
one caller; the person is in the audit log.
"""

from dataclasses import replace
from typing import Final

from starlette.responses import Response

from payment_service.console.payment import PageContent, facts, read
from payment_service.console.web import HOME, PageContext, finish_in_time, money_of, reason_of, redirect, require_proof
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


async def refund(context: PageContext) -> Response:
    """The form, and its submission."""
    shown = await read(context)
    if not context.is_sent:
        if shown.payment.state != State.PAID:
            raise PaymentNotPaid(shown.payment.state)
        return await _form(context, shown)
    seen = context.form_value("seen")
    if seen != str(len(shown.refunds)):
        # Sent before, or somebody else was faster: the page shows which.
        return redirect(f"{HOME}/payments/{shown.payment.id}", done="seen-before")
    try:
        amount = _amount(context, await context.services.refunds.left_of(shown.payment))
        if (limit := context.me.person.refund_limit) is not None and _paid_back(shown) + amount.tiyn > limit:
            return await _form(context, shown, is_over_limit=True)
        reason = reason_of(context, "refund_reason")
        await require_proof(context)
        state = await _refund(context, shown, amount, seen, reason)
    except StillRunning:
        return redirect(f"{HOME}/payments/{shown.payment.id}", done="seen-before")
    except ServiceError as error:
        return await _form(context, shown, error)
    return redirect(f"{HOME}/payments/{shown.payment.id}", done=_DONE[state])


async def _refund(context: PageContext, shown: PageContent, amount: Money, seen: str, reason: str) -> RefundState:
    request = RefundRequest(
        caller=replace(context.me.caller, name=CALLER),
        payment=shown.payment,
        amount=amount,
        idempotency_key=f"{shown.payment.id}-{seen}",
        reason=reason,
    )
    answer = await finish_in_time(context, context.services.refunds.refund(request))
    return RefundState(answer.refund.state) if answer else RefundState.SENDING


def _amount(context: PageContext, left: Money) -> Money:
    """The amount that was typed, which confirms the choice of all or a part.

    Raises:
        InvalidInput: when it is no amount, or not all that is left although that was chosen.
        RefundExceedsRemainder: when it is more than what is left.
    """
    amount = money_of(context, "amount")
    if not amount.tiyn:
        raise InvalidInput("amount", "is no sum")
    if context.form_value("how") != "part" and amount != left:
        raise InvalidInput("whole_amount", "is not all that is left")
    if amount > left:
        raise RefundExceedsRemainder(left)
    return amount


def _paid_back(shown: PageContent) -> int:
    """Tiyn of a payment that were refunded, or may have been."""
    return shown.payment.refunded_amount + shown.payment.reserved_amount


async def _form(
    context: PageContext, shown: PageContent, error: ServiceError | None = None, *, is_over_limit: bool = False
) -> Response:
    limit = context.me.person.refund_limit
    return context.form_page(
        "refund.html",
        error,
        **await facts(context, shown),
        seen=len(shown.refunds),
        limit=None if limit is None else Money(max(limit - _paid_back(shown), 0)).number,
        is_over_limit=is_over_limit,
        how=context.form_value("how") or "all",
        amount=context.form_value("amount"),
        reason=context.form_value("reason"),
        **({"status": 403} if is_over_limit else {}),
    )
