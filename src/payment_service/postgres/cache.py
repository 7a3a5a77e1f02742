"""Rows kept in memory, fresh in every process: the database notifies each change, and silence is not trusted.

For what every request needs and what rarely changes: routes and API keys. While the listener is not connected nothing
is served from memory, so every look-up goes to the database.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, Generic, TypeVar

from payment_service.observability.metrics import MEMORY_LOOKUPS, labelled
from payment_service.postgres.database import Database
from payment_service.postgres.listening import listen

CHECK_SERVERS_EVERY_S: Final = 15.0
"""A server that another one has replaced still answers its listener, so silence does not show it."""

Name = TypeVar("Name", bound=Hashable)
Row = TypeVar("Row")


class Cache(Generic[Name, Row]):
    """Rows by name, as long as a listener keeps them fresh. Only rows that were found are kept, never guesses."""

    def __init__(self, channel: str, *, name_of: Callable[[str], Name] | None = None) -> None:
        """``channel`` is where the database notifies of a changed row; ``name_of`` turns the payload into its name.

        Without ``name_of`` a change of any row forgets all of them.
        """
        self.channel = channel
        self._name_of = name_of
        self._rows: dict[Name, Row] = {}
        self._trusted = False
        self._changes = 0

    def get(self, name: Name) -> Row | None:
        """The row; none when it must be read."""
        return self._rows.get(name) if self._trusted else None

    async def get_or_read(self, name: Name, read: Callable[[Name], Awaitable[Row]]) -> Row:
        """The row, read when it is not known; kept unless anything changed while it was being read."""
        row = self.get(name)
        labelled(MEMORY_LOOKUPS, self.channel.removesuffix("_changed"), "memory" if row else "database").inc()
        if row is None:
            changes = self._changes
            row = await read(name)
            if self._trusted and changes == self._changes:
                self._rows[name] = row
        return row

    def invalidate(self, message: str) -> None:
        """Take a notification of a change."""
        if self._name_of is None:
            self.forget_all()
        else:
            self.forget(self._name_of(message))

    def forget(self, name: Name) -> None:
        """The row changed."""
        self._changes += 1
        self._rows.pop(name, None)

    def forget_all(self) -> None:
        """Some row changed."""
        self._changes += 1
        self._rows.clear()

    def trust(self, *, trusted: bool) -> None:
        """Start or stop serving from memory; either way it is emptied."""
        self.forget_all()
        self._trusted = trusted


async def keep_fresh(database: Database, *caches: Cache[Any, Any]) -> None:
    """Keep the caches fresh over one connection until cancelled; they are off while it is not connected."""

    def trust(*, trusted: bool) -> None:
        for cache in caches:
            cache.trust(trusted=trusted)

    async def check_servers() -> None:
        while True:
            await asyncio.sleep(CHECK_SERVERS_EVERY_S)
            await database.check_servers()

    await asyncio.gather(
        listen(
            database,
            {cache.channel: cache.invalidate for cache in caches},
            connected=lambda: trust(trusted=True),
            lost=lambda: trust(trusted=False),
        ),
        check_servers(),
    )
