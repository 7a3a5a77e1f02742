"""The composition root: the only module that knows every room, and the only one that reads the settings.

Programs are made here (``serve``, ``work``); the command line calls them.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import FrameType

import uvicorn
from fastapi import FastAPI

from payment_service import logs, schema
from payment_service.access.service import Access
from payment_service.api import app as front_door
from payment_service.api.dependencies import Rooms
from payment_service.api.middleware import Drain
from payment_service.api.throttle import Throttle
from payment_service.audit.sealing import AuditSeals
from payment_service.connecting import trouble_of
from payment_service.database import Database
from payment_service.events.addresses import DEVELOPMENT, PRODUCTION
from payment_service.events.deliveries import DeliveryRecord
from payment_service.events.delivery import Deliveries, DeliveryPlan
from payment_service.events.endpoints import Endpoints
from payment_service.events.outbound import Outbound
from payment_service.events.passing_on import PassingOn
from payment_service.events.waiting import Subscriptions
from payment_service.fingerprints import Fingerprints
from payment_service.http_protocol import BoundedProtocol, connections_allowed
from payment_service.inflight import InFlight
from payment_service.notify.bindings import Bindings
from payment_service.notify.channel import Channels
from payment_service.notify.email import Email, SmtpServer
from payment_service.notify.service import Notify
from payment_service.notify.telegram import Telegram
from payment_service.payments.following import Following
from payment_service.payments.lifecycle import FollowPlan
from payment_service.payments.moves import Moves
from payment_service.payments.phones import PhoneLimit
from payment_service.payments.readings import SHARED_FOR_S, SharedReadings
from payment_service.payments.reports import Reports
from payment_service.payments.rules import PaymentRules
from payment_service.payments.service import Payments
from payment_service.payments.settling import Settling
from payment_service.providers.interface import Providers
from payment_service.providers.kaspi.client import KaspiClient, KaspiSettings
from payment_service.rates import Rate
from payment_service.refunds.service import Refunds
from payment_service.routing.service import Routing
from payment_service.settings import Settings
from payment_service.vault import Vault, VaultError
from payment_service.worker.service import Worker

log = logs.get_logger(__name__)


KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (60 s), so that it is never we who close it under a request."""


TELL_EVERY_S = 10
"""How often a program that waits for its database says so."""


class StartError(Exception):
    """The program cannot start; the text says what to do."""


@dataclass(frozen=True, slots=True)
class House:
    """Every room, wired to the others."""

    settings: Settings
    database: Database
    vault: Vault
    fingerprints: Fingerprints
    routing: Routing
    access: Access
    providers: Providers
    payments: Payments
    following: Following
    settling: Settling
    reports: Reports
    refunds: Refunds
    endpoints: Endpoints
    deliveries: Deliveries
    delivery_record: DeliveryRecord
    notify: Notify
    bindings: Bindings
    subscriptions: Subscriptions
    inflight: InFlight
    throttle: Throttle

    async def rotate_keys(self) -> int:
        """Encrypt every secret anew with the newest key, while the service runs; returns how many device tokens."""
        async with self.database.transaction() as session:
            await self.fingerprints.rotate(session)
            await self.endpoints.rotate(session)
            return await self.routing.rotate(session)

    def rooms(self) -> Rooms:
        """What the front door opens onto."""
        secret = self.settings.kaspi_webhook_secret
        return Rooms(
            database=self.database,
            access=self.access,
            routing=self.routing,
            payments=self.payments,
            following=self.following,
            settling=self.settling,
            reports=self.reports,
            refunds=self.refunds,
            subscriptions=self.subscriptions,
            inflight=self.inflight,
            bindings=self.bindings,
            endpoints=self.endpoints,
            deliveries=self.deliveries,
            delivery_record=self.delivery_record,
            throttle=self.throttle,
            hint_secrets={"kaspi": secret.get_secret_value()} if secret else {},
            open_to_everybody=self.settings.dev_no_auth,
        )

    def worker(self) -> Worker:
        """A worker over these rooms."""
        seals = AuditSeals(self.database)
        passing_on = PassingOn(self.database, [self.deliveries.take, self.notify.take])
        return Worker(
            self.database,
            self.following,
            self.settling,
            self.refunds,
            seals,
            passing_on,
            self.deliveries,
            self.notify,
            self.settings.sweep_every_s,
        )

    async def close(self) -> None:
        """Give back every connection."""
        for provider in self.providers.values():
            await provider.close()
        await self.endpoints.outbound.close()
        for channel in self.notify.channels.values():
            await channel.close()
        await self.database.close()


def build(settings: Settings) -> House:
    """Wire the rooms."""
    database = Database(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
    vault = Vault([key.get_secret_value() for key in settings.encryption_keys])
    routing = Routing(database, vault)
    fingerprints = Fingerprints(database, vault)
    access = Access(database)
    kaspi = KaspiClient(
        KaspiSettings(
            url=settings.production_api_url,
            access_token=settings.kaspi_access_token.get_secret_value(),
            deadline_s=settings.kaspi_deadline_s,
            connect_timeout_s=settings.kaspi_connect_timeout_s,
            max_calls=settings.kaspi_max_calls,
            max_readings=settings.kaspi_max_readings,
            breaker_failures=settings.kaspi_breaker_failures,
            breaker_pause_s=settings.kaspi_breaker_pause_s,
        )
    )
    providers: Providers = {"kaspi": kaspi}
    inflight = InFlight()
    plan = FollowPlan(
        first_s=settings.follow_first_s,
        fast_s=settings.follow_fast_s,
        fast_for_s=settings.follow_fast_for_s,
        slow_s=settings.follow_slow_s,
        follow_for_s=settings.follow_for_s,
        confirm_s=settings.error_confirm_s,
        tails_s=tuple(settings.follow_tails_s),
    )
    moves = Moves(providers, plan)
    rules = PaymentRules(
        duplicate_window_s=settings.duplicate_window_s,
        sending_lease_s=settings.sending_lease_s,
        late_effect_s=settings.late_effect_s,
        call_deadline_s=settings.kaspi_deadline_s,
    )
    phones = PhoneLimit(
        settings.phone_invoices_per_minute * settings.rate_limits,
        settings.phone_invoices_per_day * settings.rate_limits,
    )
    payments = Payments(database, routing, providers, fingerprints, inflight, moves, rules, phones)
    readings = SharedReadings(SHARED_FOR_S if settings.rate_limits else 0)
    following = Following(database, providers, moves, settings.sending_lease_s, readings)
    refunds = Refunds(database, routing, following, providers, fingerprints, inflight, rules)
    outbound = Outbound(DEVELOPMENT if settings.webhooks_stay_here else PRODUCTION)
    endpoints = Endpoints(database, vault, outbound)
    delivery_plan = DeliveryPlan(
        delays_s=tuple(settings.webhook_delays_s),
        order_wait_s=settings.webhook_order_wait_s,
        disable_after_s=settings.webhook_disable_after_s,
        at_once=settings.webhook_calls_per_endpoint,
        at_once_in_all=settings.webhook_calls,
    )
    deliveries = Deliveries(database, endpoints, delivery_plan)
    notify = Notify(database, _channels(settings), settings.console_url)
    return House(
        settings=settings,
        database=database,
        vault=vault,
        fingerprints=fingerprints,
        routing=routing,
        access=access,
        providers=providers,
        payments=payments,
        following=following,
        settling=Settling(database, providers, moves, rules),
        reports=Reports(database, providers),
        refunds=refunds,
        endpoints=endpoints,
        deliveries=deliveries,
        delivery_record=DeliveryRecord(database, endpoints),
        notify=notify,
        bindings=Bindings(database, notify),
        subscriptions=Subscriptions(
            database,
            access,
            per_key=settings.waiting_per_key,
            in_all=settings.waiting_in_all,
            connections=max(1, settings.database_pool_size // 10),
        ),
        inflight=inflight,
        throttle=_throttle(settings),
    )


RATES_OVER_S = 10
"""Rates per second are averaged over so many: a page that loads may ask for ten seconds' worth at once."""


def _throttle(settings: Settings) -> Throttle:
    per_key, per_address = (
        Rate(per_s * RATES_OVER_S * settings.rate_limits, RATES_OVER_S)
        for per_s in (settings.rate_per_key, settings.rate_per_address)
    )
    return Throttle(per_key, per_address, open_to_everybody=settings.dev_no_auth)


def _channels(settings: Settings) -> Channels:
    """The channels to people that are set up."""
    channels: Channels = {}
    if settings.telegram_bot_token is not None:
        channels["telegram"] = Telegram(settings.telegram_bot_token.get_secret_value(), settings.telegram_api_url)
    if settings.smtp_url is not None and settings.smtp_from is not None:
        channels["email"] = Email(SmtpServer.of(settings.smtp_url.get_secret_value()), settings.smtp_from)
    return channels


@contextlib.asynccontextmanager
async def open_house(settings: Settings) -> AsyncIterator[House]:
    """The rooms, closed again at the end: for commands."""
    house = build(settings)
    try:
        yield house
    finally:
        await house.close()


def create_app(house: House, drain: Drain) -> FastAPI:
    """The service as an ASGI app."""
    settings = house.settings

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await _know_keys(house)
        listening = asyncio.gather(house.routing.memory.listen(house.database), house.subscriptions.run())
        worker = house.worker() if settings.worker_in_serve else None
        working = asyncio.create_task(worker.run()) if worker else None
        yield
        drain.begun = True
        unfinished = await house.inflight.drain(settings.shutdown_grace_s)
        if unfinished:
            log.error("stopped before operations ended", operations=unfinished)
        if worker and working:
            worker.stop()
            await working
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        await house.close()

    return front_door.build(
        house.rooms(),
        drain=drain,
        schema_head=schema.head(),
        lifespan=lifespan,
        docs=settings.serves_docs,
        console_url=settings.console_url,
        cors_origins=settings.cors_origins,
        metrics=settings.metrics_public or settings.metrics_token is not None,
        metrics_token=settings.metrics_token.get_secret_value() if settings.metrics_token else None,
    )


async def _know_keys(house: House) -> None:
    """Good keys are not kept out when this process starts in the middle of a flood of guesses."""
    try:
        house.throttle.know(key.digest for key in await house.access.all() if key.revoked_at is None)
    except Exception as error:  # noqa: BLE001 - the database may be away; each key is known once it was used
        log.warning("keys are not known yet", error=type(error).__name__)


class _Server(uvicorn.Server):
    """uvicorn, which tells the app at the first signal that it is to stop."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain.begun = True
        super().handle_exit(sig, frame)


def serve(settings: Settings) -> None:
    """Serve HTTP until told to stop. On SIGTERM: no new requests, those in flight finish, then exit.

    Raises:
        StartError: when the database is not at the schema that this code needs, the vault cannot open it, or the
            port is taken.
    """
    logs.configure(readable=settings.debug, level=settings.log_level)
    asyncio.run(_check_database(settings))
    drain = Drain()
    app = create_app(build(settings), drain)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
        http=BoundedProtocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=connections_allowed(),
        forwarded_allow_ips=settings.forwarded_allow_ips,
    )
    for sign in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped in order, and that end is a good one.
        signal.signal(sign, _end)
    with _listener(settings) as listener:
        _Server(config, drain).run(sockets=[listener])


def _end(_sign: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _listener(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    both = settings.host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise StartError(
            f"The service cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
            "stop the program that does, or set another PORT or HOST."
        ) from error


async def work(settings: Settings) -> None:
    """Run a worker until told to stop.

    Raises:
        StartError: as for ``serve``.
    """
    await _check_database(settings)
    house = build(settings)
    worker = house.worker()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, worker.stop)
    log.info("worker started")
    try:
        await worker.run()
    finally:
        await house.inflight.drain(settings.shutdown_grace_s)
        await house.close()


async def _check_database(settings: Settings) -> None:
    async with open_house(settings) as house:
        revision = await _revision(house)
        if revision != schema.head():
            raise StartError(
                f"The database is at schema {revision or 'nothing'} and this code needs {schema.head()}: "
                "run 'payment-service migrate' first."
            )
        try:
            await house.routing.configs()
            await house.fingerprints.of()
        except VaultError as error:
            raise StartError(
                "The ENCRYPTION_KEYS do not open the device tokens in the database: use the keys that wrote them."
            ) from error


async def _revision(house: House) -> str | None:
    """The schema that the database is at; waits a while for a database that is away."""
    give_up_at = time.monotonic() + house.settings.database_wait_s
    tell_at = 0.0
    while True:
        try:
            return await schema.current(house.database)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None:
                raise
            if not trouble.may_pass or time.monotonic() >= give_up_at:
                raise StartError(trouble.sentence) from error
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_EVERY_S
            log.warning("waiting for the database", why=trouble.sentence)
        await asyncio.sleep(min(1, house.settings.database_wait_s))
