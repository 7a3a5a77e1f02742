"""LISTEN on the database. It reconnects when the connection is lost; one that does not answer is not trusted."""

import asyncio
from collections.abc import Callable, Mapping

import asyncpg

from payment_service.observability.logs import get_logger
from payment_service.postgres.database import Database

RECONNECT_S = 1.0
PROBE_S = 1.0
log = get_logger(__name__)


def _nothing() -> None:
    """Ignored."""


async def listen(
    database: Database,
    channels: Mapping[str, Callable[[str], None]],
    *,
    connected: Callable[[], None] = _nothing,
    lost: Callable[[], None] = _nothing,
) -> None:
    """Call the function of each channel with every message of it, over one connection, until cancelled.

    Between ``lost`` and ``connected`` notifications are missed: the caller has to look for itself then.
    """
    while True:
        try:
            connection = await database.raw_connection()
            try:
                await _listen_on(connection, channels, connected, lost)
            finally:
                lost()
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            log.warning("not listening to the database", channels=sorted(channels), error=type(error).__name__)
        await asyncio.sleep(RECONNECT_S)


async def _listen_on(
    connection: asyncpg.Connection,
    channels: Mapping[str, Callable[[str], None]],
    connected: Callable[[], None],
    lost: Callable[[], None],
) -> None:
    gone = asyncio.Event()

    def on_loss(_connection: object) -> None:
        lost()
        gone.set()

    connection.add_termination_listener(on_loss)
    for channel in channels:
        await connection.add_listener(channel, lambda _connection, _pid, name, message: channels[name](message))
    connected()
    while not gone.is_set():
        try:
            async with asyncio.timeout(PROBE_S):
                await gone.wait()
        except TimeoutError:
            # A connection can die without a word; a probe that is not answered ends the trust.
            await connection.execute("SELECT 1", timeout=PROBE_S)
