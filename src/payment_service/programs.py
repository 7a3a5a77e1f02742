"""The programs: ``serve`` and ``work``. The command line calls them."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from payment_service.access.service import SERVICE
from payment_service.api import app as api
from payment_service.api.middleware import Drain
from payment_service.api.throttle import Throttle, throttle_of
from payment_service.http_protocol import BoundedProtocol, connections_allowed
from payment_service.observability import logs
from payment_service.postgres import schema
from payment_service.postgres.connecting import trouble_of
from payment_service.postgres.memory import keep_fresh
from payment_service.postgres.vault import VaultError
from payment_service.services import Services, build, open_services
from payment_service.settings import Settings
from payment_service.worker.service import worker_over

log = logs.get_logger(__name__)


KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (60 s), so that it is never we who close it under a request."""


TELL_EVERY_S = 10
"""How often a program that waits for its database says so."""


class StartError(Exception):
    """The program cannot start; the text says what to do."""


def create_app(services: Services, drain: Drain) -> FastAPI:
    """The service as an ASGI app."""
    settings = services.settings
    throttle = throttle_of(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await _know_keys(services, throttle)
        listening = asyncio.gather(
            keep_fresh(services.database, services.routing.memory, services.access.memory), services.subscriptions.run()
        )
        worker = worker_over(services) if settings.worker_in_serve else None
        working = asyncio.create_task(worker.run()) if worker else None
        yield
        drain.begun = True
        unfinished = await services.inflight.drain(settings.shutdown_grace_s)
        if unfinished:
            log.error("stopped before operations ended", operations=unfinished)
        if worker and working:
            worker.stop()
            await working
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        await services.close()

    return api.build(
        services,
        throttle=throttle,
        drain=drain,
        schema_head=schema.head(),
        lifespan=lifespan,
        docs=settings.serves_docs,
        console_url=settings.console_url,
        cors_origins=settings.cors_origins,
        metrics=settings.metrics_public or settings.metrics_token is not None,
        metrics_token=settings.metrics_token.get_secret_value() if settings.metrics_token else None,
    )


async def _know_keys(services: Services, throttle: Throttle) -> None:
    """Good keys are not kept out when this process starts in the middle of a flood of guesses."""
    try:
        throttle.know(key.digest for key in await services.access.all() if key.revoked_at is None)
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
    services = build(settings)
    worker = worker_over(services)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, worker.stop)
    log.info("worker started")
    try:
        await worker.run()
    finally:
        await services.inflight.drain(settings.shutdown_grace_s)
        await services.close()


async def _check_database(settings: Settings) -> None:
    async with open_services(settings) as services:
        revision = await _revision(services)
        if revision != schema.head():
            raise StartError(
                f"The database is at schema {revision or 'nothing'} and this code needs {schema.head()}: "
                "run 'payment-service migrate' first."
            )
        try:
            await services.routing.configs(SERVICE)
            await services.fingerprints.of()
        except VaultError as error:
            raise StartError(
                "The ENCRYPTION_KEYS do not open the device tokens in the database: use the keys that wrote them."
            ) from error


async def _revision(services: Services) -> str | None:
    """The schema that the database is at; waits a while for a database that is away."""
    give_up_at = time.monotonic() + services.settings.database_wait_s
    tell_at = 0.0
    while True:
        try:
            return await schema.current(services.database)
        except Exception as error:
            trouble = trouble_of(error)
            if trouble is None:
                raise
            if not trouble.may_pass or time.monotonic() >= give_up_at:
                raise StartError(trouble.sentence) from error
        if time.monotonic() >= tell_at:
            tell_at = time.monotonic() + TELL_EVERY_S
            log.warning("waiting for the database", why=trouble.sentence)
        await asyncio.sleep(min(1, services.settings.database_wait_s))
