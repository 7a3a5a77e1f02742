"""The audit entries and events of payments and refunds.

An entry has the shop, the account, the provider with its id and status word, and the amount in tiyn (a refund's own).
The entry of a move has the state after it as well; an entry without a move has none, unless a payment begins with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.events.outbox import EVENT_WRITTEN, EventType, announcement
from payment_service.identifiers import new_id
from payment_service.observability.context import origin
from payment_service.payments.models import Payment
from payment_service.postgres.database import FOREVER, Database, retry_until_written
from payment_service.postgres.signals import after_commit

_FACTS: Final = ("shop_id", "organization_bin", "external_id", "status", "provider")


async def add_entry(session: AsyncSession, payment: Payment, operation_type: str, **facts: Any) -> None:
    """Add an entry without a move; ``facts`` add to those of the payment, or replace them."""
    known = {name: getattr(payment, name) for name in _FACTS}
    known |= {"amount": payment.amount, "payment_id": payment.id}
    await audit.record(session, operation_type, **known | facts)


async def record_other_id(
    database: Database, payment: Payment, operation_type: str, message: str, **facts: Any
) -> None:
    """Record that a reply named an id which its payment or refund does not have; retry until it is written."""

    async def keep() -> None:
        async with database.transaction() as session:
            await add_entry(session, payment, operation_type, error_message=message, **facts)

    await retry_until_written(keep, while_unreachable_s=FOREVER)


def recorded(first: int, data: str) -> str:
    """The SQL of the audit entry and the events of ``moved``, whose ``changed`` says whether its state did.

    Takes the parameters of ``Recorded`` from ``first`` on. Into the data of the events it merges ``data`` (SQL), which
    only the database knows. ``moved`` has the columns id, payment_id, refund_id, version, shop_id, organization_bin,
    external_id, status, state, error_message, provider and changed.
    """
    operation, actor, request, reason, ids, types, subject, known, amount = (f"${first + n}" for n in range(9))
    facts = ", ".join((*_FACTS, "state", "error_message", "payment_id", "refund_id"))
    return f"""
logged AS (
  INSERT INTO payment_log ({facts}, amount, operation_type, actor, source, request_id, reason)
  SELECT {facts}, {amount}::bigint, {operation}::text, {actor}::text, 'service', {request}::text, {reason}::text
  FROM moved WHERE changed
), announced AS (
  INSERT INTO event (id, type, subject, subject_id, version, shop_id, data)
  SELECT event.id, event.type, {subject}::text, moved.id, moved.version, moved.shop_id, {known}::jsonb || {data}
  FROM moved, unnest({ids}::uuid[], {types}::text[]) AS event (id, type) WHERE moved.changed
)"""  # noqa: S608 - our own words


class Recorded(NamedTuple):
    """The parameters of ``recorded``, in their order."""

    operation_type: str
    actor: str
    request_id: str | None
    reason: str | None
    event_ids: list[UUID]
    event_types: list[EventType]
    subject: str
    data: str
    """What the events carry, as JSON."""
    amount: int | None
    """In tiyn."""


def record_of(
    operation_type: str, reason: str | None, types: Sequence[EventType], subject: str, data: str, amount: int | None
) -> Recorded:
    """What to record of a move, by the caller of this context."""
    who = origin.get()
    ids = [new_id() for _ in types]
    return Recorded(operation_type, who.actor, who.request_id, reason, ids, list(types), subject, data, amount)


@dataclass(frozen=True, slots=True)
class Announcer:
    """Notifies other processes of what was written: at once, or when the session's transaction is committed."""

    database: Database
    session: AsyncSession | None = None

    def send(self, channel: str, payload: str) -> None:
        """Send a signal on a channel."""
        if self.session is None:
            self.database.signals.send(channel, payload)
        else:
            after_commit(self.session, channel, payload)

    def events(self, recorded: Recorded, subject_id: UUID, shop_id: int) -> None:
        """Announce the events of a move."""
        for event_id, kind in zip(recorded.event_ids, recorded.event_types, strict=True):
            self.send(EVENT_WRITTEN, announcement(event_id, kind, str(subject_id), shop_id))
