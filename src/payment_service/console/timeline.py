"""The timeline of a payment: request, answers, moves, refunds, actions of people, deliveries, messages."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from payment_service.audit import service as audit
from payment_service.audit.models import AuditEntry
from payment_service.console.payment_status import Tone
from payment_service.languages import mark
from payment_service.notifications.models import MessageState
from payment_service.notifications.record import MessageDetails
from payment_service.payments.lifecycle import State
from payment_service.payments.views import JsonTenge, PaymentLine, tenge
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.views import RefundLine
from payment_service.webhooks.endpoints import host_of
from payment_service.webhooks.record import EndpointDelivery

_MACHINES: Final = frozenset({"anonymous", "service", "worker"})
_OF_PAYMENT: Final[Mapping[str, tuple[Tone, str]]] = {
    State.SENDING: ("wait", mark("Being sent")),
    State.PENDING: ("wait", mark("Kaspi took the invoice on")),
    State.PAID: ("good", mark("Kaspi says: paid")),
    State.FAILED: ("bad", mark("Failed")),
    State.CANCELLED: ("quiet", mark("Cancelled")),
    State.UNKNOWN: ("warn", mark("Outcome unknown")),
}
_OF_REFUND: Final[Mapping[str, tuple[Tone, str]]] = {
    RefundState.SENDING: ("wait", mark("Refund asked for")),
    RefundState.SUCCEEDED: ("good", mark("Refunded")),
    RefundState.FAILED: ("bad", mark("Refund failed")),
    RefundState.UNKNOWN: ("warn", mark("Refund: outcome unknown")),
}
_BY_HAND: Final[Mapping[str, str]] = {
    audit.SETTLE: mark("Settled by hand"),
    audit.UNDO_SETTLE: mark("Settlement undone"),
    "merge": mark("Merged"),
    "unmerge": mark("No longer merged"),
}
_OF_DELIVERY: Final[Mapping[str, tuple[Tone, str]]] = {
    "waiting": ("wait", mark("Webhook waits to be delivered")),
    "delivered": ("quiet", mark("Webhook delivered")),
    "dead": ("bad", mark("Webhook given up")),
}
_OF_MESSAGE: Final[Mapping[str, tuple[Tone, str]]] = {
    MessageState.WAITING: ("wait", mark("Message waits to be sent")),
    MessageState.FAILED: ("warn", mark("Message not sent yet")),
    MessageState.SENT: ("quiet", mark("Message sent")),
    MessageState.DEAD: ("bad", mark("Message given up")),
}
OURS: Final = (
    mark("Nothing was sent to the provider."),
    mark("The provider says that the payment failed, was refused or expired."),
    mark("A person found that it was never made."),
    mark("The settlement by hand was undone."),
    mark("Outcome unknown: timeout."),
    mark("Outcome unknown: sender_died."),
    mark("Outcome unknown: connection_broken."),
)
"""Sentences of the audit log that are ours and not the provider's: they are translated."""
_ASKED: Final = mark("Invoice asked for")
_REPORTED: Final = mark("Reported by a client")


@dataclass(frozen=True, slots=True)
class TimelineItem:
    """One item. ``title`` is a text of the catalogues, ``details`` are texts of others."""

    at: datetime
    tone: Tone
    title: str
    amount: JsonTenge | None = None
    who: str | None = None
    """A person or a client; none for the service itself."""
    details: tuple[str, ...] = ()
    reason: str | None = None
    tries: int = 0
    """How often a delivery or message was tried."""
    link: str | None = None
    """A page of the console with more about it."""


def timeline(
    payment: PaymentLine,
    caller: str,
    refunds: Sequence[RefundLine],
    entries: Iterable[AuditEntry],
    delivered: Iterable[EndpointDelivery] = (),
    messages: Iterable[MessageDetails] = (),
) -> list[TimelineItem]:
    """The items of a payment, and who was notified, newest first."""
    asked = TimelineItem(
        payment.created_at or payment.moved_at,
        "quiet",
        _ASKED if payment.source == "service" else _REPORTED,
        payment.amount,
        caller,
        (payment.message,) if payment.message else (),
    )
    items = [asked, *_of_entries(entries, refunds), *map(_of_delivery, delivered), *map(_of_message, messages)]
    # A request comes before its answer, also when both have the same time.
    return sorted(items, key=lambda one: one.at)[::-1]


def _of_entries(entries: Iterable[AuditEntry], refunds: Sequence[RefundLine]) -> Iterator[TimelineItem]:
    """The entries, before the first one of a refund its request; then the requests of refunds without an entry."""
    waiting = {refund.id: refund for refund in refunds}
    for entry in entries:
        refund = waiting.pop(entry.refund_id, None) if entry.refund_id else None
        if refund is not None:
            is_asked = entry.operation_type == "refund"
            yield TimelineItem(
                refund.created_at,
                *_OF_REFUND[RefundState.SENDING],
                refund.amount,
                _who(entry) if is_asked else None,
                reason=entry.reason if is_asked else None,
            )
        yield _of_entry(entry)
    for refund in waiting.values():
        yield TimelineItem(refund.created_at, *_OF_REFUND[RefundState.SENDING], refund.amount)


def _of_entry(entry: AuditEntry) -> TimelineItem:
    words = _OF_REFUND if entry.refund_id else _OF_PAYMENT
    tone, title = words.get(entry.state or "", ("quiet", entry.operation_type))
    # Settling a payment whose sender died first makes it unknown, in an entry without a reason.
    is_by_hand = entry.operation_type in _BY_HAND and (entry.operation_type != audit.SETTLE or entry.reason is not None)
    if is_by_hand:
        title = _BY_HAND[entry.operation_type]
    texts = (entry.status, entry.error_message)
    return TimelineItem(
        entry.created_at,
        tone,
        title,
        tenge(entry.amount) if entry.refund_id else None,
        _who(entry) if is_by_hand or entry.source == "client" else None,
        tuple(dict.fromkeys(text for text in texts if text)),
        entry.reason if is_by_hand else None,
    )


def _of_delivery(one: EndpointDelivery) -> TimelineItem:
    delivery = one.delivery
    tone, title = _OF_DELIVERY.get(delivery.state, ("quiet", delivery.state))
    return TimelineItem(
        delivery.ended_at or delivery.created_at,
        tone,
        title,
        details=(f"{delivery.type} → {host_of(one.endpoint)}",),
        tries=delivery.tries,
        link=f"/console/deliveries/{delivery.id}",
    )


def _of_message(one: MessageDetails) -> TimelineItem:
    message = one.message
    tone, title = _OF_MESSAGE.get(message.state, ("quiet", message.state))
    return TimelineItem(
        message.sent_at or message.tried_at or message.created_at,
        tone,
        title,
        details=tuple(filter(None, (f"{one.event.type} → {one.chat.address}", message.reason))),
        tries=message.tries,
    )


def _who(entry: AuditEntry) -> str | None:
    return None if entry.actor in _MACHINES else entry.actor
