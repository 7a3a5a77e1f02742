"""The one way in which a payment changes: the move, its audit entry and the next job, in the caller's transaction."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.logs import get_logger
from payment_service.metrics import ALARMS, MOVES
from payment_service.payments.lifecycle import OPEN, FollowPlan, State, Step, move_to
from payment_service.payments.models import Payment
from payment_service.providers.interface import Meaning, Providers
from payment_service.queue import FOLLOW_PAYMENT, enqueue

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Moves:
    """Writes moves of payments, by the plan of following them."""

    providers: Providers
    plan: FollowPlan

    async def write(
        self, session: AsyncSession, payment: Payment, step: Step | None, operation_type: str, *, now: datetime
    ) -> None:
        """Write a step under the payment's row lock, and plan the next reading. ``now`` is the transaction's time.

        A step that moves nothing leaves no audit entry; no step at all only plans.
        """
        before = payment.state
        moved = step is not None and move_to(payment, step)
        delay_s = self._plan_next(payment, now)
        if moved:
            await _record(session, payment, before, operation_type)
        if delay_s is not None:
            await session.flush()
            key = f"{payment.id}:{payment.checks}"
            await enqueue(session, FOLLOW_PAYMENT, payment.id, key=key, delay_s=delay_s)

    async def write_in_passing(self, session: AsyncSession, payment: Payment, step: Step, operation_type: str) -> None:
        """Write a step and leave the plan alone: somebody asked out of turn, and the worker's turn is still to come."""
        before = payment.state
        if move_to(payment, step):
            if payment.state not in OPEN:
                payment.next_check_at = None
            await _record(session, payment, before, operation_type)

    def _plan_next(self, payment: Payment, now: datetime) -> float | None:
        delay_s = None
        if payment.external_id is not None:
            # The provider's last word may be an end that the state does not show yet.
            last_word = self.providers[payment.provider].meaning_of(payment.status)
            delay_s = self.plan.next_check(
                State(payment.state),
                age_s=(now - payment.created_at).total_seconds(),
                error_seen=payment.error_seen_at is not None,
                status_is_final=last_word in {Meaning.PAID, Meaning.CANCELLED},
            )
        payment.next_check_at = None if delay_s is None else now + timedelta(seconds=delay_s)
        return delay_s


async def _record(session: AsyncSession, payment: Payment, before: str, operation_type: str) -> None:
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


def alarm(name: str, payment_id: UUID, **facts: str | None) -> None:
    """Something that people must look at: counted, and told in the log."""
    ALARMS.labels(alarm=name).inc()
    log.error(name, payment_id=str(payment_id), **facts)
