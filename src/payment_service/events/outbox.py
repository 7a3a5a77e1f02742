"""Writing events, in the transaction of what they tell. Nothing leaves from here: the worker passes them on."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic_core import to_jsonable_python
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.events.models import Event
from payment_service.identifiers import new_id


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
