"""``serve``: HTTP, its socket and its signals, around the services."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from payment_service.api import app as api
from payment_service.api.middleware import Drain
from payment_service.api.throttle import Throttle, throttle_of
from payment_service.console import mount as console
from payment_service.http_protocol import BoundedProtocol, connections_allowed
from payment_service.observability import logs
from payment_service.observability.lag import measure_lag
from payment_service.postgres.cache import keep_fresh
from payment_service.programs.listening import listener
from payment_service.programs.start import check_database, observed
from payment_service.services import Services, build, serving_database
from payment_service.settings import Settings

if TYPE_CHECKING:
    from payment_service.worker.service import Worker

log = logs.get_logger(__name__)


KEEP_ALIVE_S = 75
"""Longer than balancers keep an idle connection (60 s), so that we never close one just as a request comes."""


def create_app(services: Services, drain: Drain) -> FastAPI:
    """The service as an ASGI app."""
    settings = services.settings
    throttle = throttle_of(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await _load_known_keys(services, throttle)
        listening = asyncio.gather(
            keep_fresh(services.database, services.routing.cache, services.access.cache),
            services.subscriptions.run(),
            services.access.record_uses_repeatedly(),
        )
        worker = _worker(services) if settings.worker_in_serve else None
        working = asyncio.create_task(worker.run()) if worker else None
        measuring = asyncio.create_task(measure_lag())
        yield
        drain.begun = True
        unfinished = await services.inflight.drain(settings.shutdown_grace_s)
        if unfinished:
            log.error("stopped before operations ended", operations=unfinished)
        if worker and working:
            worker.stop()
            await working
        measuring.cancel()
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening
        await services.close()

    app = api.build(services, throttle=throttle, drain=drain, lifespan=lifespan)
    app.router.routes += console.ROUTES
    return app


def _worker(services: Services) -> "Worker":
    from payment_service.worker.service import worker_over  # noqa: PLC0415 - most often it is a process of its own

    return worker_over(services)


async def _load_known_keys(services: Services, throttle: Throttle) -> None:
    """Load the valid keys, so that they are not limited as guesses when the process starts in a flood of guesses."""
    try:
        throttle.remember_keys(key.digest for key in await services.access.all() if key.revoked_at is None)
    except Exception as error:  # noqa: BLE001 - the database may be away; each key is known once it was used
        log.warning("keys are not known yet", error=type(error).__name__)


class _Server(uvicorn.Server):
    """uvicorn, which notifies the app at the first signal to stop."""

    def __init__(self, config: uvicorn.Config, drain: Drain) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain.begun = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections that are queued, then stop: closing the socket would reset them with their requests."""
        queues = [opened.dup() for opened in sockets or ()]
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        await asyncio.sleep(0)  # the loop lets go of its sockets in its next turn
        for queue in queues:
            await self._accept_queued(queue)
        await super().shutdown(sockets)

    async def _accept_queued(self, queue: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # It would block when none is left; stopping must go on after any other error too.
        with queue, contextlib.suppress(OSError):
            queue.setblocking(False)
            while True:
                connection, _address = queue.accept()
                await loop.connect_accepted_socket(
                    lambda: BoundedProtocol(self.config, self.server_state, self.lifespan.state), connection
                )


def serve(settings: Settings) -> None:
    """Serve HTTP until told to stop. On SIGTERM: no new requests, those in flight finish, then exit.

    Raises:
        StartError: when the database is not at the schema that this code needs, the vault cannot open it, or the
            port is taken.
    """
    logs.configure(readable=settings.debug, level=settings.log_level)
    asyncio.run(check_database(settings, serving_database(settings)))
    drain = Drain()
    app = create_app(build(settings, serving_database(settings)), drain)
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
    with observed(settings, "serve"), listener(settings.host, settings.port, setting="PORT") as opened:
        _Server(config, drain).run(sockets=[opened])


def _end(_sign: int, _frame: FrameType | None) -> None:
    sys.exit(0)
