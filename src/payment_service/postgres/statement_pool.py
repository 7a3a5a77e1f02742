"""Connections for single statements: each is its own transaction, prepared once, one round trip.

Only the path of a payment uses them: SQLAlchemy's share of such a statement is four to five times the statement itself.
A connection is not pinged before it is used, unless it was idle; after any doubt it is dropped, and whether its
statement took effect is for the caller to find out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from payment_service.observability.metrics import CONNECTION_WAIT

PING_AFTER_IDLE_S: Final = 1.0
"""A connection that was idle for longer is pinged before it is used."""
NO_ANSWER: Final = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a statement that cannot be wrong raises on a connection that is lost."""
_GONE: Final = ("08", "25P03", "25P04", "57P")
"""SQLSTATEs that end a connection: it was lost, it was cut off after a timeout, or the server is stopping."""


def _drop_unreplicated(connection: asyncpg.Connection, message: asyncpg.PostgresLogMessage) -> None:
    """Drop the connection when the wait for a replica is cancelled: PostgreSQL only warns, and reports a commit."""
    if message.server_source_function == "SyncRepWaitForLSN":
        connection.terminate()


class StatementPool:
    """A small pool of raw connections. ``wait_s`` is for how long a statement waits for one, in seconds."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]], size: int, *, wait_s: float) -> None:
        self._connect = connect
        self._free = asyncio.Semaphore(size)
        self._wait_s = wait_s
        self._idle: list[tuple[float, asyncpg.Connection]] = []

    async def fetch(self, query: str, *args: Any, within_s: float | None = None) -> list[asyncpg.Record]:
        """Run one statement and return its rows, within so many seconds from now.

        Raises:
            asyncpg.PostgresError: the server refused it.
            OSError, sqlalchemy.exc.TimeoutError: the connection was lost, or none was free in time.
        """
        begun = time.monotonic()
        connection = await self._acquire()
        try:
            # The driver has a timer for each statement anyway: none is put around it.
            left_s = within_s and within_s - (time.monotonic() - begun)
            rows: list[asyncpg.Record] = await connection.fetch(query, *args, timeout=left_s)
        except asyncpg.PostgresError as error:
            self._release(connection, lost=(error.sqlstate or "").startswith(_GONE))
            raise
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # What asyncpg raises for a connection that was killed while it was idle.
            self._release(connection, lost=True)
            raise ConnectionResetError("the connection was lost") from error
        except BaseException:
            self._release(connection, lost=True)
            raise
        self._release(connection)
        if connection.is_closed():  # _drop_unreplicated closed it
            raise ConnectionResetError("the connection was lost")
        return rows

    async def fetchrow(self, query: str, *args: Any, within_s: float | None = None) -> asyncpg.Record | None:
        """As ``fetch``, for the first row."""
        rows = await self.fetch(query, *args, within_s=within_s)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Close what is idle; a statement under way ends by itself."""
        while self._idle:
            _, connection = self._idle.pop()
            connection.terminate()

    async def _acquire(self) -> asyncpg.Connection:
        if not self._free.locked() and (connection := self._newest()) is not None:
            await self._free.acquire()  # does not wait: none is held by others than those who run a statement
            return connection
        is_full, begun = self._free.locked(), time.perf_counter()
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
                if is_full:
                    CONNECTION_WAIT.observe(time.perf_counter() - begun)
                try:
                    return await self._answering()
                except BaseException:
                    self._free.release()
                    raise
        except TimeoutError as error:
            if is_full:
                CONNECTION_WAIT.observe(time.perf_counter() - begun)
            raise PoolTimeoutError("no connection answered in time") from error

    def _newest(self) -> asyncpg.Connection | None:
        """A connection that was used a moment ago."""
        if self._idle and time.monotonic() - self._idle[-1][0] < PING_AFTER_IDLE_S:
            _, connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _answering(self) -> asyncpg.Connection:
        """A connection that answers, a new one when none does."""
        while self._idle:
            used_at, connection = self._idle.pop()
            if connection.is_closed():
                continue
            if time.monotonic() - used_at < PING_AFTER_IDLE_S:
                return connection
            try:
                await connection.execute("SELECT 1")
            except NO_ANSWER:
                connection.terminate()
            except BaseException:
                connection.terminate()
                raise
            else:
                return connection
        connection = await self._connect()
        connection.add_log_listener(_drop_unreplicated)
        return connection

    def _release(self, connection: asyncpg.Connection, *, lost: bool = False) -> None:
        if lost:
            connection.terminate()
        elif not connection.is_closed():
            self._idle.append((time.monotonic(), connection))
        self._free.release()
