"""The steps of a refund: the same river as a payment's, on the route that the payment is pinned to.

The payment's row lock guards what is left of it: an amount is reserved when the refund is written down, and freed
only when it is certain that nothing was paid back.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import (
    DatabaseUnavailable,
    DeviceTokenMissing,
    InvalidInput,
    NothingToSettle,
    PaymentIncomplete,
    PaymentNotFound,
    PaymentNotPaid,
    RefundExceedsRemainder,
    RefundNotFound,
    SettlementInUse,
    StillRunning,
)
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.idempotency import claims
from payment_service.idempotency.decisions import Verdict, of_equal
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.identifiers import new_id
from payment_service.money import Money
from payment_service.observability.logs import bind, get_logger
from payment_service.observability.metrics import MOVES
from payment_service.payments import queries as payment_queries
from payment_service.payments import views as payments_shown
from payment_service.payments.lifecycle import Failure, State
from payment_service.payments.models import Payment
from payment_service.payments.moves import alarm
from payment_service.payments.reading import PaymentReading
from payment_service.payments.rules import PaymentRules
from payment_service.payments.service import INTENT_TIMEOUT_S
from payment_service.payments.settling import check_age, check_undoing
from payment_service.postgres.database import AS_LONG_AS_WE_LIVE, Database, constraint_of, insist, is_unreachable
from payment_service.providers.interface import (
    Accepted,
    Account,
    NotSent,
    Outcome,
    Providers,
    RefundOfPayment,
    RefundReceipt,
    Unknown,
)
from payment_service.refunds import queries
from payment_service.refunds import views as shown
from payment_service.refunds.lifecycle import RefundState, RefundStep, decide, move_to, undo_settlement
from payment_service.refunds.models import Refund
from payment_service.routing.service import Routing
from payment_service.scheduling.operations import InFlight
from payment_service.scheduling.sweeping import each_alone

_EVENT_OF_STATE: Final = {
    RefundState.SUCCEEDED: EventType.REFUND_SUCCEEDED,
    RefundState.FAILED: EventType.REFUND_FAILED,
    RefundState.UNKNOWN: EventType.REFUND_UNKNOWN,
}
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """A refund that somebody asks for. Without an amount it is all that is left."""

    caller: str
    payment: Payment
    amount: Money | None
    idempotency_key: str | None = None
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class RefundAnswer:
    """A refund and its payment as they stand, and whether this answers an earlier, equal request."""

    refund: Refund
    payment: Payment
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundSettlement:
    """What a person found: the refund was made, or it never was."""

    succeeded: bool
    reason: str
    provider_refund_id: str | None = None


@dataclass(frozen=True, slots=True)
class Refunds:
    """Refunds, over the services that they need."""

    database: Database
    routing: Routing
    reading: PaymentReading
    providers: Providers
    fingerprints: Fingerprints
    inflight: InFlight
    rules: PaymentRules = field(default_factory=PaymentRules)

    async def payment_of(self, caller: Caller, shop_id: int, external_id: str) -> Payment:
        """The payment to refund. One that may have been paid meanwhile is asked about first.

        Raises:
            PaymentNotFound: when it is not a payment of that shop, or the caller may not see it.
        """
        async with self.database.reading() as session:
            payment = await payment_queries.by_external_id(session, external_id)
        if payment is None or payment.shop_id != shop_id or not caller.may_touch(shop_id):
            raise PaymentNotFound(external_id)
        return payment if payment.state == State.PAID else await self.reading.refresh(payment)

    async def refund(self, request: RefundRequest) -> RefundAnswer:
        """Pay back, at most once.

        Raises:
            PaymentNotPaid, PaymentIncomplete, DeviceTokenMissing, RefundExceedsRemainder: it cannot be refunded.
            IdempotencyKeyReused, StillRunning: it was asked for before.
            DatabaseUnavailable: it could not be written down, so nothing was sent.
        """
        account = await self._pinned_account(request.payment)
        window = self.rules.sending_window()
        written = await self._write_intent(request)
        if written.replayed:
            return written
        bind(payment_id=str(written.payment.id), refund_id=str(written.refund.id), shop_id=written.payment.shop_id)
        outcome = await window.send(lambda: self._send(account, written))
        return await self._write_outcome(request, outcome)

    async def _pinned_account(self, payment: Payment) -> Account:
        """The account that took the payment, whatever the shop's routing says today."""
        if payment.organization_bin is None or payment.amount is None:
            raise PaymentIncomplete
        async with self.database.reading() as session:
            token = await self.routing.device_token(session, payment.device_token_id)
        if token is None:
            raise DeviceTokenMissing(payment.shop_id)
        return Account(payment.organization_bin, token)

    async def _write_intent(self, request: RefundRequest) -> RefundAnswer:
        """Transaction 1: claim the request and reserve the amount, or find the refund that was asked for before."""
        fingerprint = await self._fingerprint(request)
        try:
            async with asyncio.timeout(INTENT_TIMEOUT_S), self.database.transaction() as session:
                return await self._claim_and_insert(session, request, fingerprint)
        except (DBAPIError, PoolTimeoutError, OSError) as error:
            if not is_unreachable(error):
                raise
            self.inflight.begin(self._take_back(request))
            raise DatabaseUnavailable from error

    async def _claim_and_insert(self, session: AsyncSession, request: RefundRequest, fingerprint: str) -> RefundAnswer:
        claim = None
        earlier: queries.Aged | None = None
        if request.idempotency_key is not None:
            claim = await claims.take_key(session, request.caller, request.idempotency_key, fingerprint)
            earlier = await queries.aged(session, claim.operation_id) if claim.operation_id else None
        payment, _now = await payment_queries.locked(session, request.payment.id)
        if claim is None:
            # A client that sends no key and asks twice means one refund: paying back twice is what must not be.
            earlier = await queries.alike(session, payment.id, request.caller, fingerprint)
        if earlier is not None:
            refund, what = earlier
            match of_equal(what, self.rules, by_key=claim is not None):
                case Verdict.STILL_RUNNING:
                    raise StillRunning(refund.id)
                case Verdict.ANSWER:
                    return RefundAnswer(refund, payment, replayed=True)
                case _:
                    pass
        if payment.same_as is not None:
            raise StillRunning(payment.same_as)  # merged meanwhile; asked again, that payment is found
        if payment.state != State.PAID:
            raise PaymentNotPaid(payment.state)

        left = remainder(payment)
        amount = request.amount or left
        if amount > left or not left.tiyn:
            raise RefundExceedsRemainder(left)
        refund = Refund(
            id=request.id,
            payment_id=payment.id,
            amount=amount.tiyn,
            state=RefundState.SENDING,
            caller=request.caller,
            fingerprint=fingerprint,
            keyed=request.idempotency_key is not None,
        )
        session.add(refund)
        payment.reserved_amount += amount.tiyn
        claims.point_to(claim, refund.id)
        await session.flush()
        return RefundAnswer(refund, payment)

    async def _fingerprint(self, request: RefundRequest) -> str:
        amount = request.amount.tiyn if request.amount else None
        return await self.fingerprints.of("refund", request.payment.id, amount)

    async def _send(self, account: Account, written: RefundAnswer) -> Outcome[RefundReceipt]:
        """The one call, on the route that the payment is pinned to. No transaction is open."""
        payment = written.payment
        call = RefundOfPayment(account, Money(written.refund.amount), payment.external_id or "")
        return await self.providers[payment.provider].refund(call)

    async def _take_back(self, request: RefundRequest) -> None:
        """The commit of an intent may have gone through unheard. Nothing was sent, so the refund failed."""
        await self._insist_on(request, NotSent("intent_not_confirmed"))

    async def _write_outcome(self, request: RefundRequest, outcome: Outcome[RefundReceipt]) -> RefundAnswer:
        """Transaction 2: the move, the payment's sums and the audit entry, in one commit."""
        log.info("outcome", outcome=type(outcome).__name__)
        try:
            answer = await self._insist_on(request, outcome)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being written, it may have been done
            what = constraint_of(error) or type(error).__name__
            alarm("outcome_refused", request.payment.id, refund_id=str(request.id), because=what)
            answer = await self._insist_on(request, Unknown("outcome_refused"))
        if answer is None:
            raise PaymentNotFound(request.payment.external_id)
        return answer

    async def _insist_on(self, request: RefundRequest, outcome: Outcome[RefundReceipt]) -> RefundAnswer | None:
        """Write an outcome for as long as this process lives: nobody else knows it."""
        return await insist(lambda: self._apply_outcome(request.id, outcome), while_away_s=AS_LONG_AS_WE_LIVE)

    async def _apply_outcome(self, refund_id: UUID, outcome: Outcome[RefundReceipt]) -> RefundAnswer | None:
        def step(refund: Refund, _now: datetime) -> RefundStep | None:
            if refund.failure == Failure.SETTLED and isinstance(outcome, Accepted):
                alarm("settled_wrongly", refund.payment_id, refund_id=str(refund.id))
            return decide(RefundState(refund.state), outcome)

        try:
            return await self._move(refund_id, "refund", step)
        except InvalidInput:
            # The reply names a refund that was made before: it is crossed or cached, and says nothing about this one.
            answer = await self._apply_outcome(refund_id, Unknown("refund_id_of_another_refund"))
        if answer is not None:
            alarm("crossed_reply", answer.payment.id, refund_id=str(refund_id))
        return answer

    async def settle(self, caller: Caller, refund_id: UUID, settlement: RefundSettlement) -> RefundAnswer:
        """Move a refund to what a person found in the cabinet: one that is unknown, or whose sender must have died.

        Raises:
            RefundNotFound, NothingToSettle: there is nothing to settle.
            InvalidInput: the id is that of another refund.
            TooEarlyToSettle: it may still be made.
        """
        async with self.database.reading() as session:
            found = await queries.aged(session, refund_id)
            payment = await session.get(Payment, found[0].payment_id) if found else None
        if found is None or payment is None or not caller.may_touch(payment.shop_id):
            raise RefundNotFound(refund_id)
        refund, what = found
        if refund.state == RefundState.SENDING and what.age_s > self.rules.sending_lease_s:
            await self._give_up(refund_id)

        def step(refund: Refund, now: datetime) -> RefundStep:
            if refund.state != RefundState.UNKNOWN:
                raise NothingToSettle("refund", refund.state)
            if settlement.succeeded:
                return RefundStep(RefundState.SUCCEEDED, provider_refund_id=settlement.provider_refund_id)
            check_age(refund.created_at, now, self.rules.late_effect_s)
            never_made = "A person found that it was never made."
            return RefundStep(RefundState.FAILED, Failure.SETTLED, "settled", never_made)

        answer = await self._move(refund_id, "settle", step, reason=settlement.reason)
        if answer is None:
            raise RefundNotFound(refund_id)
        return answer

    async def undo_settlement(self, caller: Caller, refund_id: UUID, reason: str) -> RefundAnswer:
        """Undo a settlement that was wrong: the refund is unknown again, and its amount reserved.

        Raises:
            RefundNotFound, NothingToUndo: there is no settlement that the refund stands by.
            SettledByCaller: it takes another person.
            SettlementInUse: its amount was paid back by another refund, or the payment is not paid any more.
        """
        async with self.database.reading() as session:
            refund = await session.get(Refund, refund_id)
            payment = await session.get(Payment, refund.payment_id) if refund else None
            settlement = await audit.settlement_of(session, payment.id, refund_id) if payment else None
        if payment is None or not caller.may_touch(payment.shop_id):
            raise RefundNotFound(refund_id)

        def step(refund: Refund, _now: datetime) -> RefundStep:
            check_undoing("refund", refund.state, settlement, refund.moved_at)
            return undo_settlement()

        try:
            answer = await self._move(refund_id, audit.UNDO_SETTLE, step, reason=reason)
        except DBAPIError as error:
            match constraint_of(error):
                case "payment_refunds_within_amount":
                    raise SettlementInUse("its amount was refunded again since") from error
                case "refund_of_paid_payment":
                    raise SettlementInUse("its payment is not paid any more") from error
            raise
        if answer is None:
            raise RefundNotFound(refund_id)
        return answer

    async def _move(
        self,
        refund_id: UUID,
        operation_type: str,
        decision: Callable[[Refund, datetime], RefundStep | None],
        *,
        reason: str | None = None,
    ) -> RefundAnswer | None:
        """Write what is decided under the locks: the move, the payment's sums and the audit entry, in one commit."""
        async with self.database.transaction() as session:
            refund = await session.get(Refund, refund_id)
            if refund is None:
                return None
            # The payment first, then the refund: the order in which the intent took them.
            payment, now = await payment_queries.locked(session, refund.payment_id)
            await session.refresh(refund, with_for_update=True)
            before = refund.state
            step = decision(refund, now)
            if step is None:
                return RefundAnswer(refund, payment)
            if step.provider_refund_id is not None and await queries.has_its_id(
                session, refund, step.provider_refund_id
            ):
                raise InvalidInput("provider_refund_id", "is the id of another refund of this payment")
            move_to(refund, step)
            for state, sign in ((before, -1), (refund.state, 1)):
                if state in {RefundState.SENDING, RefundState.UNKNOWN}:
                    payment.reserved_amount += sign * refund.amount
                elif state == RefundState.SUCCEEDED:
                    payment.refunded_amount += sign * refund.amount
            await session.flush()
            await audit.record(
                session,
                operation_type,
                shop_id=payment.shop_id,
                organization_bin=payment.organization_bin,
                external_id=payment.external_id,
                amount=refund.amount,
                state=refund.state,
                error_message=refund.error_message,
                provider=payment.provider,
                payment_id=payment.id,
                refund_id=refund.id,
                reason=reason,
            )
            outbox.write(
                session,
                _EVENT_OF_STATE[RefundState(refund.state)],
                refund.id,
                version=refund.version,
                shop_id=payment.shop_id,
                data={**shown.line(refund), "payment": payments_shown.line(payment)},
            )
        MOVES.labels(object="refund", before=before, after=refund.state).inc()
        log.info(
            "refund moved",
            payment_id=str(payment.id),
            refund_id=str(refund.id),
            shop_id=payment.shop_id,
            before=before,
            after=refund.state,
            failure=refund.failure,
        )
        if refund.state == RefundState.UNKNOWN:
            alarm("refund_unknown", payment.id, refund_id=str(refund.id))
        return RefundAnswer(refund, payment)

    async def of_payment(self, payment_id: UUID) -> list[Refund]:
        """The refunds of a payment, oldest first."""
        async with self.database.reading() as session:
            return await queries.of_payment(session, payment_id)

    async def tasks(self, caller: Caller) -> list[tuple[Refund, Payment]]:
        """Refunds that people must look up, oldest first, each with its payment: unknown, or sending for too long."""
        async with self.database.reading() as session:
            return await queries.for_people(session, caller.shops, sending_lease_s=self.rules.sending_lease_s)

    async def settle_lost(self) -> int:
        """Make refunds unknown whose sender must have died; returns how many. Their amounts stay reserved."""
        async with self.database.reading() as session:
            lost = await queries.stuck_in_sending(session, self.rules.sending_lease_s)
        return await each_alone(lost, self._give_up, alarm="refund_not_settled")

    async def _give_up(self, refund_id: UUID) -> None:
        await self._apply_outcome(refund_id, Unknown("sender_died"))


def remainder(payment: Payment) -> Money:
    """What can still be refunded of a payment: refunds under way count as made."""
    return Money((payment.amount or 0) - payment.refunded_amount - payment.reserved_amount)
