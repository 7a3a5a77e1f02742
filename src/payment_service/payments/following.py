"""What became of a payment: asked by callers, followed by workers, swept up when a process died.

Joins the river at the provider's line: a reading becomes a step, and the step is written like any other.
"""

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, update

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import PaymentNotFound, ProviderRefused, ProviderUnavailable
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import READINGS
from payment_service.payments import queries
from payment_service.payments.lifecycle import State, Step, decide, decide_reading
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves, alarm
from payment_service.payments.readings import SharedReadings
from payment_service.postgres.database import Database, is_unreachable
from payment_service.postgres.queue import FOLLOW_PAYMENT, enqueue
from payment_service.providers.interface import (
    Meaning,
    NoSuchPayment,
    Providers,
    Reading,
    StatusRead,
    StatusUnread,
    Unknown,
)
from payment_service.scheduling.sweeping import each_alone

READING_LEASE_S = 20
"""How long a worker owns the asking of one payment; longer than one call to the provider can take."""
_ENDED = frozenset({State.PAID, State.CANCELLED})
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stranger:
    """A payment that this service never made, as the provider tells of it."""

    external_id: str
    status: str
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class Following:
    """Learns what became of payments."""

    database: Database
    providers: Providers
    moves: Moves
    sending_lease_s: float
    readings: SharedReadings = field(default_factory=SharedReadings)

    # --- asked by callers

    async def get(self, caller: Caller, payment_id: UUID) -> Payment:
        """One payment by our id.

        Raises:
            PaymentNotFound: when there is none that the caller may see.
        """
        async with self.database.reading() as session:
            payment = await session.get(Payment, payment_id)
        if payment is None or not caller.may_touch(payment.shop_id):
            raise PaymentNotFound(payment_id)
        return payment

    async def status(self, caller: Caller, external_id: str) -> Payment | Stranger:
        """Where a payment stands now. One that may still move is asked about; one we never made, too.

        Raises:
            PaymentNotFound: when neither we nor the provider know it, or the caller may not see it.
            ProviderUnavailable, ProviderRefused: when a payment that is not ours cannot be asked about.
        """
        async with self.database.reading() as session:
            payment = await queries.by_external_id(session, external_id)
        if payment is None:
            return await self._ask_about_stranger(caller, external_id)
        if not caller.may_touch(payment.shop_id):
            raise PaymentNotFound(external_id)
        return await self.refresh(payment)

    async def refresh(self, payment: Payment) -> Payment:
        """Ask the provider about a payment that may still move; an error while asking changes nothing."""
        if payment.external_id is None or payment.state in _ENDED:
            return payment
        reading, asked_at = await self.readings.read(self.providers[payment.provider], payment.external_id)
        async with self.database.transaction() as session:
            payment, now = await queries.locked_itself(session, payment.id)
            asked_ago = timedelta(seconds=time.monotonic() - asked_at)
            step = self._step(payment, reading, now - asked_ago, now)
            if step is not None:
                await self.moves.write_in_passing(session, payment, step, "status", now=now)
        return payment

    # --- followed by workers

    async def follow(self, payment_id: UUID) -> None:
        """A worker's turn: ask about an open payment and plan the next time. Does nothing out of turn."""
        turn = await self._take_turn(payment_id)
        if turn is None:
            return
        payment, asked_at = turn
        if payment.external_id is None:
            return
        reading = await self.providers[payment.provider].read_status(payment.external_id)
        try:
            await self._write_reading(payment_id, reading, asked_at)
        except Exception as error:
            if not is_unreachable(error):
                # The lease ends and the next turn tries again, perhaps in vain for good: people must look.
                alarm("reading_not_written", payment_id, error=type(error).__name__)
            raise

    async def _write_reading(self, payment_id: UUID, reading: Reading, asked_at: datetime) -> None:
        async with self.database.transaction() as session:
            payment, now = await queries.locked(session, payment_id)
            if payment.same_as is not None:
                return  # merged meanwhile, and the payment that it is of has turns of its own
            payment.unread = payment.unread + 1 if isinstance(reading, StatusUnread) else 0
            step = self._step(payment, reading, asked_at, now)
            await self.moves.write(session, payment, step, "status", now=now)

    async def _take_turn(self, payment_id: UUID) -> tuple[Payment, datetime] | None:
        """Own the asking of a payment for a while, from this moment: of several workers, or of a repeated job, one."""
        turn = (
            update(Payment)
            .where(Payment.id == payment_id, Payment.next_check_at <= func.now())
            .values(next_check_at=func.now() + timedelta(seconds=READING_LEASE_S), checks=Payment.checks + 1)
            .returning(Payment, func.now())
        )
        async with self.database.transaction() as session:
            row = (await session.execute(turn)).one_or_none()
        return None if row is None else (row[0], row[1])

    async def _ask_about_stranger(self, caller: Caller, external_id: str) -> Stranger:
        if caller.shops is not None:
            # Nobody can tell whose it is, so for a caller of some shops it looks like any foreign payment.
            raise PaymentNotFound(external_id)
        [(name, provider)] = self.providers.items()
        reading, _ = await self.readings.read(provider, external_id)
        async with self.database.transaction() as session:
            await audit.record(
                session,
                "status",
                external_id=external_id,
                status=reading.status if isinstance(reading, StatusRead) else None,
                error_message=None if isinstance(reading, StatusRead) else _problem_of(reading),
                provider=name,
            )
        match reading:
            case StatusRead(status, meaning):
                return Stranger(external_id, status, meaning)
            case NoSuchPayment():
                raise PaymentNotFound(external_id)
            case StatusUnread(refused_by_proxy=True):
                raise ProviderRefused
            case StatusUnread():
                raise ProviderUnavailable

    def _step(self, payment: Payment, reading: Reading, asked_at: datetime, now: datetime) -> Step | None:
        """What a reading makes of a payment; none when nothing was read."""
        if not isinstance(reading, StatusRead):
            READINGS.labels(meaning=type(reading).__name__).inc()
            log.info("status not read", payment_id=str(payment.id), reason=_problem_of(reading))
            return None
        READINGS.labels(meaning=reading.meaning).inc()
        if reading.meaning is Meaning.UNHEARD_OF:
            alarm("unheard_of_status", payment.id, status=reading.status)
        step = decide_reading(
            State(payment.state),
            reading,
            error_seen_at=payment.error_seen_at,
            asked_at=asked_at,
            now=now,
            confirm_after=timedelta(seconds=self.moves.plan.confirm_s),
        )
        if (payment.state, step.state) == (State.FAILED, State.PAID):
            alarm("late_success", payment.id)
        return step

    async def hint(self, external_id: str, *, shop_id: int | None = None) -> None:
        """Somebody saw a change: ask about this payment at once, if we know it (of that shop) and it may move."""
        async with self.database.transaction() as session:
            payment = await queries.by_external_id(session, external_id)
            if payment is None or shop_id not in {None, payment.shop_id}:
                return
            payment, now = await queries.locked_itself(session, payment.id)
            if payment.state not in _ENDED:
                payment.next_check_at = now
                await session.flush()
                key = f"{payment.id}:{payment.checks}:hint"
                await enqueue(session, FOLLOW_PAYMENT, payment.id, key=key)

    # --- swept up

    async def settle_lost(self) -> int:
        """Make payments unknown whose sender must have died; returns how many. Never failed: it may have been sent."""
        async with self.database.reading() as session:
            lost = await queries.stuck_in_sending(session, self.sending_lease_s)
        return await each_alone(lost, self._give_up, alarm="payment_not_settled")

    async def _give_up(self, payment_id: UUID) -> None:
        async with self.database.transaction() as session:
            payment, now = await queries.locked(session, payment_id)
            if payment.state == State.SENDING:
                step = decide(State.SENDING, Unknown("sender_died"))
                await self.moves.write(session, payment, step, "settle", now=now)

    async def wake_overdue(self) -> int:
        """Put payments back into the queue whose job was lost; returns how many."""
        async with self.database.transaction() as session:
            late = await queries.overdue(session, READING_LEASE_S)
            for payment_id, checks in late:
                await enqueue(session, FOLLOW_PAYMENT, payment_id, key=f"{payment_id}:{checks}:overdue")
        return len(late)


def _problem_of(reading: NoSuchPayment | StatusUnread) -> str:
    return f"{reading.code}: {reading.message}" if isinstance(reading, NoSuchPayment) else reading.reason
