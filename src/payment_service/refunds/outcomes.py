"""Write 2 of a refund: the outcome of its call becomes a move, whatever happened to the row during the call."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import asyncpg

from payment_service.idempotency.writing import restore_intent
from payment_service.observability.metrics import Alarm
from payment_service.payments.moves import alarm
from payment_service.payments.record import record_other_id
from payment_service.postgres.database import Database, constraint_of
from payment_service.providers.interface import Accepted, NotSent, Outcome, RefundReceipt, Rejected, Unknown
from payment_service.refunds import queries
from payment_service.refunds.lifecycle import RefundState, RefundStep, decide
from payment_service.refunds.models import PROVIDER_REFUND_ID, Refund
from payment_service.refunds.moves import RefundMoves
from payment_service.refunds.queries import Snapshot
from payment_service.refunds.statements import INTEND

_SETTLED_WRONGLY: Final = {
    (RefundState.FAILED, Accepted),
    (RefundState.SUCCEEDED, Rejected),
    (RefundState.SUCCEEDED, NotSent),
}
"""States in which the reply to a call finds its refund only when a person settled it otherwise meanwhile."""


@dataclass(slots=True, kw_only=True)
class RefundOutcome:
    """The outcome of a refund's call, to be written by ``idempotency.outcomes.OutcomeWriter``."""

    database: Database
    moves: RefundMoves
    refund: Refund
    reason: str | None
    outcome: Outcome[RefundReceipt]
    intent: Callable[[], tuple[Any, ...]]
    """Makes the parameters of the intent, which is written again if the database has lost it."""
    seen: Snapshot | None
    """The refund as its intent wrote it, for the first try. Later tries read it again: it may have moved."""

    async def write(self, outcome: Outcome[RefundReceipt]) -> Snapshot:
        """Move the refund by an outcome.

        A reply that names a refund which was made before is crossed or cached and says nothing about this one.
        """
        seen, self.seen = self.seen or await queries.get(self.database, self.refund.id), None
        try:
            return await self.moves.apply(seen, partial(step_for, outcome), "refund", reason=self.reason)
        except asyncpg.UniqueViolationError as error:
            if constraint_of(error) != PROVIDER_REFUND_ID:
                raise
        self._alarm("crossed_reply")
        seen = await queries.get(self.database, self.refund.id)
        crossed = Unknown("refund_id_of_another_refund")
        return await self.moves.apply(seen, partial(step_for, crossed), "refund", reason=self.reason)

    async def restore(self) -> None:
        """Write the lost intent again."""
        self._alarm("intent_lost")
        await restore_intent(self.database, f"refund {self.refund.id}", INTEND, *self.intent())

    def refused(self, why: str) -> Unknown:
        """The outcome to write when the database refuses this one: the refund may have been made."""
        self._alarm("outcome_refused", because=why)
        return Unknown("outcome_refused")

    async def record_other_id(self, written: Snapshot) -> None:
        """Record the id of a refund that the reply named, if this refund did not get it."""
        named, payment = provider_refund_id_of(self.outcome), written.payment
        if named not in {None, written.refund.provider_refund_id}:
            message = f"The reply to this refund named the refund {named}, which it is not."
            own = {"refund_id": self.refund.id, "amount": self.refund.amount, "status": None}
            await record_other_id(self.database, payment, "refund", message, **own)

    def _alarm(self, name: Alarm, **facts: str) -> None:
        alarm(name, self.refund.payment_id, refund_id=str(self.refund.id), **facts)


def provider_refund_id_of(outcome: Outcome[RefundReceipt]) -> str | None:
    """The provider's id of the refund that a reply named."""
    return outcome.receipt.provider_refund_id if isinstance(outcome, Accepted) else None


def step_for(outcome: Outcome[RefundReceipt], refund: Refund, _now: datetime) -> RefundStep | None:
    """The step that an outcome leads to."""
    state = RefundState(refund.state)
    if (state, type(outcome)) in _SETTLED_WRONGLY:
        alarm("settled_wrongly", refund.payment_id, refund_id=str(refund.id))
    return decide(state, outcome)
