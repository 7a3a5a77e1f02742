"""The only way a payment changes: the move, its audit entry, its events and the next reading, in one statement.

A move is decided on a payment as it was read, and written only if the payment has not changed since (``Moves.write``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import object_session

from payment_service.events.outbox import EventType
from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import begin_at_zero, labelled
from payment_service.observability.tracing import record_span
from payment_service.payments import queries, views
from payment_service.payments.following import FollowPlan
from payment_service.payments.lifecycle import MOVES, OPEN, Failure, FollowState, State, Step, move_to
from payment_service.payments.models import Payment
from payment_service.payments.record import Announcer, record_of
from payment_service.payments.statements import MOVE
from payment_service.postgres.database import Database, NotWrittenError, raw
from payment_service.providers.interface import Meaning, Providers
from payment_service.scheduling.due import IDLE_S, WORK_DUE, Kind
from payment_service.scheduling.jitter import jitter

_EVENT_OF_STATE: Final = {
    State.PENDING: EventType.PAYMENT_PENDING,
    State.PAID: EventType.PAYMENT_PAID,
    State.FAILED: EventType.PAYMENT_FAILED,
    State.CANCELLED: EventType.PAYMENT_CANCELLED,
    State.UNKNOWN: EventType.PAYMENT_UNKNOWN,
}
_EVENTS_OF_MOVE: Final = {(State.FAILED, State.PAID): (EventType.PAYMENT_PAID, EventType.PAYMENT_LATE_SUCCESS)}
"""A payment that is paid late: its failure was announced before, so there is a second event."""
_DECIDED_ON: Final = attrgetter("state", "version", "external_id", "error_seen_at")
_WRITTEN: Final = attrgetter(
    *("state", "status", "external_id", "payment_link", "expire_date", "failure", "error_code", "error_message"),
    *("error_seen_at", "id_from_settlement", "unread"),
)
"""The parameters of ``MOVE`` that are columns: what must not have changed, and what is written."""
begin_at_zero(metrics.MOVES, (("payment", *move) for move in MOVES))
log = get_logger(__name__)

Decision = Callable[[Payment, datetime], Step | None]
"""The step for a payment as it was read at a moment; none for no step."""


@dataclass(frozen=True, slots=True)
class Moves:
    """Writes moves of payments, and plans their next readings."""

    database: Database
    providers: Providers
    plan: FollowPlan

    async def apply(
        self, payment: Payment, now: datetime, decide: Decision, operation_type: str, *, replan: bool = True
    ) -> Payment:
        """Decide on a payment that was read at ``now`` and write the step; decide again if it changed meanwhile.

        Without ``replan`` the plan of readings stays as it is unless the payment moves.

        Raises:
            NotWrittenError: nothing was written although the payment had not changed.
        """
        while True:
            seen = (payment.id, *_DECIDED_ON(payment))
            step = decide(payment, now)
            if step is None or await self.write(payment, step, operation_type, now=now, replan=replan):
                return payment
            payment, now = await queries.get_resolved(self.database, payment.id)
            if (payment.id, *_DECIDED_ON(payment)) == seen:
                raise NotWrittenError(f"payment {payment.id}")

    async def write(
        self,
        payment: Payment,
        step: Step | None,
        operation_type: str,
        *,
        now: datetime,
        reason: str | None = None,
        replan: bool = True,
        session: AsyncSession | None = None,
    ) -> bool:
        """Write a step, and when to read next. ``now`` is the database's time when the payment was read.

        A step without a move leaves no audit entry; without a step only the plan is written. Returns false, with
        nothing written, when the payment has changed since it was read: the object must not be used then. With a
        ``session`` that holds the row's lock it cannot have changed.
        """
        if (owner := object_session(payment)) is not None:
            owner.expunge(payment)  # this statement writes it, not the session
        seen = _DECIDED_ON(payment)
        before = State(payment.state)
        moved = step is not None and move_to(payment, step)
        replan = replan or moved
        delay_s = self.delay_s(payment, now, moved=moved) if replan else None
        after = State(payment.state)
        kinds = _EVENTS_OF_MOVE.get((before, after), (_EVENT_OF_STATE[after],)) if moved else ()
        executor = self.database.statements if session is None else await raw(session)
        written = record_of(
            operation_type, reason, kinds, "payment", views.event_data(payment) if moved else "{}", payment.amount
        )
        row = await executor.fetchrow(MOVE, payment.id, *seen, *_WRITTEN(payment), replan, delay_s, *written)
        if row is None:
            return False
        signals = Announcer(self.database, session)
        signals.events(written, payment.id, payment.shop_id)
        if delay_s is not None and delay_s < IDLE_S:
            signals.send(WORK_DUE, Kind.READINGS)
        payment.__dict__.update(row.items())  # it is attached to no session
        if moved:
            _report(payment, before)
        if replan and delay_s is None and payment.state in OPEN and payment.checks:
            alarm("still_open", payment.id, state=payment.state)
        return True

    def delay_s(self, payment: Payment, now: datetime, *, moved: bool = False) -> float | None:
        """Seconds until the next reading; none when the payment is not followed any more."""
        if payment.external_id is None:
            return None
        # The provider's last status may be final although the state does not show it yet.
        last_meaning = self.providers[payment.provider].meaning_of(payment.status)
        delay_s = self.plan.next_check(
            FollowState(
                state=State(payment.state),
                failure=Failure(payment.failure) if payment.failure else None,
                age_s=(now - payment.created_at).total_seconds(),
                in_state_s=0 if moved else (now - payment.moved_at).total_seconds(),
                was_read=payment.checks > 0,
                unread=payment.unread,
                error_seen=payment.error_seen_at is not None,
                status_is_final=last_meaning in {Meaning.PAID, Meaning.CANCELLED},
            )
        )
        if delay_s and payment.unread:
            delay_s *= jitter(1.5)
        return delay_s


def _report(payment: Payment, before: State) -> None:
    labelled(metrics.MOVES, "payment", before, payment.state).inc()
    move: dict[str, Any] = {"before": before, "after": payment.state}
    payment_id = str(payment.id)
    log.info("payment moved", payment_id=payment_id, shop_id=payment.shop_id, **move, failure=payment.failure)
    record_span(f"payment {payment.state}", 0, payment_id=payment_id, **move)
    if payment.state == State.UNKNOWN:
        alarm("payment_unknown", payment.id, short_code=payment.short_code)


def alarm(name: metrics.Alarm, payment_id: UUID, **facts: str | None) -> None:
    """Raise an alarm about a payment: a person must look at it."""
    metrics.alarm(log, name, payment_id=str(payment_id), **facts)
