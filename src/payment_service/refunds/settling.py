"""Settling refunds by hand, as a person found them in the merchant cabinet, and undoing it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import InvalidInput, NothingToSettle, RefundNotFound, SettlementInUse
from payment_service.observability.logs import bind
from payment_service.payments.lifecycle import Failure
from payment_service.payments.models import REFUNDS_WITHIN_AMOUNT, Payment
from payment_service.payments.queries import is_shown
from payment_service.payments.rules import PaymentRules
from payment_service.payments.settling import TASKS_AT_MOST, check_age, check_undoing
from payment_service.postgres.database import DATABASE_ERRORS, Database, constraint_of
from payment_service.providers.interface import Unknown
from payment_service.refunds import queries
from payment_service.refunds.lifecycle import RefundState, RefundStep, decide, undo_settlement
from payment_service.refunds.models import OF_PAID_PAYMENT, PROVIDER_REFUND_ID, Refund
from payment_service.refunds.moves import RefundMoves
from payment_service.scheduling.sweeping import for_each_isolated


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundSettlement:
    """What a person found: the refund was made, or it never was."""

    succeeded: bool
    reason: str
    provider_refund_id: str | None = None


@dataclass(frozen=True, slots=True)
class RefundSettling:
    """Settles refunds whose end is not known."""

    database: Database
    moves: RefundMoves
    rules: PaymentRules

    async def tasks(self, caller: Caller, *, limit: int = TASKS_AT_MOST) -> list[tuple[Refund, Payment]]:
        """Refunds that people must look up, oldest first, each with its payment: unknown, or sending for too long."""
        async with self.database.reading() as session:
            lease_s = self.rules.sending_lease_s
            return await queries.for_people(session, caller.shops, sending_lease_s=lease_s, limit=limit)

    async def count_open(self) -> dict[str, tuple[int, float]]:
        """By state, the number of refunds without an end and the age of the oldest in seconds."""
        async with self.database.reading() as session:
            return await queries.count_open(session)

    async def settle(self, caller: Caller, refund_id: UUID, settlement: RefundSettlement) -> queries.Snapshot:
        """Move a refund to what a person found in the cabinet: one that is unknown, or whose sender must have died.

        Raises:
            RefundNotFound, NothingToSettle: there is nothing to settle.
            InvalidInput: the id is that of another refund.
            TooEarlyToSettle: it may still be made.
        """
        seen = await self._visible(caller, refund_id)
        age_s = (seen.now - seen.refund.created_at).total_seconds()
        if seen.refund.state == RefundState.SENDING and self.rules.is_lease_over(age_s):
            seen = await self.moves.apply(seen, _sender_died, "settle")

        def decision(refund: Refund, now: datetime) -> RefundStep:
            if refund.state != RefundState.UNKNOWN:
                raise NothingToSettle("refund", refund.state)
            if settlement.succeeded:
                return RefundStep(RefundState.SUCCEEDED, provider_refund_id=settlement.provider_refund_id)
            check_age(refund.created_at, refund.moved_at, now, self.rules.late_effect_s)
            never_made = "A person found that it was never made."
            return RefundStep(RefundState.FAILED, Failure.SETTLED, "settled", never_made)

        try:
            return await self.moves.apply(seen, decision, "settle", reason=settlement.reason)
        except DATABASE_ERRORS as error:
            if constraint_of(error) == PROVIDER_REFUND_ID:
                raise InvalidInput("provider_refund_id", "is the id of another refund of this payment") from error
            raise

    async def undo(self, caller: Caller, refund_id: UUID, reason: str) -> queries.Snapshot:
        """Undo a settlement that was wrong: the refund is unknown again, and its amount reserved.

        Raises:
            RefundNotFound, NothingToUndo: its state does not come from a settlement.
            SettledByCaller: another person has to undo it.
            SettlementInUse: its amount was paid back by another refund, or the payment is not paid any more.
        """
        seen = await self._visible(caller, refund_id)
        async with self.database.reading() as session:
            settlement = await audit.settlement_of(session, seen.payment.id, refund_id)

        def decision(refund: Refund, _now: datetime) -> RefundStep:
            check_undoing("refund", refund.state, settlement, refund.moved_at)
            return undo_settlement()

        try:
            return await self.moves.apply(seen, decision, audit.UNDO_SETTLE, reason=reason)
        except DATABASE_ERRORS as error:
            broken = constraint_of(error)
            if broken == REFUNDS_WITHIN_AMOUNT:
                raise SettlementInUse("its amount was refunded again since") from error
            if broken == OF_PAID_PAYMENT:
                raise SettlementInUse("its payment is not paid any more") from error
            raise

    async def mark_lost_unknown(self) -> int:
        """Make refunds unknown whose sender must have died; returns how many. Their amounts stay reserved."""
        async with self.database.reading() as session:
            lost = await queries.stuck_in_sending(session, self.rules.sending_lease_s)
        return await for_each_isolated(lost, self._mark_unknown, alarm="refund_not_settled")

    async def _mark_unknown(self, refund_id: UUID) -> None:
        seen = await queries.get(self.database, refund_id)
        await self.moves.apply(seen, _sender_died, "refund")

    async def _visible(self, caller: Caller, refund_id: UUID) -> queries.Snapshot:
        seen = await queries.find(self.database, refund_id)
        if seen is None:
            raise RefundNotFound(refund_id)
        async with self.database.reading() as session:
            if not await is_shown(session, seen.payment, caller.shops):
                raise RefundNotFound(refund_id)
        bind(payment_id=str(seen.payment.id), refund_id=str(refund_id), shop_id=seen.payment.shop_id)
        return seen


def _sender_died(refund: Refund, _now: datetime) -> RefundStep | None:
    return decide(RefundState(refund.state), Unknown("sender_died"))
