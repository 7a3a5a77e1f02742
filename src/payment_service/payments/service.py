"""Creating a payment: look up its route, write the intent, make the one call, write the outcome, answer.

The two writes are one statement each, durable before the next step, and no transaction is open while the provider is
called. Nothing here knows HTTP.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import asyncpg

from payment_service.access.service import Caller
from payment_service.errors import (
    DatabaseUnavailable,
    DeviceTokenMissing,
    DeviceTokenUnreadable,
    OrderAlreadyOpen,
    OrderAlreadyPaid,
    RateLimited,
    ServiceError,
    ShopInactive,
    StillRunning,
)
from payment_service.idempotency.decisions import Verdict, verdict_for_equal, verdict_for_order
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.idempotency.intents import earlier_of
from payment_service.idempotency.outcomes import OutcomeWriter
from payment_service.idempotency.sending import SendingWindow
from payment_service.idempotency.writing import UNCONFIRMED, run_intent, write_intent
from payment_service.identifiers import new_id, new_short_code
from payment_service.money import Money
from payment_service.observability.logs import bind, get_logger
from payment_service.payments import queries
from payment_service.payments.lifecycle import State
from payment_service.payments.models import LIKE_IN_FLIGHT, ONE_OPEN_PER_ORDER, ROUTE_IS_CURRENT, Payment
from payment_service.payments.moves import Moves
from payment_service.payments.outcomes import PaymentOutcome, external_id_of, step_for
from payment_service.payments.phones import PhoneLimit
from payment_service.payments.refusals import Refusals
from payment_service.payments.rules import PaymentRules
from payment_service.payments.statements import INTEND
from payment_service.postgres.database import DATABASE_ERRORS, Database, constraint_of
from payment_service.providers.deadline import clock
from payment_service.providers.interface import (
    Account,
    LinkPayment,
    NotSent,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    Providers,
)
from payment_service.routing.service import Route, Routing
from payment_service.scheduling.operations import InFlight

_OF_ORDER: Final = frozenset({"order_open", "order_paid"})
log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """The request for a payment. Without a phone it is a link."""

    caller: Caller
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
        """The operation as the audit log names it."""
        return "create" if self.phone else "create-link"

    @property
    def method(self) -> str:
        """How the buyer is asked to pay."""
        return "phone" if self.phone else "link"

    @property
    def phone_last4(self) -> str | None:
        """The only digits of the phone that are stored."""
        return self.phone[-4:] if self.phone else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A payment as it is now, and whether it answers an earlier, equal request."""

    payment: Payment
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Payments:
    """Creates payments."""

    database: Database
    routing: Routing
    providers: Providers
    fingerprints: Fingerprints
    inflight: InFlight
    outcomes: OutcomeWriter
    moves: Moves
    rules: PaymentRules = field(default_factory=PaymentRules)
    phones: PhoneLimit = field(default_factory=PhoneLimit)
    refusals: Refusals = field(default_factory=Refusals)

    async def create(self, request: PaymentRequest) -> Answer:
        """Make a payment, at most once.

        Raises:
            ShopNotConfigured, ShopInactive, DeviceTokenMissing, DeviceTokenUnreadable: the shop cannot take it.
            IdempotencyKeyReused, StillRunning, OrderAlreadyOpen, OrderAlreadyPaid: an earlier request conflicts.
            RateLimited: the phone has had too many invoices; nothing was written.
            NotAuthenticated: the caller's key was revoked meanwhile.
            DatabaseUnavailable: the intent could not be written, or the last outcomes, so nothing was sent.
            SendingHeld: the database may have lost what was sent before.
        """
        request.caller.require_shop(request.shop_id)
        window = SendingWindow(self.rules.begin_within_s, self.rules.sending_lease_s)
        written, route = await self._write_intent(request)
        if written.replayed or route is None:
            return written
        bind(payment_id=str(request.id), shop_id=request.shop_id)
        outcome = await window.send(lambda: self._send(request, route))
        if isinstance(outcome, NotSent):
            self.phones.give_back(request.phone)
        return Answer(await self._write_outcome(request, route, written.payment, outcome, since=window.opened))

    # --- write 1

    async def _write_intent(self, request: PaymentRequest) -> tuple[Answer, Route | None]:
        """Write 1: claim the request and pin its route, or find the earlier payment that answers it."""
        return await write_intent(
            lambda: self._try_intent(request), fail=lambda: self._fail_unconfirmed(request), inflight=self.inflight
        )

    async def _try_intent(self, request: PaymentRequest) -> tuple[Answer, Route | None] | None:
        """One try; none when something changed meanwhile and it has to be repeated."""
        fingerprint = await self._fingerprint(request)
        try:
            route = await self._route(request)
            if not self.outcomes.allows():
                raise DatabaseUnavailable
            self.phones.take(request.phone)
        except (ShopInactive, DeviceTokenMissing, DeviceTokenUnreadable, DatabaseUnavailable, RateLimited) as error:
            # An earlier, equal request is still answered.
            return await self._answer_without_sending(request, fingerprint, error)
        is_written = False
        try:
            intent = await self._intend(request, route, fingerprint)
            is_written = intent["obstacle"] is None
        except DATABASE_ERRORS as error:
            broken = constraint_of(error)
            if broken == ROUTE_IS_CURRENT:
                # The routing changed since it was looked up: look again, in the database.
                self.routing.cache.forget(request.shop_id)
            elif broken not in {ONE_OPEN_PER_ORDER, LIKE_IN_FLIGHT}:  # an equal one came first; the next try finds it
                raise
            return None
        finally:
            if not is_written:
                self.phones.give_back(request.phone)
        if is_written:
            return Answer(_new_payment(request, route, fingerprint, intent["at"])), route
        return await self._answer_of(request, intent)

    async def _answer_without_sending(
        self, request: PaymentRequest, fingerprint: str, why: ServiceError
    ) -> tuple[Answer, None] | None:
        """The answer to an earlier, equal request, or the reason why nothing new may be sent."""
        intent = await self._intend(request, None, fingerprint)
        obstacle, is_for_now = intent["obstacle"], isinstance(why, RateLimited | DatabaseUnavailable)
        if obstacle == "not_allowed" or (obstacle in _OF_ORDER and not is_for_now):
            raise why
        return await self._answer_of(request, intent)

    async def _route(self, request: PaymentRequest) -> Route:
        route = await self.routing.route_of(request.caller, request.shop_id)
        if request.phone is None and route.device_token is None:
            raise DeviceTokenMissing(request.shop_id)
        return route

    async def _intend(self, request: PaymentRequest, route: Route | None, fingerprint: str) -> asyncpg.Record:
        """Run the statement: it inserts the payment, if there is a route, or returns the obstacle."""
        return await run_intent(self.database.statements, INTEND, *self._parameters(request, route, fingerprint))

    def _parameters(self, request: PaymentRequest, route: Route | None, fingerprint: str | None) -> tuple[Any, ...]:
        columns = _columns(request, route, fingerprint)
        columns["details"] = json.dumps(request.metadata, ensure_ascii=False)
        rules = (self.rules.duplicate_window_s, request.caller.key_id, route is not None)
        return (*columns.values(), request.idempotency_key, *rules)

    async def _answer_of(self, request: PaymentRequest, intent: asyncpg.Record) -> tuple[Answer, None] | None:
        """The answer or the error that an obstacle means; none when the obstacle is gone."""
        earlier_id = intent["earlier"]
        if earlier_id is not None:
            bind(payment_id=str(earlier_id), shop_id=request.shop_id)
        obstacle = intent["obstacle"]
        if obstacle == "order_paid":
            raise OrderAlreadyPaid(request.order_id or "", earlier_id)
        earlier = earlier_of(intent)
        if obstacle == "order_open":
            verdict = verdict_for_order(earlier, self.rules, is_equal=intent["is_equal"])
        else:
            verdict = verdict_for_equal(earlier, self.rules, by_key=obstacle == "same_key")
        match verdict:
            case Verdict.ORDER_OPEN:
                raise OrderAlreadyOpen(request.order_id or "", earlier_id, earlier.state)
            case Verdict.STILL_RUNNING:
                raise StillRunning(earlier_id)
            case Verdict.ANSWER:
                payment, _now = await queries.get(self.database, earlier_id)
                return Answer(payment, replayed=True), None
            case Verdict.GO_ON:
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

    async def _fail_unconfirmed(self, request: PaymentRequest) -> None:
        """Fail a payment whose intent may have been committed although no reply came: nothing was sent."""
        found = await queries.find(self.database, request.id)
        if found is not None:
            await self.moves.apply(*found, partial(step_for, UNCONFIRMED), request.operation_type)

    # --- the call

    async def _send(self, request: PaymentRequest, route: Route) -> Outcome[PaymentReceipt]:
        """The one call, on the route that the payment is pinned to. No transaction is open."""
        account = Account(route.organization_bin, route.device_token)
        provider = self.providers[route.provider]
        message = f"{request.message} #{request.short_code}".lstrip()
        if request.phone is None:
            return await provider.create_link(LinkPayment(account, request.amount, message))
        return await provider.create(PhonePayment(account, request.amount, request.phone, message))

    # --- write 2

    async def _write_outcome(
        self, request: PaymentRequest, route: Route, payment: Payment, outcome: Outcome[PaymentReceipt], *, since: float
    ) -> Payment:
        """Write 2: the move, its audit entry, event and next reading. ``since``: when the window was opened."""
        # Logged before it is written: should the database be gone for good, the log still knows.
        log.info("provider called", outcome=type(outcome).__name__, external_id=external_id_of(outcome))
        self.refusals.observe(request.shop_id, request.id, outcome)
        done = PaymentOutcome(
            database=self.database,
            moves=self.moves,
            payment_id=request.id,
            operation_type=request.operation_type,
            outcome=outcome,
            intent=partial(self._parameters, request, route, payment.fingerprint),
            seen=(payment, payment.created_at + timedelta(seconds=clock() - since)),
        )
        written = await self.outcomes.write(done)
        await done.record_other_id(written)
        return written


def _columns(request: PaymentRequest, route: Route | None, fingerprint: str | None) -> dict[str, Any]:
    """What a payment gets from its request and its route, in the order of the parameters of ``INTEND``."""
    return {
        "id": request.id,
        "method": request.method,
        "shop_id": request.shop_id,
        "route_version": route and route.version,
        "provider": route and route.provider,
        "organization_bin": route and route.organization_bin,
        "device_token_id": route and route.device_token_id,
        "amount": request.amount.tiyn,
        "phone_last4": request.phone_last4,
        "message": request.message,
        "short_code": request.short_code,
        "order_id": request.order_id,
        "details": request.metadata,
        "caller": request.caller.name,
        "fingerprint": fingerprint,
    }


def _new_payment(request: PaymentRequest, route: Route, fingerprint: str, at: datetime) -> Payment:
    """The payment as its intent wrote it."""
    return queries.of_attributes(
        {
            **_columns(request, route, fingerprint),
            "shop_id": route.shop_id,
            "source": "service",
            "keyed": request.idempotency_key is not None,
            "state": State.SENDING,
            "id_from_settlement": False,
            "refunded_amount": 0,
            "reserved_amount": 0,
            "checks": 0,
            "unread": 0,
            "version": 1,
            "created_at": at,
            "moved_at": at,
            "updated_at": at,
        }
    )
