"""Workers that follow payments until they end, hints that somebody saw a change, and what a sweep finds."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import func, update

from payment_service.observability.logs import get_logger
from payment_service.payments import queries
from payment_service.payments.lifecycle import State, decide
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves, alarm
from payment_service.payments.reading import ENDED, step_of
from payment_service.postgres.database import Database, is_unreachable
from payment_service.postgres.queue import FOLLOW_PAYMENT, enqueue
from payment_service.providers.interface import Providers, Reading, StatusUnread, Unknown
from payment_service.scheduling.sweeping import each_alone

READING_LEASE_S = 20
"""How long a worker owns the asking of one payment; longer than one call to the provider can take."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Polling:
    """Follows payments until they end."""

    database: Database
    providers: Providers
    moves: Moves
    sending_lease_s: float

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
            step = step_of(payment, reading, asked_at=asked_at, now=now, plan=self.moves.plan)
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

    async def hint(self, external_id: str, *, shop_id: int | None = None) -> None:
        """Somebody saw a change: ask about this payment at once, if we know it (of that shop) and it may move."""
        async with self.database.transaction() as session:
            payment = await queries.by_external_id(session, external_id)
            if payment is None or shop_id not in {None, payment.shop_id}:
                return
            payment, now = await queries.locked_itself(session, payment.id)
            if payment.state not in ENDED:
                payment.next_check_at = now
                await session.flush()
                key = f"{payment.id}:{payment.checks}:hint"
                await enqueue(session, FOLLOW_PAYMENT, payment.id, key=key)

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
