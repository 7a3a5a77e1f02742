"""Writing events, in the transaction of what they tell. Nothing leaves from here: the worker passes them on."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy import ARRAY, Uuid, all_, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.events.models import Event
from payment_service.identifiers import new_id
from payment_service.postgres.visibility import Shops, of_shops


class EventType(StrEnum):
    """What can happen. The database holds the same list."""

    PAYMENT_PENDING = "payment.pending"
    PAYMENT_PAID = "payment.paid"
    PAYMENT_FAILED = "payment.failed"
    PAYMENT_CANCELLED = "payment.cancelled"
    PAYMENT_UNKNOWN = "payment.unknown"
    PAYMENT_LATE_SUCCESS = "payment.late_success"
    REFUND_SUCCEEDED = "refund.succeeded"
    REFUND_FAILED = "refund.failed"
    REFUND_UNKNOWN = "refund.unknown"
    ROUTE_CHANGED = "route.changed"
    ENDPOINT_DISABLED = "endpoint.disabled"
    ENDPOINT_RECOVERED = "endpoint.recovered"
    TEST = "test"


def write(
    session: AsyncSession,
    kind: EventType,
    subject_id: UUID | int | str,
    *,
    version: int,
    shop_id: int | None,
    data: Mapping[str, Any],
) -> Event:
    """Add an event, in the caller's transaction. ``data`` is the subject as ``GET`` shows it."""
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
    return event


def body(event: Event) -> dict[str, Any]:
    """An event as it leaves: in webhooks and in the stream of events."""
    return {
        "id": str(event.id),
        "type": event.type,
        "timestamp": to_jsonable_python(event.created_at),
        "version": event.version,
        "data": event.data,
    }


async def since(
    session: AsyncSession, shops: Shops, moment: datetime, *, besides: Collection[UUID], limit: int
) -> Sequence[Event]:
    """Events of payments and refunds of these shops written at this moment or later, besides these, oldest first."""
    query = (
        select(Event)
        .where(Event.created_at >= moment, Event.subject.in_(("payment", "refund")))
        .where(of_shops(Event.shop_id, shops))
        .where(Event.id != all_(literal(list(besides), ARRAY(Uuid))))
        .order_by(Event.created_at, Event.id)
        .limit(limit)
    )
    return (await session.scalars(query)).all()
