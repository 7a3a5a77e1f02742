"""Making a refund, in the steps of a payment: write the intent, make the one call, write the outcome, answer.

It goes by the route that the payment is pinned to. The payment's row lock guards what is left of it: an amount is
reserved when the intent is written, and freed only when it is certain that nothing was paid back.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg

from payment_service.access.service import Caller
from payment_service.errors import (
    DatabaseUnavailable,
    DeviceTokenMissing,
    DeviceTokenUnreadable,
    PaymentIncomplete,
    PaymentNotFound,
    PaymentNotPaid,
    RefundAlreadyOpen,
    RefundExceedsRemainder,
    ServiceError,
    StillRunning,
)
from payment_service.idempotency.decisions import Verdict, verdict_for_equal
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.idempotency.intents import earlier_of
from payment_service.idempotency.outcomes import OutcomeWriter
from payment_service.idempotency.sending import SendingWindow
from payment_service.idempotency.writing import UNCONFIRMED, run_intent, write_intent
from payment_service.identifiers import new_id
from payment_service.money import Money
from payment_service.observability.logs import bind, get_logger
from payment_service.payments import queries as payment_queries
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.moves import alarm
from payment_service.payments.reading import PaymentReading
from payment_service.payments.rules import PaymentRules
from payment_service.postgres.database import DATABASE_ERRORS, Database, constraint_of
from payment_service.providers.deadline import clock
from payment_service.providers.interface import (
    Account,
    Outcome,
    Providers,
    RefundOfPayment,
    RefundReceipt,
    Rejected,
)
from payment_service.refunds import queries
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import LIKE_IN_FLIGHT, Refund
from payment_service.refunds.moves import RefundMoves
from payment_service.refunds.outcomes import RefundOutcome, provider_refund_id_of, step_for
from payment_service.refunds.queries import Snapshot
from payment_service.refunds.statements import INTEND
from payment_service.routing.service import Routing
from payment_service.routing.tokens import Unreadable
from payment_service.scheduling.operations import InFlight

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """The request for a refund. Without an amount it is all that is left."""

    caller: Caller
    payment: Payment
    amount: Money | None
    idempotency_key: str | None = None
    reason: str | None = None
    """Why, for the record."""
    id: UUID = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class RefundAnswer:
    """A refund and its payment as they are now, and whether this answers an earlier, equal request."""

    refund: Refund
    payment: Payment
    elsewhere: int = 0
    """Tiyn of the payment that others report as paid back."""
    replayed: bool = False

    @property
    def left(self) -> Money:
        """What can still be refunded of the payment."""
        return remainder(self.payment, self.elsewhere)


@dataclass(frozen=True, slots=True)
class Refunds:
    """Makes refunds.

    Whose payment it is decides what finds it, before its status is read; ``refund`` asks again, for whoever comes with
    a payment from elsewhere, such as a page; and of a key the database does, under the lock of the payment.
    """

    database: Database
    routing: Routing
    reading: PaymentReading
    providers: Providers
    fingerprints: Fingerprints
    inflight: InFlight
    outcomes: OutcomeWriter
    moves: RefundMoves
    rules: PaymentRules

    async def payment_of(self, caller: Caller, shop_id: int, provider: str, external_id: str) -> Payment:
        """The payment to refund. If it may have been paid meanwhile, its status is read first.

        Raises:
            PaymentNotFound: when it is not a payment of that shop, or the caller may not see it.
        """
        payment = await self.reading.find(caller, provider, external_id)
        if payment is None or payment.shop_id != shop_id:
            raise PaymentNotFound(external_id)
        return payment if payment.state == State.PAID else await self.reading.refresh(payment)

    async def of_payment(self, payment_id: UUID) -> list[Refund]:
        """The refunds of a payment, oldest first."""
        async with self.database.reading() as session:
            return await queries.of_payment(session, payment_id)

    async def left_of(self, payment: Payment) -> Money:
        """What can still be refunded of a payment."""
        return remainder(payment, await self._refunded_elsewhere(payment))

    async def refund(self, request: RefundRequest) -> RefundAnswer:
        """Pay back, at most once.

        Raises:
            PaymentNotFound: the payment is not of a shop of the caller's.
            PaymentNotPaid, PaymentIncomplete, DeviceTokenMissing, DeviceTokenUnreadable, RefundExceedsRemainder: it
                cannot be refunded.
            IdempotencyKeyReused, StillRunning, RefundAlreadyOpen: an earlier request conflicts.
            NotAuthenticated: the caller's key was revoked meanwhile.
            DatabaseUnavailable: the intent could not be written, or the last outcomes, so nothing was sent.
            SendingHeld: the database may have lost what was sent before.
        """
        bind(payment_id=str(request.payment.id), shop_id=request.payment.shop_id)
        account, elsewhere = await self._pinned_account(request.caller, request.payment)
        window = SendingWindow(self.rules.begin_within_s, self.rules.sending_lease_s)
        written = replace(await self._write_intent(request, self._why_not(request, account)), elsewhere=elsewhere)
        bind(refund_id=str(written.refund.id))
        if written.replayed or account is None:
            return written
        outcome = await window.send(lambda: self._send(account, written))
        done = await self._write_outcome(request, written, outcome, since=window.opened)
        return replace(done, elsewhere=elsewhere)

    async def _pinned_account(self, caller: Caller, payment: Payment) -> tuple[Account | None, int]:
        """The account that took the payment, whatever its shop's routing is today, and what others paid back of it.

        None when its device token cannot be decrypted.
        """
        async with self.database.reading() as session:
            if not await payment_queries.is_shown(session, payment, caller.shops):
                raise PaymentNotFound(payment.external_id)
            if payment.organization_bin is None or payment.amount is None:
                raise PaymentIncomplete
            token = await self.routing.tokens.of(session, payment.device_token_id)
            elsewhere = await queries.refunded_elsewhere(session, payment)
        if token is None:
            raise DeviceTokenMissing(payment.shop_id, of_payment=True)
        return None if isinstance(token, Unreadable) else Account(payment.organization_bin, token), elsewhere

    async def _refunded_elsewhere(self, payment: Payment) -> int:
        async with self.database.reading() as session:
            return await queries.refunded_elsewhere(session, payment)

    # --- write 1

    async def _write_intent(self, request: RefundRequest, why_not: ServiceError | None) -> RefundAnswer:
        """Write 1: claim the request and reserve the amount, or find the earlier refund that answers it."""
        return await write_intent(
            lambda: self._try_intent(request, why_not),
            fail=lambda: self._fail_unconfirmed(request),
            inflight=self.inflight,
        )

    def _why_not(self, request: RefundRequest, account: Account | None) -> ServiceError | None:
        """Why no new refund may be sent; an earlier, equal one is still answered."""
        if account is None:
            return DeviceTokenUnreadable(request.payment.shop_id, of_payment=True)
        return None if self.outcomes.allows() else DatabaseUnavailable()

    async def _try_intent(self, request: RefundRequest, why_not: ServiceError | None) -> RefundAnswer | None:
        """One try; none when something changed meanwhile and it has to be repeated."""
        amount = request.amount.tiyn if request.amount else None
        fingerprint = await self.fingerprints.of("refund", request.payment.id, amount)
        parameters = self._parameters(request, amount, fingerprint)
        try:
            intent = await run_intent(self.database.statements, INTEND, *parameters, may_insert=why_not is None)
        except DATABASE_ERRORS as error:
            if constraint_of(error) == LIKE_IN_FLIGHT:
                return None  # an equal one came first; the next try finds it
            raise
        if why_not is not None and intent["obstacle"] == "too_late":
            raise why_not
        return await self._answer_of(request, fingerprint, intent)

    def _parameters(self, request: RefundRequest, amount: int | None, fingerprint: str) -> tuple[Any, ...]:
        return (
            request.id,
            request.payment.id,
            amount,
            request.caller.name,
            fingerprint,
            request.idempotency_key,
            self.rules.duplicate_window_s,
            request.caller.key_id,
        )

    async def _answer_of(self, request: RefundRequest, fingerprint: str, intent: asyncpg.Record) -> RefundAnswer | None:
        """The refund as it was written, or what its obstacle means; none when the obstacle is gone."""
        earlier_id: UUID = intent["earlier"]
        match intent["obstacle"]:
            case None:
                refund = _new_refund(request, fingerprint, intent["amount"], intent["at"])
                request.payment.reserved_amount += refund.amount
                return RefundAnswer(refund, request.payment)
            case "merged":
                raise StillRunning(earlier_id)  # merged meanwhile; asked again, that payment is found
            case "foreign":
                raise PaymentNotFound(request.payment.external_id)
            case "not_paid":
                raise PaymentNotPaid(intent["state"])
            case "open":
                raise RefundAlreadyOpen(earlier_id, intent["state"])
            case "exceeds":
                elsewhere = await self._refunded_elsewhere(request.payment)
                raise RefundExceedsRemainder(Money(intent["amount"]), elsewhere=elsewhere)
            case obstacle:
                earlier = earlier_of(intent)
        match verdict_for_equal(earlier, self.rules, by_key=obstacle == "same_key"):
            case Verdict.STILL_RUNNING:
                raise StillRunning(earlier_id)
            case Verdict.ANSWER:
                seen = await queries.get(self.database, earlier_id)
                return RefundAnswer(seen.refund, seen.payment, replayed=True)
            case _:
                return None

    async def _fail_unconfirmed(self, request: RefundRequest) -> None:
        """Fail a refund whose intent may have been committed although no reply came: nothing was sent."""
        seen = await queries.find(self.database, request.id)
        if seen is not None:
            await self.moves.apply(seen, partial(step_for, UNCONFIRMED), "refund")

    # --- the call

    async def _send(self, account: Account, written: RefundAnswer) -> Outcome[RefundReceipt]:
        """The one call, on the route that the payment is pinned to. No transaction is open."""
        payment = written.payment
        call = RefundOfPayment(account, Money(written.refund.amount), payment.external_id or "")
        return await self.providers[payment.provider].refund(call)

    # --- write 2

    async def _write_outcome(
        self, request: RefundRequest, written: RefundAnswer, outcome: Outcome[RefundReceipt], *, since: float
    ) -> RefundAnswer:
        """Write 2: the move, the payment's sums, audit entry and event. ``since``: when the window was opened."""
        refund = written.refund
        # Logged before it is written: should the database be gone for good, the log still knows.
        log.info("provider called", outcome=type(outcome).__name__, provider_refund_id=provider_refund_id_of(outcome))
        if isinstance(outcome, Rejected) and outcome.contradicts_record:
            # A paid payment is not read again, so this is where it shows: paid back elsewhere, or never paid.
            alarm("state_contradicted", written.payment.id, refund_id=str(refund.id), code=outcome.code)
        done = RefundOutcome(
            database=self.database,
            moves=self.moves,
            refund=refund,
            reason=request.reason,
            outcome=outcome,
            intent=partial(self._parameters, request, refund.amount, refund.fingerprint),
            seen=Snapshot(refund, written.payment, refund.created_at + timedelta(seconds=clock() - since)),
        )
        seen = await self.outcomes.write(done)
        await done.record_other_id(seen)
        return RefundAnswer(seen.refund, seen.payment)


def remainder(payment: Payment, elsewhere: int = 0) -> Money:
    """What can still be refunded of a payment. Refunds under way count as made, and so do ``elsewhere`` (tiyn)."""
    return Money(max((payment.amount or 0) - payment.refunded_amount - payment.reserved_amount - elsewhere, 0))


def _new_refund(request: RefundRequest, fingerprint: str, amount: int, at: datetime) -> Refund:
    """The refund as its intent wrote it. ``amount`` in tiyn."""
    return Refund(
        id=request.id,
        payment_id=request.payment.id,
        amount=amount,
        state=RefundState.SENDING,
        caller=request.caller.name,
        fingerprint=fingerprint,
        keyed=request.idempotency_key is not None,
        version=1,
        created_at=at,
        moved_at=at,
        updated_at=at,
    )
