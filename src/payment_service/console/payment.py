"""The page of one payment: its status, its timeline, and the possible actions."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import segno
from starlette.responses import Response

from payment_service.access.people import Right
from payment_service.almaty import ALMATY
from payment_service.audit import service as audit
from payment_service.audit.models import AuditEntry
from payment_service.console.lists import sellers
from payment_service.console.payment_status import WORD_OF_REFUND, payment_status
from payment_service.console.timeline import timeline
from payment_service.console.web import HOME, PageContext, moment_of, redirect
from payment_service.errors import ProviderUnavailable
from payment_service.notifications.models import OPEN as OPEN_MESSAGES
from payment_service.notifications.record import MessageDetails
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.reading import NOT_POLLED
from payment_service.payments.views import PaymentLine
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.views import RefundLine
from payment_service.scheduling.operations import ANSWER_WITHIN_S
from payment_service.webhooks.record import EndpointDelivery


@dataclass(frozen=True, slots=True)
class PageContent:
    """A payment with its refunds, deliveries and messages, and its history where that was read."""

    payment: Payment
    refunds: list[RefundLine]
    delivered: list[EndpointDelivery]
    messages: list[MessageDetails]
    history: list[AuditEntry]

    @property
    def version(self) -> str:
        """Changes whenever something on the page does."""
        passed_on = sum(one.delivery.tries + 1 + (one.delivery.ended_at is not None) for one in self.delivered)
        passed_on += sum(one.message.tries + 1 + (one.message.state not in OPEN_MESSAGES) for one in self.messages)
        parts = self.payment.version, passed_on, *(refund.version for refund in self.refunds)
        return ".".join(map(str, parts))

    @property
    def subjects(self) -> list[str]:
        """The subjects of the events of this page: the payment and its refunds."""
        return [str(self.payment.id), *(str(refund.id) for refund in self.refunds)]


async def read(context: PageContext) -> PageContent:
    """The payment of the address, with its history.

    Raises:
        PaymentNotFound: when there is none that the person may see.
    """
    return await _with_history(context, await _without_history(context))


async def _without_history(context: PageContext) -> PageContent:
    payment = await context.services.reading.get(context.me.caller, context.id())
    refunds = [RefundLine.of(refund) for refund in await context.services.refunds.of_payment(payment.id)]
    shown = PageContent(payment, refunds, [], [], [])
    return replace(
        shown,
        delivered=await context.services.delivery_record.of_subjects(context.me.caller, shown.subjects),
        messages=await context.services.message_record.of_subjects(context.me.caller, shown.subjects),
    )


async def _with_history(context: PageContext, shown: PageContent) -> PageContent:
    async with context.services.database.reading() as session:
        return replace(shown, history=await audit.of_payment(session, shown.payment.id))


async def facts(context: PageContext, shown: PageContent) -> dict[str, Any]:
    """The variables of the templates of a payment."""
    payment, me = shown.payment, context.me
    line = PaymentLine.of(payment)
    left = await context.services.refunds.left_of(payment)
    is_refundable = payment.state == State.PAID and payment.organization_bin is not None and left.tiyn > 0
    age_s = (datetime.now(UTC) - payment.created_at).total_seconds()
    is_lost = payment.state == State.SENDING and context.services.settling.rules.is_lease_over(age_s)
    return {
        "line": line,
        "seller": (await sellers(context, [payment.shop_id])).get(payment.shop_id),
        "home": f"{HOME}/payments/{payment.id}",
        "version": shown.version,
        "payment_status": payment_status(line, shown.refunds),
        "refunds": [(refund, *WORD_OF_REFUND[refund.state]) for refund in shown.refunds],
        "timeline": timeline(line, payment.caller, shown.refunds, shown.history, shown.delivered, shown.messages),
        "can_replay": any(one.endpoint.is_active for one in shown.delivered) and me.may(Right.DELIVER),
        "may_see_deliveries": me.may(Right.DELIVER),
        "made_at_full": f"{payment.created_at.astimezone(ALMATY):%d.%m.%Y %H:%M:%S}",
        "asked_at": datetime.now(UTC).isoformat(),
        "qr": _qr(payment.payment_link) if payment.payment_link else None,
        "left": left.number,
        "reserved": payment.reserved_amount > 0,
        "may_refund": is_refundable and me.may(Right.REFUND),
        "may_ask": payment.external_id is not None and payment.state not in NOT_POLLED,
        "may_settle": (payment.state == State.UNKNOWN or is_lost) and me.may(Right.SETTLE),
        "needs_settling": payment.state == State.UNKNOWN or is_lost,
        "may_undo": _can_be_undone(shown.history, None) and me.may(Right.SETTLE),
        "refund_actions": {refund.id: _refund_action(context, refund, shown.history) for refund in shown.refunds},
    }


async def one(context: PageContext) -> Response:
    """The page."""
    return context.page("payment.html", **await facts(context, await read(context)), notice=context.query("done"))


async def live(context: PageContext) -> Response:
    """The part of the page that updates itself; empty while nothing has changed."""
    shown = await _without_history(context)
    if context.query("seen") == shown.version:
        return Response(status_code=204)
    shown = await _with_history(context, shown)
    return context.page("payment_part.html", **await facts(context, shown), notice="")


async def ask(context: PageContext) -> Response:
    """Read the status from the provider now."""
    payment = await context.services.reading.get(context.me.caller, context.id())
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            await context.services.reading.refresh(payment)
    except TimeoutError as error:
        raise ProviderUnavailable from error
    return redirect(f"{HOME}/payments/{payment.id}", done="asked")


async def replay(context: PageContext) -> Response:
    """Send every webhook of the payment again, except those sent since the page was made."""
    shown = await _without_history(context)
    asked_at = moment_of(context.form_value("asked_at"))
    replayed = await context.services.delivery_record.replay_subjects(
        context.me.caller, shown.subjects, skip_since=asked_at
    )
    return redirect(f"{HOME}/payments/{shown.payment.id}", done="replayed" if replayed else "replayed-before")


def _qr(link: str) -> str:
    """A link as a QR code, on white in dark mode too."""
    return str(segno.make(link, error="m", micro=False).svg_data_uri(scale=6, border=4, light="white"))


def _can_be_undone(history: list[AuditEntry], refund_id: object) -> bool:
    """Whether the last action of a person was to settle it by hand."""
    by_hand = [
        entry.operation_type
        for entry in history
        if entry.refund_id == refund_id
        and entry.reason is not None
        and entry.operation_type in {audit.SETTLE, audit.UNDO_SETTLE}
    ]
    return by_hand[-1:] == [audit.SETTLE]


def _refund_action(context: PageContext, refund: RefundLine, history: list[AuditEntry]) -> str | None:
    """The action that the person may take on a refund: ``settle`` or ``undo``; none for none."""
    if not context.me.may(Right.SETTLE):
        return None
    if refund.state == RefundState.UNKNOWN:
        return "settle"
    return "undo" if _can_be_undone(history, refund.id) else None
