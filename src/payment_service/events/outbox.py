"""Writing events, in the transaction of what they describe. The worker passes them on (``relay``).

Waiting clients are notified of an event (``EVENT_WRITTEN``) after that transaction has committed.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import ARRAY, ColumnElement, Uuid, all_, and_, case, literal, select, true
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.errors import InvalidInput
from payment_service.events.models import Event
from payment_service.identifiers import new_id
from payment_service.postgres.signals import after_commit
from payment_service.postgres.visibility import ALL_SHOPS, Shops, of_seller_today, of_shops

_PAYMENT_BIN: Final = case(
    (Event.subject == "payment", Event.data["organization_bin"].astext),
    (Event.subject == "refund", Event.data[("payment", "organization_bin")].astext),
)
"""The BIN of the payment that an event is about; null for any other event."""
EVENT_WRITTEN: Final = "event_written"
"""The channel on which each event is announced, after it was committed."""


class EventType(StrEnum):
    """The types of events. The database holds the same list."""

    PAYMENT_PENDING = "payment.pending"
    PAYMENT_PAID = "payment.paid"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_CANCELLED = "payment.cancelled"
    PAYMENT_UNKNOWN = "payment.unknown"
    PAYMENT_LATE_SUCCESS = "payment.late_success"
    REFUND_SUCCEEDED = "refund.succeeded"
    REFUND_FAILED = "refund.failed"
    REFUND_UNKNOWN = "refund.unknown"
    ROUTE_PROPOSED = "route.proposed"
    ROUTE_REFUSED = "route.refused"
    ROUTE_CHANGED = "route.changed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_RECOVERED = "endpoint.recovered"
    TEST = "test"


SUBSCRIBABLE: Final = tuple(kind for kind in EventType if kind is not EventType.TEST)
"""What programs and people can be notified of; a test event goes to the one endpoint that it tests."""


def checked_types(types: Collection[str], *, otherwise: str = "") -> list[EventType]:
    """Types that can be subscribed to, each once, in the order of the list.

    Raises:
        InvalidInput: for any other, or none. ``otherwise`` ends its sentence.
    """
    if not types or not set(types) <= set(SUBSCRIBABLE):
        raise InvalidInput("events", f"are one or more of {', '.join(SUBSCRIBABLE)}{otherwise}")
    return [kind for kind in SUBSCRIBABLE if kind in types]


def write(
    session: AsyncSession,
    kind: EventType,
    subject_id: UUID | int | str,
    *,
    version: int,
    shop_id: int | None,
    data: Mapping[str, Any],
) -> Event:
    """Add an event, in the caller's transaction, and announce it when that is committed.

    ``data`` is the subject as ``GET`` shows it.
    """
    event = Event(
        id=new_id(),
        type=kind,
        subject=kind.partition(".")[0],
        subject_id=str(subject_id),
        version=version,
        shop_id=shop_id,
        data=to_jsonable_python(data),
    )
    session.add(event)
    after_commit(session, EVENT_WRITTEN, announcement(event.id, kind, event.subject_id, shop_id))
    return event


def announcement(event_id: UUID, kind: str, subject_id: str, shop_id: int | None) -> str:
    """The payload of ``EVENT_WRITTEN``: what is needed to decide who may see the event."""
    return json.dumps({"id": str(event_id), "type": kind, "subject_id": subject_id, "shop_id": shop_id})


def body(event: Event) -> dict[str, Any]:
    """An event as it is sent, in webhooks and in the stream of events."""
    return {
        "id": str(event.id),
        "type": event.type,
        "timestamp": to_jsonable_python(event.created_at),
        "version": event.version,
        "data": event.data,
    }


def payment_of(event: Event) -> str | None:
    """The id of the payment that an event is about; none for any other event."""
    found: str | None
    match event.type.partition(".")[0]:
        case "payment":
            found = event.data.get("id")
        case "refund":
            found = event.data.get("payment", {}).get("id")
        case _:
            found = None
    return found


def visible_to(shops: Shops) -> ColumnElement[bool]:
    """The condition that an event is of these shops, and not about the money of an earlier owner of one."""
    return true() if shops is ALL_SHOPS else and_(of_shops(Event.shop_id, shops), is_of_seller_today())


def is_of_seller_today() -> ColumnElement[bool]:
    """The condition that an event is not about the money of an earlier owner of its shop."""
    return of_seller_today(Event.shop_id, _PAYMENT_BIN)


async def of_sellers_today(session: AsyncSession, events: Iterable[Event]) -> set[UUID]:
    """Which of these events, by id, are not about the money of an earlier owner of their shop."""
    theirs = Event.id.in_([one.id for one in events]), is_of_seller_today()
    return set(await session.scalars(select(Event.id).where(*theirs)))


async def since(
    session: AsyncSession, shops: Shops, moment: datetime, *, excluding: Collection[str], limit: int
) -> Sequence[Event]:
    """Events of payments and refunds written at this moment or later, except those with these ids, oldest first.

    ``shops`` are those of a caller: a set, which may be empty, or ``ALL_SHOPS``.
    """
    query = (
        select(Event)
        .where(Event.created_at >= moment, Event.subject.in_(("payment", "refund")))
        .where(visible_to(shops))
        .where(Event.id != all_(literal(list(excluding), ARRAY(Uuid(as_uuid=False)))))
        .order_by(Event.created_at, Event.id)
        .limit(limit)
    )
    return (await session.scalars(query)).all()
