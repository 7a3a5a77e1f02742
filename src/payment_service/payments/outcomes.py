"""Write 2 of a payment: the outcome of its call becomes a move, whatever happened to the row during the call.

A worker may have made the payment unknown, a person may have settled it, a client may have reported it, or the database
may have lost it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg

from payment_service.idempotency.writing import restore_intent
from payment_service.payments import queries
from payment_service.payments.lifecycle import Failure, State, Step, decide
from payment_service.payments.merging import merge_report
from payment_service.payments.models import EXTERNAL_ID, ONE_OPEN_PER_ORDER, Payment
from payment_service.payments.moves import Moves, alarm
from payment_service.payments.record import record_other_id
from payment_service.payments.statements import INTEND
from payment_service.postgres.database import Database, constraint_of
from payment_service.providers.interface import Accepted, Outcome, PaymentReceipt, Unknown


@dataclass(slots=True, kw_only=True)
class PaymentOutcome:
    """The outcome of a payment's call, to be written by ``idempotency.outcomes.OutcomeWriter``."""

    database: Database
    moves: Moves
    payment_id: UUID
    operation_type: str
    outcome: Outcome[PaymentReceipt]
    intent: Callable[[], tuple[Any, ...]]
    """Makes the parameters of the intent, which is written again if the database has lost it."""
    seen: tuple[Payment, datetime] | None
    """The payment as its intent wrote it, for the first try. Later tries read it again: it may have moved."""

    async def write(self, outcome: Outcome[PaymentReceipt]) -> Payment:
        """Move the payment by an outcome.

        A reply that names a payment which another request made is crossed or cached and says nothing about this one.
        """
        seen, self.seen = self.seen or await queries.get(self.database, self.payment_id), None
        external_id = external_id_of(outcome)
        try:
            return await self.moves.apply(*seen, partial(step_for, outcome), self.operation_type)
        except asyncpg.UniqueViolationError as error:
            broken = constraint_of(error)
            if broken not in {EXTERNAL_ID, ONE_OPEN_PER_ORDER} or external_id is None:
                raise
        if broken == ONE_OPEN_PER_ORDER:
            return await self._follow_beside(external_id)
        if (merged := await self._take_from_report(external_id, outcome)) is not None:
            return merged
        alarm("crossed_reply", self.payment_id, external_id=external_id)
        seen = await queries.get(self.database, self.payment_id)
        crossed = Unknown("external_id_of_another_payment")
        return await self.moves.apply(*seen, partial(step_for, crossed), self.operation_type)

    async def _follow_beside(self, external_id: str) -> Payment:
        """Keep the id of a payment that was settled as never made, and follow it beside the order's new payment."""
        payment, now = await queries.get(self.database, self.payment_id)
        followed = Step(State(payment.state), receipt=PaymentReceipt(external_id))
        return await self.moves.apply(payment, now, lambda _payment, _now: followed, self.operation_type)

    async def _take_from_report(self, external_id: str, outcome: Outcome[PaymentReceipt]) -> Payment | None:
        """Take over the id of a client's report of this payment that came before this write; none without a report."""
        async with self.database.transaction() as session:
            payment, now = await queries.locked(session, self.payment_id)
            if not await merge_report(session, payment, external_id):
                return None
            step = step_for(outcome, payment, now)
            await self.moves.write(payment, step, self.operation_type, now=now, session=session)
            return payment

    async def restore(self) -> None:
        """Write the lost intent again."""
        alarm("intent_lost", self.payment_id, external_id=external_id_of(self.outcome))
        await restore_intent(self.database, f"payment {self.payment_id}", INTEND, *self.intent())

    def refused(self, why: str) -> Unknown:
        """The outcome to write when the database refuses this one: the payment may have been made."""
        external_id = external_id_of(self.outcome)
        alarm("outcome_refused", self.payment_id, because=why, external_id=external_id)
        return Unknown("outcome_refused", external_id=external_id)

    async def record_other_id(self, written: Payment) -> None:
        """Record the id that the reply named, if the payment has another one or none."""
        external_id = external_id_of(self.outcome)
        if external_id not in {None, written.external_id}:
            message = "The reply to this payment named this id, which it does not have."
            await record_other_id(self.database, written, self.operation_type, message, external_id=external_id)


def external_id_of(outcome: Outcome[PaymentReceipt]) -> str | None:
    """The provider's id that a reply named."""
    match outcome:
        case Accepted(receipt):
            return receipt.external_id
        case Unknown(external_id=external_id):
            return external_id
        case _:
            return None


def step_for(outcome: Outcome[PaymentReceipt], payment: Payment, _now: datetime) -> Step | None:
    """The step that an outcome leads to. After a settlement by hand it may still bring the provider's id."""
    if (step := decide(State(payment.state), outcome)) is not None:
        return step
    external_id = external_id_of(outcome)
    if external_id in {None, payment.external_id}:
        return None
    alarm("settled_wrongly", payment.id, external_id=external_id)
    if payment.external_id:
        return None  # an id that is there stays
    if isinstance(outcome, Accepted) and payment.failure == Failure.SETTLED:
        # The buyer can pay it: until it is known that it has ended, its order must not get another payment.
        return Step(State.PENDING, receipt=outcome.receipt, status=outcome.receipt.status)
    # An id that is learned now is followed: the payment may be paid late.
    return Step(State(payment.state), receipt=PaymentReceipt(external_id))
