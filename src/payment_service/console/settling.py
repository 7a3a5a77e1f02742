"""Settling a payment or a refund by hand, and undoing that.

The forms carry the version that their page showed. What was found yesterday is not written down today of a payment that
somebody settled, or took back, since: the first look is of another moment.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import Response

from payment_service.console.payment import PageContent, facts, read
from payment_service.console.web import HOME, PageContext, reason_of, redirect, require_proof
from payment_service.errors import InvalidInput, RefundNotFound, ServiceError
from payment_service.payments.lifecycle import State
from payment_service.payments.settling import Settlement
from payment_service.refunds.settling import RefundSettlement
from payment_service.refunds.views import RefundLine

Act = Callable[[PageContext, RefundLine | None], Awaitable[None]]
_PROVIDERS_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,50}")
_FOUND: Final = {"paid": State.PAID, "pending": State.PENDING, "failed": State.FAILED}
_REFUND_FOUND: Final = {"succeeded": True, "failed": False}


async def settle(context: PageContext) -> Response:
    """The form for a payment or, where the address names one, a refund of it; and its submission."""
    return await _answer(context, "settle.html", _settle, done="settled")


async def undo(context: PageContext) -> Response:
    """The form that undoes a settlement, and its submission."""
    return await _answer(context, "undo.html", _undo, done="undone")


async def _settle(context: PageContext, refund: RefundLine | None) -> None:
    services, caller = context.services, context.me.caller
    found = context.form_value("found")
    if found not in (_REFUND_FOUND if refund else _FOUND):
        raise InvalidInput("state", "is none")
    external_id = _providers_id(context.form_value("external_id"), "provider_refund_id" if refund else "external_id")
    reason = reason_of(context, "reason")
    await require_proof(context)
    if refund is not None:
        settlement = RefundSettlement(succeeded=_REFUND_FOUND[found], reason=reason, provider_refund_id=external_id)
        await services.refund_settling.settle(caller, refund.id, settlement)
    else:
        of_payment = Settlement(state=_FOUND[found], reason=reason, external_id=external_id)
        await services.settling.settle(caller, context.id(), of_payment)


async def _undo(context: PageContext, refund: RefundLine | None) -> None:
    reason = reason_of(context, "reason")
    await require_proof(context)
    if refund is not None:
        await context.services.refund_settling.undo(context.me.caller, refund.id, reason)
    else:
        await context.services.settling.undo(context.me.caller, context.id(), reason)


async def _answer(context: PageContext, template: str, act: Act, *, done: str) -> Response:
    shown = await read(context)
    refund = _refund(context, shown)
    if not context.is_sent:
        return await _form(context, template, shown, refund)
    if context.form_value("seen") != _version(shown, refund):
        return redirect(f"{HOME}/payments/{shown.payment.id}", done="changed-before")
    try:
        await act(context, refund)
    except ServiceError as error:
        return await _form(context, template, shown, refund, error)
    return redirect(f"{HOME}/payments/{shown.payment.id}", done=done)


def _refund(context: PageContext, shown: PageContent) -> RefundLine | None:
    """The refund of the address; none where it names a payment alone."""
    if "refund_id" not in context.request.path_params:
        return None
    wanted = context.id("refund_id")
    refund = next((one for one in shown.refunds if one.id == wanted), None)
    if refund is None:
        raise RefundNotFound(wanted)
    return refund


def _version(shown: PageContent, refund: RefundLine | None) -> str:
    """The version of what the page is about."""
    return str(refund.version if refund else shown.payment.version)


async def _form(
    context: PageContext,
    template: str,
    shown: PageContent,
    refund: RefundLine | None,
    error: ServiceError | None = None,
) -> Response:
    return context.form_page(
        template,
        error,
        **await facts(context, shown),
        refund=refund,
        seen=_version(shown, refund),
        made_at=refund.created_at if refund else shown.payment.created_at,
        given=context.form,
    )


def _providers_id(text: str, field: str) -> str | None:
    if text and not _PROVIDERS_ID.fullmatch(text):
        raise InvalidInput(field, "is none")
    return text or None
