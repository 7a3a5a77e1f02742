"""``work``: the worker, its signals, around the services."""

import asyncio
import contextlib
import signal

from payment_service.observability import logs
from payment_service.programs.start import check_database, observed
from payment_service.services import build
from payment_service.settings import Settings
from payment_service.worker.service import Worker, worker_over

log = logs.get_logger(__name__)


async def work(settings: Settings) -> None:
    """Run a worker until told to stop.

    Raises:
        StartError: as for ``serve``.
    """
    await check_database(settings)
    services = build(settings)
    worker = worker_over(services)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, worker.stop)
    log.info("worker started")
    try:
        with observed(settings, "worker"):
            async with _watched(worker, settings):
                await worker.run()
    finally:
        await services.inflight.drain(settings.shutdown_grace_s)
        await services.close()


def _watched(worker: Worker, settings: Settings) -> contextlib.AbstractAsyncContextManager[None]:
    if settings.worker_port is None:
        return contextlib.nullcontext()
    from payment_service.programs.watching import watched  # noqa: PLC0415 - a third more memory, for a port

    return watched(worker, settings, settings.worker_port)
