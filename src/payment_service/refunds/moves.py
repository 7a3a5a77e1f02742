"""The only way a refund changes: the move, the payment's sums, audit entry and event, in one statement."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from payment_service.events.outbox import EventType
from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import begin_at_zero, labelled
from payment_service.observability.tracing import record_span
from payment_service.payments import views as payment_views
from payment_service.payments.models import Payment
from payment_service.payments.moves import alarm
from payment_service.payments.record import Announcer, record_of
from payment_service.postgres.database import Database, NotWrittenError
from payment_service.refunds import queries, views
from payment_service.refunds.lifecycle import MOVES, OPEN, RefundState, RefundStep, move_to
from payment_service.refunds.models import Refund
from payment_service.refunds.statements import MOVE

_EVENT_OF_STATE: Final = {
    RefundState.SUCCEEDED: EventType.REFUND_SUCCEEDED,
    RefundState.FAILED: EventType.REFUND_FAILED,
    RefundState.UNKNOWN: EventType.REFUND_UNKNOWN,
}
begin_at_zero(metrics.MOVES, (("refund", *move) for move in MOVES))
log = get_logger(__name__)

Decision = Callable[[Refund, datetime], RefundStep | None]
"""The step for a refund as it was read at a moment; none for no step."""


@dataclass(frozen=True, slots=True)
class RefundMoves:
    """Writes moves of refunds."""

    database: Database

    async def apply(
        self, seen: queries.Snapshot, decide: Decision, operation_type: str, *, reason: str | None = None
    ) -> queries.Snapshot:
        """Decide on a refund that was read and write the step; decide again if it changed meanwhile.

        Raises:
            NotWrittenError: nothing was written although the refund had not changed.
        """
        while True:
            before = (seen.refund.state, seen.refund.version)
            step = decide(seen.refund, seen.now)
            if step is None or await self._write(seen, step, operation_type, reason):
                return seen
            seen = await queries.get(self.database, seen.refund.id)
            if (seen.refund.state, seen.refund.version) == before:
                raise NotWrittenError(f"refund {seen.refund.id}")

    async def _write(self, seen: queries.Snapshot, step: RefundStep, operation_type: str, reason: str | None) -> bool:
        """Write a step; false, with nothing written, when the refund has changed since it was read."""
        refund, payment = seen.refund, seen.payment
        before, version = RefundState(refund.state), refund.version
        move_to(refund, step)
        after = RefundState(refund.state)
        written = record_of(
            operation_type, reason, [_EVENT_OF_STATE[after]], "refund", views.event_data(refund), refund.amount
        )
        row = await self.database.statements.fetchrow(
            MOVE,
            refund.id,
            before,
            version,
            refund.state,
            refund.failure,
            refund.error_code,
            refund.error_message,
            refund.provider_refund_id,
            refund.amount * ((after in OPEN) - (before in OPEN)),
            refund.amount * ((after is RefundState.SUCCEEDED) - (before is RefundState.SUCCEEDED)),
            *written,
            payment_views.event_data(payment),
        )
        if row is None:
            return False
        Announcer(self.database).events(written, refund.id, payment.shop_id)
        for name in ("version", "updated_at", "moved_at", "known_at"):
            setattr(refund, name, row[name])
        payment.refunded_amount, payment.reserved_amount = row["refunded_amount"], row["reserved_amount"]
        payment.version, payment.updated_at = row["payment_version"], row["payment_updated_at"]
        _report(refund, payment, before)
        return True


def _report(refund: Refund, payment: Payment, before: RefundState) -> None:
    labelled(metrics.MOVES, "refund", before, refund.state).inc()
    ids: dict[str, Any] = {"payment_id": str(payment.id), "refund_id": str(refund.id)}
    move: dict[str, Any] = {"before": before, "after": refund.state}
    log.info("refund moved", **ids, shop_id=payment.shop_id, **move, failure=refund.failure)
    record_span(f"refund {refund.state}", 0, **ids, **move)
    if refund.state == RefundState.UNKNOWN:
        alarm("refund_unknown", payment.id, refund_id=str(refund.id))
