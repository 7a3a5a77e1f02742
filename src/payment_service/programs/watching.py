"""The port of a worker for monitoring: its health and its metrics."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from payment_service.observability.exposition import CONTENT_TYPE, exposition
from payment_service.programs.listening import listener
from payment_service.settings import Settings
from payment_service.worker.service import Worker

CONNECTIONS = 50
STUCK_AFTER_SWEEPS = 4
"""After how many sweeps that were not begun a worker counts as stuck."""
STUCK_AFTER_S = 60
"""At least so long: the chores of one sweep wait for a database that is away."""


class _Server(uvicorn.Server):
    """uvicorn beside a worker, which handles the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def watched(worker: Worker, settings: Settings, port: int) -> AsyncIterator[None]:
    """Listen on this port (``WORKER_PORT``) within the block.

    Raises:
        StartError: when the port is taken.
    """
    with listener(settings.host, port, setting="WORKER_PORT") as opened:
        config = uvicorn.Config(
            app_over(worker, settings),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            http="httptools",
            ws="none",
            limit_concurrency=CONNECTIONS,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[opened]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving


def app_over(worker: Worker, settings: Settings) -> Starlette:
    """``/health`` and, where it is open, ``/metrics``, as those of ``serve``."""
    stuck_after_s = max(STUCK_AFTER_S, STUCK_AFTER_SWEEPS * settings.sweep_every_s)
    token = settings.metrics_token.get_secret_value() if settings.metrics_token else None

    async def health(_request: Request) -> Response:
        is_stuck = time.monotonic() - worker.swept_at > stuck_after_s
        return JSONResponse({"status": "stuck" if is_stuck else "ok"}, 503 if is_stuck else 200)

    async def metrics(request: Request) -> Response:
        shown = exposition(request.headers.get("Authorization"), token)
        if shown is None:
            return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return Response(shown, media_type=CONTENT_TYPE)

    routes = [Route("/health", health)]
    if settings.metrics_public or token is not None:
        routes.append(Route("/metrics", metrics))
    return Starlette(routes=routes)
