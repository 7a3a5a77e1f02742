"""The steps of a payment: ask, route, write down, send once, learn, write down, answer.

Every transaction is short and ends before the provider is called or the answer leaves. Nothing here knows HTTP.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.database import Database, constraint_of, insist, is_unreachable
from payment_service.errors import (
    DatabaseUnavailable,
    DeviceTokenMissing,
    OrderAlreadyOpen,
    OrderAlreadyPaid,
    PaymentNotFound,
    ProviderRefused,
    ProviderUnavailable,
    ShopInactive,
    StillRunning,
)
from payment_service.fingerprints import Fingerprints
from payment_service.identifiers import new_id, new_short_code
from payment_service.inflight import InFlight
from payment_service.logs import bind, get_logger
from payment_service.metrics import ALARMS, MOVES, READINGS
from payment_service.money import Money
from payment_service.payments import claims, queries
from payment_service.payments.lifecycle import (
    OPEN,
    Failure,
    FollowPlan,
    State,
    Step,
    decide,
    decide_reading,
    move_to,
)
from payment_service.payments.models import IdempotencyClaim, Payment
from payment_service.providers.interface import (
    Accepted,
    Account,
    LinkPayment,
    Meaning,
    NoSuchPayment,
    NotSent,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    Providers,
    Reading,
    StatusRead,
    StatusUnread,
    Unknown,
)
from payment_service.queue import FOLLOW_PAYMENT, enqueue
from payment_service.routing.service import Route, Routing

INTENT_TIMEOUT_S = 2.0
"""How long the database may take to write an intent; after that the caller is told that nothing was sent."""
READING_LEASE_S = 20
"""How long a worker owns the asking of one payment; longer than one call to the provider can take."""
_TRIES = 4
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """A payment that somebody asks for. Without a phone it is a link."""

    caller: str
    shop_id: int
    amount: Money
    phone: str | None = field(repr=False)
    message: str = ""
    order_id: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    id: UUID = field(default_factory=new_id)

    @property
    def operation_type(self) -> str:
        """The word of the audit log."""
        return "create" if self.phone else "create-link"


@dataclass(frozen=True, slots=True)
class Answer:
    """A payment as it stands, and whether it is the answer to an earlier, equal request."""

    payment: Payment
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Stranger:
    """A payment that this service never made, as the provider tells of it."""

    external_id: str
    status: str
    meaning: Meaning


@dataclass(frozen=True, slots=True)
class PaymentRules:
    """What is set from outside. Times in seconds; a window of 0 is none."""

    duplicate_window_s: int = 60
    sending_lease_s: float = 30
    plan: FollowPlan = field(default_factory=FollowPlan)


@dataclass(frozen=True, slots=True)
class Payments:
    """Payments, over the rooms that they need."""

    database: Database
    routing: Routing
    providers: Providers
    fingerprints: Fingerprints
    inflight: InFlight
    rules: PaymentRules = field(default_factory=PaymentRules)

    # --- making a payment

    async def create(self, request: PaymentRequest) -> Answer:
        """Make a payment, at most once.

        Raises:
            ShopNotConfigured, ShopInactive, DeviceTokenMissing: the shop cannot take it.
            IdempotencyKeyReused, StillRunning, OrderAlreadyOpen, OrderAlreadyPaid: it was asked for before.
            DatabaseUnavailable: it could not be written down, so nothing was sent.
        """
        try:
            route = await self._route(request)
        except (ShopInactive, DeviceTokenMissing):
            # What was answered once is answered again, also when the shop could not take it today.
            if (answered := await self._answer_of_key(request)) is not None:
                return answered
            raise
        written, route = await self._write_intent(request, route)
        if written.replayed:
            return written
        bind(payment_id=str(request.id), shop_id=request.shop_id)
        outcome = await self._send(request, route, written.payment.short_code)
        return Answer(await self._write_outcome(request, outcome))

    async def _route(self, request: PaymentRequest) -> Route:
        route = await self.routing.route_of(request.shop_id)
        if request.phone is None and route.device_token is None:
            raise DeviceTokenMissing(request.shop_id)
        return route

    async def _write_intent(self, request: PaymentRequest, route: Route) -> tuple[Answer, Route]:
        """Transaction 1: claim the request and pin the route, or find the payment that was asked for before."""
        fingerprint = await self._fingerprint(request)
        for _ in range(_TRIES):
            try:
                async with asyncio.timeout(INTENT_TIMEOUT_S), self.database.transaction() as session:
                    written = await self._claim_and_insert(session, request, route, fingerprint)
            except (DBAPIError, PoolTimeoutError, OSError) as error:
                match constraint_of(error):
                    case "payment_route_is_current":
                        # The routing changed since it was looked up: look again, in the database.
                        self.routing.memory.forget(request.shop_id)
                        route = await self._route(request)
                    case "payment_one_open_per_order":
                        pass  # an equal order came first; the next try finds its payment
                    case _ if is_unreachable(error):
                        self.inflight.begin(self._take_back(request))
                        raise DatabaseUnavailable from error
                    case _:
                        raise
            else:
                return written, route
        raise DatabaseUnavailable

    async def _claim_and_insert(
        self, session: AsyncSession, request: PaymentRequest, route: Route, fingerprint: str
    ) -> Answer:
        claim: IdempotencyClaim | None = None
        earlier: Payment | None = None
        if request.idempotency_key is not None:
            claim = await claims.take_key(session, request.caller, request.idempotency_key, fingerprint)
            earlier = await session.get(Payment, claim.operation_id) if claim.operation_id else None
            if earlier is not None and earlier.failure == Failure.NOT_SENT:
                earlier = None  # nothing was sent then, so the same key may send now
        elif self.rules.duplicate_window_s:
            await claims.lock_fingerprint(session, fingerprint)
            earlier = await queries.alike(session, request.caller, fingerprint, self.rules.duplicate_window_s)
        if earlier is None and request.order_id is not None:
            earlier = await self._of_same_order(session, request, fingerprint)
        if earlier is not None:
            if earlier.state == State.SENDING:
                raise StillRunning(earlier.id)
            claims.point_to(claim, earlier.id)
            return Answer(earlier, replayed=True)

        payment = _new_payment(request, route, fingerprint)
        session.add(payment)
        claims.point_to(claim, payment.id)
        await session.flush()
        return Answer(payment)

    async def _answer_of_key(self, request: PaymentRequest) -> Answer | None:
        if request.idempotency_key is None:
            return None
        fingerprint = await self._fingerprint(request)
        async with self.database.reading() as session:
            claim = await claims.find_key(session, request.caller, request.idempotency_key, fingerprint)
            payment = await session.get(Payment, claim.operation_id) if claim and claim.operation_id else None
        return Answer(payment, replayed=True) if payment and payment.failure != Failure.NOT_SENT else None

    async def _of_same_order(self, session: AsyncSession, request: PaymentRequest, fingerprint: str) -> Payment | None:
        order_id = request.order_id or ""
        await claims.lock_order(session, request.shop_id, order_id)
        payment = await queries.open_of_order(session, request.shop_id, order_id)
        if payment is not None:
            # Unknown blocks whatever is asked next for the order: nobody sends again until it is settled.
            if payment.state != State.UNKNOWN and payment.fingerprint != fingerprint:
                raise OrderAlreadyOpen(order_id, payment.id, payment.state)
            return payment
        paid = await queries.paid_of_order(session, request.shop_id, order_id, request.amount.tiyn)
        if paid is not None:
            raise OrderAlreadyPaid(order_id, paid.id)
        return None

    async def _fingerprint(self, request: PaymentRequest) -> str:
        return await self.fingerprints.of(
            request.operation_type,
            request.shop_id,
            request.phone,
            request.amount.tiyn,
            request.message,
            request.order_id,
        )

    async def _take_back(self, request: PaymentRequest) -> None:
        """The commit of an intent may have gone through unheard. Nothing was sent, so the payment failed."""
        never_left = NotSent("intent_not_confirmed")
        async with asyncio.timeout(self.rules.sending_lease_s):
            await insist(lambda: self._apply_outcome(request.id, request.operation_type, never_left))

    async def _send(self, request: PaymentRequest, route: Route, short_code: str) -> Outcome[PaymentReceipt]:
        """The one call, on the route that the payment is pinned to. No transaction is open."""
        account = Account(route.organization_bin, route.device_token)
        provider = self.providers[route.provider]
        message = f"{request.message} #{short_code}".lstrip()
        if request.phone is None:
            return await provider.create_link(LinkPayment(account, request.amount, message))
        return await provider.create(PhonePayment(account, request.amount, request.phone, message))

    async def _write_outcome(self, request: PaymentRequest, outcome: Outcome[PaymentReceipt]) -> Payment:
        """Transaction 2: the move, its audit entry and the next job, in one commit."""
        # Said before it is written: should the database be gone for good, the log still knows.
        match outcome:
            case Accepted(receipt):
                log.info("outcome", outcome="Accepted", external_id=receipt.external_id)
            case _:
                log.info("outcome", outcome=type(outcome).__name__)
        payment = await insist(lambda: self._apply_outcome(request.id, request.operation_type, outcome))
        if payment is None:
            raise PaymentNotFound(request.id)
        return payment

    async def _apply_outcome(
        self, payment_id: UUID, operation_type: str, outcome: Outcome[PaymentReceipt]
    ) -> Payment | None:
        try:
            async with self.database.transaction() as session:
                payment = await session.get(Payment, payment_id, with_for_update=True)
                if payment is None:
                    return None
                step = decide(State(payment.state), outcome)
                if step is not None:
                    await self._write_step(session, payment, step, operation_type)
                    await self._schedule(session, payment)
                return payment
        except DBAPIError as error:
            if constraint_of(error) != "payment_external_id":
                raise
        # The reply named a payment that another request made: it is crossed or cached, and says nothing about ours.
        _alarm("crossed_reply", payment_id)
        return await self._apply_outcome(payment_id, operation_type, Unknown("external_id_of_another_payment"))

    # --- learning what became of it

    async def status(self, caller: Caller, external_id: str) -> Payment | Stranger:
        """Where a payment stands now. One that may still move is asked about; one we never made, too.

        Raises:
            PaymentNotFound: when neither we nor the provider know it, or the caller may not see it.
            ProviderUnavailable, ProviderRefused: when a payment that is not ours cannot be asked about.
        """
        async with self.database.reading() as session:
            payment = await queries.by_external_id(session, external_id)
        if payment is None:
            return await self._ask_about_stranger(caller, external_id)
        if not caller.may_touch(payment.shop_id):
            raise PaymentNotFound(external_id)
        return await self.refresh(payment)

    async def refresh(self, payment: Payment) -> Payment:
        """Ask the provider about a payment that may still move; an error while asking changes nothing."""
        if payment.external_id is None or payment.state in {State.PAID, State.CANCELLED}:
            return payment
        reading = await self.providers[payment.provider].read_status(payment.external_id)
        async with self.database.transaction() as session:
            payment = await queries.locked(session, payment.id)
            await self._learn(session, payment, reading)
        return payment

    async def follow(self, payment_id: UUID) -> None:
        """A worker's turn: ask about an open payment and plan the next time. Does nothing out of turn."""
        payment = await self._take_turn(payment_id)
        if payment is None or payment.external_id is None:
            return
        reading = await self.providers[payment.provider].read_status(payment.external_id)
        async with self.database.transaction() as session:
            payment = await queries.locked(session, payment_id)
            await self._learn(session, payment, reading)
            await self._schedule(session, payment)

    async def _take_turn(self, payment_id: UUID) -> Payment | None:
        """Own the asking of a payment for a while: of several workers, or of a repeated job, one gets it."""
        turn = (
            update(Payment)
            .where(Payment.id == payment_id, Payment.next_check_at <= func.now())
            .values(next_check_at=func.now() + timedelta(seconds=READING_LEASE_S), checks=Payment.checks + 1)
            .returning(Payment)
        )
        async with self.database.transaction() as session:
            return await session.scalar(turn)

    async def _ask_about_stranger(self, caller: Caller, external_id: str) -> Stranger:
        if caller.shops is not None:
            # Nobody can tell whose it is, so for a caller of some shops it looks like any foreign payment.
            raise PaymentNotFound(external_id)
        [(name, provider)] = self.providers.items()
        reading = await provider.read_status(external_id)
        async with self.database.transaction() as session:
            await audit.record(
                session,
                "status",
                external_id=external_id,
                status=reading.status if isinstance(reading, StatusRead) else None,
                error_message=None if isinstance(reading, StatusRead) else _problem_of(reading),
                provider=name,
            )
        match reading:
            case StatusRead(status, meaning):
                return Stranger(external_id, status, meaning)
            case NoSuchPayment():
                raise PaymentNotFound(external_id)
            case StatusUnread(refused_by_proxy=True):
                raise ProviderRefused
            case StatusUnread():
                raise ProviderUnavailable

    async def _learn(self, session: AsyncSession, payment: Payment, reading: Reading) -> None:
        """Write down what a reading says of a payment, under its row lock."""
        if not isinstance(reading, StatusRead):
            READINGS.labels(meaning=type(reading).__name__).inc()
            log.info("status not read", payment_id=str(payment.id), reason=_problem_of(reading))
            return
        READINGS.labels(meaning=reading.meaning).inc()
        if reading.meaning is Meaning.UNHEARD_OF:
            _alarm("unheard_of_status", payment.id, status=reading.status)
        now = await session.scalar(select(func.now()))
        step = decide_reading(
            State(payment.state),
            reading,
            error_seen_at=payment.error_seen_at,
            now=now or payment.updated_at,
            confirm_after=timedelta(seconds=self.rules.plan.confirm_s),
        )
        if (payment.state, step.state) == (State.FAILED, State.PAID):
            _alarm("late_success", payment.id)
        await self._write_step(session, payment, step, "status")

    async def _write_step(self, session: AsyncSession, payment: Payment, step: Step, operation_type: str) -> None:
        """A move and its audit entry. A reading that moves nothing leaves no entry."""
        before = payment.state
        if not move_to(payment, step):
            return
        if payment.state not in OPEN:
            payment.next_check_at = None
        await session.flush()
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

    async def _schedule(self, session: AsyncSession, payment: Payment) -> None:
        """Plan the next reading, in the transaction of the move."""
        now = await session.scalar(select(func.now()))
        delay_s = None
        if payment.external_id is not None and now is not None:
            delay_s = self.rules.plan.next_check(
                State(payment.state),
                age_s=(now - payment.created_at).total_seconds(),
                error_seen=payment.error_seen_at is not None,
                status_is_final=self._says_final(payment),
            )
        if delay_s is None:
            payment.next_check_at = None
            return
        payment.next_check_at = now + timedelta(seconds=delay_s) if now else None
        await session.flush()
        await enqueue(session, FOLLOW_PAYMENT, payment.id, key=f"{payment.id}:{payment.checks}", delay_s=delay_s)

    def _says_final(self, payment: Payment) -> bool:
        """Whether the provider's last word is an end that the state does not show yet."""
        meaning = self.providers[payment.provider].meaning_of(payment.status)
        return meaning in {Meaning.PAID, Meaning.CANCELLED}

    # --- what others ask

    async def get(self, caller: Caller, payment_id: UUID) -> Payment:
        """One payment by our id.

        Raises:
            PaymentNotFound: when there is none that the caller may see.
        """
        async with self.database.reading() as session:
            payment = await session.get(Payment, payment_id)
        if payment is None or not caller.may_touch(payment.shop_id):
            raise PaymentNotFound(payment_id)
        return payment

    async def hint(self, shop_id: int, external_id: str) -> None:
        """Somebody saw a change: ask about this payment of that shop at once, if it is ours and may still move."""
        async with self.database.transaction() as session:
            payment = await queries.by_external_id(session, external_id)
            if payment is not None and payment.shop_id == shop_id and payment.next_check_at is not None:
                payment = await queries.locked(session, payment.id)
                payment.next_check_at = await session.scalar(select(func.now()))
                await session.flush()
                key = f"{payment.id}:{payment.checks}:hint"
                await enqueue(session, FOLLOW_PAYMENT, payment.id, key=key)

    async def settle_lost(self) -> int:
        """Make payments unknown whose sender must have died; returns how many. Never failed: it may have been sent."""
        async with self.database.reading() as session:
            lost = await queries.stuck_in_sending(session, self.rules.sending_lease_s)
        for payment_id in lost:
            async with self.database.transaction() as session:
                payment = await queries.locked(session, payment_id)
                step = decide(State(payment.state), Unknown("sender_died"))
                if payment.state == State.SENDING and step is not None:
                    await self._write_step(session, payment, step, "settle")
        return len(lost)

    async def wake_overdue(self) -> int:
        """Put payments back into the queue whose job was lost; returns how many."""
        async with self.database.transaction() as session:
            late = await queries.overdue(session, READING_LEASE_S)
            for payment_id, checks in late:
                await enqueue(session, FOLLOW_PAYMENT, payment_id, key=f"{payment_id}:{checks}:overdue")
        return len(late)


def _new_payment(request: PaymentRequest, route: Route, fingerprint: str) -> Payment:
    return Payment(
        id=request.id,
        method="phone" if request.phone else "link",
        shop_id=route.shop_id,
        route_version=route.version,
        provider=route.provider,
        organization_bin=route.organization_bin,
        device_token_id=route.device_token_id,
        amount=request.amount.tiyn,
        phone_last4=request.phone[-4:] if request.phone else None,
        message=request.message,
        short_code=new_short_code(),
        order_id=request.order_id,
        details=request.metadata,
        caller=request.caller,
        fingerprint=fingerprint,
        state=State.SENDING,
        refunded_amount=0,
        reserved_amount=0,
        checks=0,
    )


def _problem_of(reading: NoSuchPayment | StatusUnread) -> str:
    return f"{reading.code}: {reading.message}" if isinstance(reading, NoSuchPayment) else reading.reason


def _alarm(name: str, payment_id: UUID, **facts: str) -> None:
    ALARMS.labels(alarm=name).inc()
    log.error(name, payment_id=str(payment_id), **facts)
