"""Routing kept in memory, fresh in every process: the database tells each change, and silence is not trusted.

While the listener is not connected nothing is served from here, so every lookup goes to the database.
"""

import asyncio
from typing import Generic, TypeVar

import asyncpg

from payment_service.database import Database
from payment_service.logs import get_logger

CHANNEL = "routing_changed"
RECONNECT_S = 1.0
PROBE_S = 1.0
log = get_logger(__name__)

Config = TypeVar("Config")


class RouteMemory(Generic[Config]):
    """What is known of each shop's routing, as long as a listener vouches for it."""

    def __init__(self) -> None:
        self._known: dict[int, Config] = {}
        self._trusted = False
        self._changes = 0

    def get(self, shop_id: int) -> Config | None:
        """What is known of the shop; none when it must be read."""
        return self._known.get(shop_id) if self._trusted else None

    def ticket(self) -> int:
        """Taken before a read and given back with its result."""
        return self._changes

    def put(self, shop_id: int, config: Config, ticket: int) -> None:
        """Keep what was read, unless anything changed while it was being read."""
        if self._trusted and ticket == self._changes:
            self._known[shop_id] = config

    def forget(self, shop_id: int) -> None:
        """The shop's routing changed."""
        self._changes += 1
        self._known.pop(shop_id, None)

    def trust(self, *, trusted: bool) -> None:
        """Begin or end to serve from memory; either way with nothing in it."""
        self._changes += 1
        self._known.clear()
        self._trusted = trusted

    async def listen(self, database: Database) -> None:
        """Keep the memory fresh until cancelled. Connects again whenever the connection is lost."""
        while True:
            try:
                connection = await database.raw_connection()
                try:
                    await self._listen_on(connection)
                finally:
                    self.trust(trusted=False)
                    connection.terminate()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.warning("routing memory is off until the database can be heard", error=type(error).__name__)
            await asyncio.sleep(RECONNECT_S)

    async def _listen_on(self, connection: asyncpg.Connection) -> None:
        lost = asyncio.Event()

        def on_loss(_connection: object) -> None:
            self.trust(trusted=False)
            lost.set()

        connection.add_termination_listener(on_loss)
        await connection.add_listener(CHANNEL, lambda _c, _pid, _channel, shop_id: self.forget(int(shop_id)))
        self.trust(trusted=True)
        while not lost.is_set():
            try:
                async with asyncio.timeout(PROBE_S):
                    await lost.wait()
            except TimeoutError:
                # A connection can die without a word; a probe that is not answered ends the trust.
                await connection.execute("SELECT 1", timeout=PROBE_S)
