"""The steps of a payment: ask, route, write down, send once, learn, write down, answer.

Every transaction is short and ends before the provider is called or the answer leaves. Nothing here knows HTTP.
"""

import asyncio
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import SERVICE
from payment_service.errors import (
    DatabaseUnavailable,
    DeviceTokenMissing,
    IdempotencyKeyReused,
    OrderAlreadyOpen,
    OrderAlreadyPaid,
    PaymentNotFound,
    ShopInactive,
    StillRunning,
)
from payment_service.idempotency import claims
from payment_service.idempotency.decisions import Verdict, of_equal, of_order
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.idempotency.models import IdempotencyClaim
from payment_service.identifiers import new_id, new_short_code
from payment_service.money import Money
from payment_service.observability.logs import bind, get_logger
from payment_service.payments import queries
from payment_service.payments.lifecycle import (
    State,
    Step,
    decide,
)
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves, alarm
from payment_service.payments.phones import PhoneLimit
from payment_service.payments.rules import PaymentRules
from payment_service.postgres.database import AS_LONG_AS_WE_LIVE, Database, constraint_of, insist, is_unreachable
from payment_service.providers.interface import (
    Accepted,
    Account,
    LinkPayment,
    NotSent,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    Providers,
    Unknown,
)
from payment_service.reports.service import yield_to
from payment_service.routing.service import Route, Routing
from payment_service.scheduling.operations import InFlight

INTENT_TIMEOUT_S = 2.0
"""How long the database may take to write an intent; after that the caller is told that nothing was sent."""
BEFORE_SENDING_S = 5.0
"""How long everything before the call may take: whoever asked is told the truth before its answer is due."""
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
    short_code: str = field(default_factory=new_short_code)
    """Ends the message that the buyer sees, so that people find the payment in the merchant cabinet."""

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
class Payments:
    """Payments, over the services that they need."""

    database: Database
    routing: Routing
    providers: Providers
    fingerprints: Fingerprints
    inflight: InFlight
    moves: Moves
    rules: PaymentRules = field(default_factory=PaymentRules)
    phones: PhoneLimit = field(default_factory=PhoneLimit)

    async def create(self, request: PaymentRequest) -> Answer:
        """Make a payment, at most once.

        Raises:
            ShopNotConfigured, ShopInactive, DeviceTokenMissing: the shop cannot take it.
            IdempotencyKeyReused, StillRunning, OrderAlreadyOpen, OrderAlreadyPaid: it was asked for before.
            RateLimited: the phone has had too many invoices; nothing was written down.
            DatabaseUnavailable: it could not be written down, so nothing was sent.
        """
        window = self.rules.sending_window()
        try:
            async with asyncio.timeout(BEFORE_SENDING_S):
                written, route = await self._intend(request)
        except TimeoutError as error:
            self.inflight.begin(self._take_back(request))
            raise DatabaseUnavailable from error
        if route is None:
            return written
        bind(payment_id=str(request.id), shop_id=request.shop_id)
        outcome = await window.send(lambda: self._send(request, route))
        if isinstance(outcome, NotSent):
            self.phones.give_back(request.phone)
        return Answer(await self._write_outcome(request, outcome))

    async def _intend(self, request: PaymentRequest) -> tuple[Answer, Route | None]:
        """Where it goes, and its intent; no route when it was asked for before, so that nothing is to be sent."""
        try:
            route = await self._route(request)
        except (ShopInactive, DeviceTokenMissing):
            # What was answered once is answered again, also when the shop could not take it today.
            if (answered := await self._answer_of_key(request)) is not None:
                return answered, None
            raise
        written, route = await self._write_intent(request, route)
        return written, None if written.replayed else route

    async def _route(self, request: PaymentRequest) -> Route:
        route = await self.routing.route_of(SERVICE, request.shop_id)
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
                    case "payment_one_open_per_order" | "payment_like_in_flight":
                        pass  # an equal one came first; the next try finds it
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
        earlier: queries.Aged | None = None
        if request.idempotency_key is not None:
            claim = await claims.take_key(session, request.caller, request.idempotency_key, fingerprint)
            earlier = await _payment_of(session, claim, request)
        await claims.lock_fingerprint(session, fingerprint)
        if claim is None:
            earlier = await queries.alike(session, request.caller, fingerprint)
        verdict = of_equal(earlier and earlier[1], self.rules, by_key=claim is not None)
        if verdict is Verdict.GO_ON and request.order_id is not None:
            verdict, earlier = await self._of_same_order(session, request, fingerprint)
        if earlier is not None and verdict is not Verdict.GO_ON:
            payment, _ = earlier
            if verdict is Verdict.STILL_RUNNING:
                raise StillRunning(payment.id)
            claims.point_to(claim, payment.id)
            return Answer(payment, replayed=True)

        payment = _new_payment(request, route, fingerprint)
        with self.phones.invoice(request.phone):
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
            earlier = await _payment_of(session, claim, request) if claim else None
        match of_equal(earlier and earlier[1], self.rules, by_key=True):
            case Verdict.ANSWER if earlier is not None:
                return Answer(earlier[0], replayed=True)
            case Verdict.STILL_RUNNING if earlier is not None:
                raise StillRunning(earlier[0].id)
            case _:
                return None

    async def _of_same_order(
        self, session: AsyncSession, request: PaymentRequest, fingerprint: str
    ) -> tuple[Verdict, queries.Aged | None]:
        """What the order's other payments mean for this request.

        Raises:
            OrderAlreadyOpen, OrderAlreadyPaid: another request was made for the order.
        """
        order_id = request.order_id or ""
        await claims.lock_order(session, request.shop_id, order_id)
        found = await queries.open_of_order(session, request.shop_id, order_id)
        is_equal = found is not None and found[0].fingerprint == fingerprint and _same_metadata(found[0], request)
        verdict = of_order(found and found[1], self.rules, is_equal=is_equal)
        if found is not None and verdict is Verdict.ORDER_OPEN:
            raise OrderAlreadyOpen(order_id, found[0].id, found[0].state)
        if found is None:
            paid = await queries.paid_of_order(session, request.shop_id, order_id, request.amount.tiyn)
            if paid is not None:
                raise OrderAlreadyPaid(order_id, paid.id)
        return verdict, found

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
        await self._insist_on(request, NotSent("intent_not_confirmed"))

    async def _send(self, request: PaymentRequest, route: Route) -> Outcome[PaymentReceipt]:
        """The one call, on the route that the payment is pinned to. No transaction is open."""
        account = Account(route.organization_bin, route.device_token)
        provider = self.providers[route.provider]
        message = f"{request.message} #{request.short_code}".lstrip()
        if request.phone is None:
            return await provider.create_link(LinkPayment(account, request.amount, message))
        return await provider.create(PhonePayment(account, request.amount, request.phone, message))

    async def _write_outcome(self, request: PaymentRequest, outcome: Outcome[PaymentReceipt]) -> Payment:
        """Transaction 2: the move, its audit entry and the next job, in one commit."""
        # Said before it is written: should the database be gone for good, the log still knows.
        external_id = _external_id_of(outcome)
        log.info("outcome", outcome=type(outcome).__name__, external_id=external_id)
        try:
            payment = await self._insist_on(request, outcome)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being written, it may have been done
            what = constraint_of(error) or type(error).__name__
            alarm("outcome_refused", request.id, because=what, external_id=external_id)
            payment = await self._insist_on(request, Unknown("outcome_refused", external_id=external_id))
        if payment is None:
            raise PaymentNotFound(request.id)
        return payment

    async def _insist_on(self, request: PaymentRequest, outcome: Outcome[PaymentReceipt]) -> Payment | None:
        """Write an outcome for as long as this process lives: nobody else knows it."""
        return await insist(
            lambda: self._apply_outcome(request.id, request.operation_type, outcome), while_away_s=AS_LONG_AS_WE_LIVE
        )

    async def _apply_outcome(
        self, payment_id: UUID, operation_type: str, outcome: Outcome[PaymentReceipt], *, yielding: bool = False
    ) -> Payment | None:
        try:
            async with self.database.transaction() as session:
                found = await queries.locked_if_there(session, payment_id)
                if found is None:
                    return None
                payment, now = found
                step = decide(State(payment.state), outcome) or _too_late(payment, outcome)
                if step is not None:
                    if yielding and step.receipt is not None:
                        await yield_to(session, payment, step.receipt.external_id)
                    await self.moves.write(session, payment, step, operation_type, now=now)
                return payment
        except DBAPIError as error:
            if constraint_of(error) != "payment_external_id":
                raise
        if not yielding:
            # A client may have reported the payment before we wrote it down ourselves: then its report yields.
            return await self._apply_outcome(payment_id, operation_type, outcome, yielding=True)
        # The reply named a payment that another request made: it is crossed or cached, and says nothing about ours.
        alarm("crossed_reply", payment_id, external_id=_external_id_of(outcome))
        return await self._apply_outcome(payment_id, operation_type, Unknown("external_id_of_another_payment"))


async def _payment_of(session: AsyncSession, claim: IdempotencyClaim, request: PaymentRequest) -> queries.Aged | None:
    """The payment that a key stands for.

    Raises:
        IdempotencyKeyReused: when that payment has other metadata. A fingerprint does not hold it: two requests
            without a key are equal whatever they note.
    """
    found = await queries.aged(session, claim.operation_id) if claim.operation_id else None
    if found is not None and not _same_metadata(found[0], request):
        raise IdempotencyKeyReused
    return found


def _same_metadata(payment: Payment, request: PaymentRequest) -> bool:
    return request.idempotency_key is None or payment.details == request.metadata


def _external_id_of(outcome: Outcome[PaymentReceipt]) -> str | None:
    match outcome:
        case Accepted(receipt):
            return receipt.external_id
        case Unknown(external_id=external_id):
            return external_id
        case _:
            return None


def _too_late(payment: Payment, outcome: Outcome[PaymentReceipt]) -> Step | None:
    """What a reply teaches that came after a person had settled the payment: its id, where it has none."""
    external_id = _external_id_of(outcome)
    if external_id in {None, payment.external_id}:
        return None
    alarm("settled_wrongly", payment.id, external_id=external_id)
    # An id that is there stays. One that is learned now is followed: the payment may be paid late.
    return None if payment.external_id else Step(State(payment.state), receipt=PaymentReceipt(external_id))


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
        short_code=request.short_code,
        order_id=request.order_id,
        details=request.metadata,
        caller=request.caller,
        fingerprint=fingerprint,
        state=State.SENDING,
        refunded_amount=0,
        reserved_amount=0,
        checks=0,
        keyed=request.idempotency_key is not None,
    )
