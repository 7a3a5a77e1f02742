"""The servers that an address names, of which one takes writes. The one that answered last is asked first.

A server that is gone without a word takes all the time that a connection may take, so a server goes to the end of the
list until it has answered: the next attempt begins with another.
"""

from typing import Any

import asyncpg

from payment_service.postgres.connecting import UnsuitableDatabaseError, check_encoding


class Servers:
    """Where connections are made. ``arguments`` as ``connect_arguments`` gives them."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._arguments = arguments
        host, port = arguments["host"], arguments["port"]
        self._servers = list(zip(host, port, strict=True)) if isinstance(host, list) else [(host, port)]

    async def connect(self, **more: Any) -> asyncpg.Connection:
        """A connection that was looked at before anybody uses it; ``more`` for asyncpg.

        Raises:
            OSError, asyncpg.PostgresError: when none of them takes writes; what the last one said.
            UnsuitableDatabaseError: when the database must not be used.
        """
        left = list(self._servers)
        while True:
            server = left.pop(0)
            self._servers.remove(server)
            self._servers.append(server)
            host, port = server
            try:
                connection: asyncpg.Connection = await asyncpg.connect(
                    **{**self._arguments, **more, "host": host, "port": port}
                )
            except Exception:
                if not left:
                    raise
                continue
            self._servers.remove(server)
            self._servers.insert(0, server)
            try:
                check_encoding(connection)
            except UnsuitableDatabaseError:
                connection.terminate()
                raise
            return connection
