"""Polling: reads the status of open payments until they end; takes hints; marks payments with a dead sender unknown.

A payment is due for a reading when ``next_check_at`` has come; that column is the plan and, while a worker reads, the
end of its lease. Payments that are due together are claimed together, and planned together when nothing moved.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.observability.logs import begin
from payment_service.payments import queries
from payment_service.payments.lifecycle import OPEN, State, Step, decide
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves, alarm
from payment_service.payments.reading import step_of
from payment_service.postgres.database import Database, is_unreachable
from payment_service.providers.interface import Providers, Reading, StatusUnread, Unknown
from payment_service.scheduling.due import BatchWriter, Kind, wake
from payment_service.scheduling.sweeping import for_each_isolated

READING_LEASE_S = 20
"""How long a worker holds the lease of one payment; longer than a call to the provider can take."""
_CLAIM: Final = """
WITH busy AS (
  SELECT * FROM unnest($3::int[], $4::int[]) AS shop (shop_id, readings)
), due AS (
  -- More than are free, so that a shop whose share is full hides no other. From both ends: after a time without a
  -- worker the buyers of now do not wait behind all that was open then.
  (SELECT id, shop_id, next_check_at FROM payment
   WHERE next_check_at <= now() AND shop_id <> ALL (ARRAY(SELECT shop_id FROM busy WHERE readings >= $2::int))
   ORDER BY next_check_at LIMIT 4 * $1::int)
  UNION
  (SELECT id, shop_id, next_check_at FROM payment
   WHERE next_check_at <= now() AND shop_id <> ALL (ARRAY(SELECT shop_id FROM busy WHERE readings >= $2::int))
   ORDER BY next_check_at DESC LIMIT 4 * $1::int)
), ranked AS (
  SELECT id, shop_id, least(row_number() OVER (ORDER BY next_check_at, id),
                            row_number() OVER (ORDER BY next_check_at DESC, id DESC)) AS turn
  FROM due
), placed AS (
  SELECT id, turn, row_number() OVER (PARTITION BY shop_id ORDER BY turn) + coalesce(readings, 0) AS place
  FROM ranked LEFT JOIN busy USING (shop_id)
)
UPDATE payment SET next_check_at = now() + make_interval(secs => $5::float8), checks = checks + 1
WHERE id IN (
  SELECT payment.id FROM payment JOIN placed USING (id)
  WHERE next_check_at <= now() AND place <= $2::int
  ORDER BY turn, random() LIMIT $1::int FOR UPDATE OF payment SKIP LOCKED
)
RETURNING payment.*, now() AS claimed_at
"""
_PLAN: Final = """
UPDATE payment SET next_check_at = now() + make_interval(secs => stays.delay_s), unread = stays.unread
FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::float8[], $5::int[])
  AS stays (id, checks, lease_end, delay_s, unread)
WHERE payment.id = stays.id AND payment.checks = stays.checks AND coalesce(next_check_at, '-infinity') = lease_end
RETURNING payment.id
"""
"""Only while the lease of the claim holds: otherwise a hint, a move or another worker has planned anew."""
_BRING_FORWARD: Final = """
UPDATE payment SET next_check_at = now()
WHERE next_check_at > now() + make_interval(secs => $1::float8)
  AND (state || '' IN ('pending', 'unknown') OR next_check_at > now() + make_interval(secs => $2::float8))
RETURNING id
"""
_RESUME: Final = """
UPDATE payment SET next_check_at = now()
WHERE state IN ('pending', 'unknown') AND next_check_at IS NULL AND external_id IS NOT NULL AND same_as IS NULL
  AND moved_at > now() - make_interval(secs => $1::float8)
RETURNING id
"""
_NEXT: Final = "SELECT extract(epoch FROM min(next_check_at) - now())::float8 FROM payment WHERE next_check_at > now()"


@dataclass(frozen=True, slots=True)
class ClaimedPayment:
    """A payment that this worker has claimed until ``lease_end``, as it was then."""

    payment: Payment
    claimed_at: datetime
    """By the database's clock; ``clock`` is the same moment by this process's, in seconds."""
    clock: float
    lease_end: datetime

    @classmethod
    def of(cls, row: asyncpg.Record, clock: float) -> "ClaimedPayment":
        """A row that was claimed."""
        return cls(queries.of_row(row), row["claimed_at"], clock, row["next_check_at"])

    @property
    def now(self) -> datetime:
        """The present moment, by the database's clock."""
        return self.claimed_at + timedelta(seconds=time.monotonic() - self.clock)


@dataclass(slots=True)
class Polling:
    """Reads the status of payments that are due, of at most ``slots`` at once."""

    database: Database
    providers: Providers
    moves: Moves
    sending_lease_s: float
    slots: int
    kind: Kind = Kind.READINGS
    _under_way: Counter[int] = field(init=False, default_factory=Counter)
    """Readings by shop."""
    _plans: BatchWriter[ClaimedPayment] = field(init=False)

    def __post_init__(self) -> None:
        self._plans = BatchWriter(self._write_plans)

    # --- readings

    async def claim(self, at_most: int) -> list[ClaimedPayment]:
        """Claim due payments; of one shop at most half of the slots, so that a shop that hangs leaves the rest free."""
        clock = time.monotonic()
        shops, readings = list(self._under_way.keys()), list(self._under_way.values())
        share = max(self.slots // 2, 1)
        rows = await self.database.statements.fetch(_CLAIM, at_most, share, shops, readings, float(READING_LEASE_S))
        batch = [ClaimedPayment.of(row, clock) for row in rows]
        self._under_way.update(claimed.payment.shop_id for claimed in batch)
        return batch

    async def due_in_s(self) -> float | None:
        """How long until the next payment is due, in seconds."""
        row = await self.database.statements.fetchrow(_NEXT)
        return None if row is None else row[0]

    async def perform(self, claimed: ClaimedPayment) -> None:
        """Read the status of a payment, write what it says and plan the next reading."""
        payment = claimed.payment
        begin(payment_id=str(payment.id), shop_id=payment.shop_id)
        try:
            if payment.external_id is not None:
                reading = await self.providers[payment.provider].read_status(payment.external_id)
                await self._write_reading(claimed, payment.external_id, reading)
        finally:
            self._under_way -= Counter({payment.shop_id: 1})

    def repeated(self, _claimed: ClaimedPayment) -> None:
        """Nothing: a reading changes nothing at the provider."""

    async def _write_reading(self, claimed: ClaimedPayment, external_id: str, reading: Reading) -> None:
        payment, now = claimed.payment, claimed.now

        def decision(payment: Payment, now: datetime) -> Step | None:
            if payment.same_as is not None:
                return None  # merged meanwhile; the other payment is polled by itself
            return step_of(payment, external_id, reading, asked_at=claimed.claimed_at, now=now, plan=self.moves.plan)

        payment.unread = payment.unread + 1 if isinstance(reading, StatusUnread) else 0
        try:
            step = decision(payment, now)
            if step is None or _changes_nothing(payment, step):
                await self._plans.write(claimed)
            elif not await self.moves.write(payment, step, "status", now=now):
                payment, now = await queries.get(self.database, payment.id)
                payment.unread = 0
                await self.moves.apply(payment, now, decision, "status")
        except Exception as error:
            if not is_unreachable(error):
                # The lease ends and the next reading tries again, but may fail every time: a person must look.
                alarm("reading_not_written", claimed.payment.id, error=type(error).__name__)
            raise

    async def _write_plans(self, batch: Sequence[ClaimedPayment]) -> None:
        """Plan the next readings of payments whose last reading changed nothing."""
        delays = [self.moves.delay_s(claimed.payment, claimed.now) for claimed in batch]
        rows = await self.database.statements.fetch(
            _PLAN,
            [claimed.payment.id for claimed in batch],
            [claimed.payment.checks for claimed in batch],
            [claimed.lease_end for claimed in batch],
            delays,
            [claimed.payment.unread for claimed in batch],
        )
        planned = {row["id"] for row in rows}
        for payment, delay_s in zip([claimed.payment for claimed in batch], delays, strict=True):
            if delay_s is None and payment.id in planned and payment.state in OPEN:
                alarm("still_open", payment.id, state=payment.state)

    # --- hints

    async def hint(self, provider: str, external_id: str, *, shop_id: int | None = None) -> None:
        """Make a payment due at once, if it is known (in that shop) and not paid.

        A cancelled one too: it does not move, but if the provider reports it as paid, an alarm is raised.
        """
        async with self.database.transaction() as session:
            payment = await queries.by_external_id(session, provider, external_id)
            if payment is None or shop_id not in {None, payment.shop_id}:
                return
            payment, now = await queries.locked_resolved(session, payment.id)
            if payment.state != State.PAID:
                payment.next_check_at = now
                wake(session, Kind.READINGS)

    # --- repairs

    async def bring_forward(self) -> int:
        """Make due now what is planned later than any plan or lease allows; returns how many payments.

        Also open ones that have no plan and are too young for that: while the database's clock was ahead they looked
        too old to be read any longer.
        """
        plan, statements = self.moves.plan, self.database.statements
        longest = [READING_LEASE_S + plan.longest_s(is_open=is_open) for is_open in (True, False)]
        late = await statements.fetch(_BRING_FORWARD, *longest)
        given_up = await statements.fetch(_RESUME, float(plan.follow_for_s))
        return len(late) + len(given_up)

    async def mark_lost_unknown(self) -> int:
        """Make payments unknown whose sender must have died; returns how many. Not failed: they may have been sent."""
        async with self.database.reading() as session:
            lost = await queries.stuck_in_sending(session, self.sending_lease_s)
        return await for_each_isolated(lost, self._mark_unknown, alarm="payment_not_settled")

    async def _mark_unknown(self, payment_id: UUID) -> None:
        payment, now = await queries.get(self.database, payment_id)
        await self.moves.apply(payment, now, sender_died, "settle")


async def readings_due_since(session: AsyncSession) -> datetime | None:
    """When the oldest due reading became due; none when none is due."""
    due = Payment.next_check_at <= func.now()
    return await session.scalar(select(func.min(Payment.next_check_at)).where(due))


def _changes_nothing(payment: Payment, step: Step) -> bool:
    """Whether a step leaves a payment as it is."""
    known = (payment.state, payment.status, payment.error_seen_at)
    return (step.state, step.status or payment.status, step.error_seen_at) == known


def sender_died(payment: Payment, _now: datetime) -> Step | None:
    """The step for a payment whose sender must have died. Never failed: it may have been sent."""
    return decide(State.SENDING, Unknown("sender_died")) if payment.state == State.SENDING else None
