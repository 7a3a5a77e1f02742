"""Routing kept in memory, fresh in every process: the database tells each change, and silence is not trusted.

While the listener is not connected nothing is served from here, so every lookup goes to the database.
"""

from typing import Generic, TypeVar

from payment_service.postgres.database import Database
from payment_service.postgres.listening import listen

CHANNEL = "routing_changed"

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
        """Keep the memory fresh until cancelled; it is off while the database cannot be heard."""
        await listen(
            database,
            {CHANNEL: lambda shop_id: self.forget(int(shop_id))},
            connected=lambda: self.trust(trusted=True),
            lost=lambda: self.trust(trusted=False),
        )
