"""The one way in which a payment changes: the move, its audit entry, its event and the next job, in one transaction."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import MOVES
from payment_service.payments import views as shown
from payment_service.payments.lifecycle import OPEN, Failure, FollowPlan, Standing, State, Step, move_to
from payment_service.payments.models import Payment
from payment_service.postgres.queue import FOLLOW_PAYMENT, enqueue
from payment_service.providers.interface import Meaning, Providers

_EVENT_OF_STATE: Final = {
    State.PENDING: EventType.PAYMENT_PENDING,
    State.PAID: EventType.PAYMENT_PAID,
    State.FAILED: EventType.PAYMENT_FAILED,
    State.CANCELLED: EventType.PAYMENT_CANCELLED,
    State.UNKNOWN: EventType.PAYMENT_UNKNOWN,
}
_EVENTS_OF_MOVE: Final = {(State.FAILED, State.PAID): (EventType.PAYMENT_PAID, EventType.PAYMENT_LATE_SUCCESS)}
"""A payment that is paid late is paid, and somebody was told that it failed."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Moves:
    """Writes moves of payments, by the plan of following them."""

    providers: Providers
    plan: FollowPlan

    async def write(
        self,
        session: AsyncSession,
        payment: Payment,
        step: Step | None,
        operation_type: str,
        *,
        now: datetime,
        reason: str | None = None,
    ) -> None:
        """Write a step under the payment's row lock, and plan the next reading. ``now`` is the transaction's time.

        A step that moves nothing leaves no audit entry; no step at all only plans.
        """
        if step is not None:
            await self._move(session, payment, step, operation_type, reason)
        await self._plan(session, payment, now)

    async def write_in_passing(
        self, session: AsyncSession, payment: Payment, step: Step, operation_type: str, *, now: datetime
    ) -> None:
        """Write a step that nobody had planned. Unless it moves, the plan stays: the worker's turn is still to come."""
        if await self._move(session, payment, step, operation_type):
            await self._plan(session, payment, now)

    async def _move(
        self, session: AsyncSession, payment: Payment, step: Step, operation_type: str, reason: str | None = None
    ) -> bool:
        before = payment.state
        moved = move_to(payment, step)
        if moved:
            await _record(session, payment, before, operation_type, reason)
        return moved

    async def _plan(self, session: AsyncSession, payment: Payment, now: datetime) -> None:
        delay_s = self._delay(payment, now)
        if delay_s is None:
            payment.next_check_at = None
            if payment.state in OPEN and payment.checks:
                alarm("still_open", payment.id, state=payment.state)
            return
        payment.next_check_at = now + timedelta(seconds=delay_s)
        await session.flush()
        key = f"{payment.id}:{payment.next_check_at.timestamp()}"
        await enqueue(session, FOLLOW_PAYMENT, payment.id, key=key, delay_s=delay_s)

    def _delay(self, payment: Payment, now: datetime) -> float | None:
        if payment.external_id is None:
            return None
        # The provider's last word may be an end that the state does not show yet.
        last_word = self.providers[payment.provider].meaning_of(payment.status)
        delay_s = self.plan.next_check(
            Standing(
                state=State(payment.state),
                failure=Failure(payment.failure) if payment.failure else None,
                age_s=(now - payment.created_at).total_seconds(),
                in_state_s=(now - payment.moved_at).total_seconds(),
                asked=payment.checks > 0,
                unread=payment.unread,
                error_seen=payment.error_seen_at is not None,
                status_is_final=last_word in {Meaning.PAID, Meaning.CANCELLED},
            )
        )
        if delay_s and payment.unread:
            # Jitter: what could not be asked about together must not come back together.
            delay_s *= random.uniform(1, 1.5)  # noqa: S311 - not a secret
        return delay_s


async def _record(
    session: AsyncSession, payment: Payment, before: str, operation_type: str, reason: str | None
) -> None:
    await session.flush()  # the database stamps when it moved
    await audit.record(
        session,
        operation_type,
        shop_id=payment.shop_id,
        organization_bin=payment.organization_bin,
        external_id=payment.external_id,
        amount=payment.amount,
        status=payment.status,
        state=payment.state,
        error_message=payment.error_message,
        provider=payment.provider,
        payment_id=payment.id,
        reason=reason,
    )
    for kind in _EVENTS_OF_MOVE.get((State(before), State(payment.state)), (_EVENT_OF_STATE[State(payment.state)],)):
        outbox.write(
            session,
            kind,
            payment.id,
            version=payment.version,
            shop_id=payment.shop_id,
            data=shown.line(payment),
        )
    MOVES.labels(object="payment", before=before, after=payment.state).inc()
    log.info(
        "payment moved",
        payment_id=str(payment.id),
        shop_id=payment.shop_id,
        before=before,
        after=payment.state,
        failure=payment.failure,
    )
    if payment.state == State.UNKNOWN:
        alarm("payment_unknown", payment.id, short_code=payment.short_code)


def alarm(name: str, payment_id: UUID, **facts: str | None) -> None:
    """Something about a payment that people must look at."""
    metrics.alarm(log, name, payment_id=str(payment_id), **facts)
