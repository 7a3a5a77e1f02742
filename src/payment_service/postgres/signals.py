"""Notifying other processes (NOTIFY) of what was committed.

Never inside a transaction that others wait for: a commit with a NOTIFY takes a lock of the whole cluster until it is
flushed. So a signal is sent after its commit, on a connection of its own, with those that gathered meanwhile. A signal
may be lost with its process or its connection: every listener also polls now and then.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.observability.logs import get_logger

TIMEOUT_S: Final = 2.0
GATHER_S: Final = 0.02
"""How long a process gathers signals after it sent some. One that comes alone is sent at once."""
TRIES: Final = 2
"""A connection that was lost while it was idle is noticed when it is used."""
_NOTIFY: Final = "SELECT pg_notify(channel, payload) FROM unnest($1::text[], $2::text[]) AS signal (channel, payload)"
_NOTED: Final = "signals"
log = get_logger(__name__)

Signal: TypeAlias = tuple[str, str]
"""A channel and a payload of under 8,000 bytes."""


class Signals:
    """Sends signals in the background. ``connect`` opens a connection that is used for nothing else."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._waiting: dict[Signal, None] = {}
        """In the order in which they came, each once."""
        self._sending: asyncio.Task[None] | None = None

    def send(self, channel: str, payload: str = "") -> None:
        """Send a signal on a channel soon. Does not wait and never raises; equal signals that wait are one."""
        self._waiting[channel, payload] = None
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def close(self) -> None:
        """Send what waits, and close the connection."""
        if self._sending is not None:
            await asyncio.wait({self._sending}, timeout=2 * TRIES * TIMEOUT_S)
        self._terminate()

    async def _send_all(self) -> None:
        while self._waiting:
            signals, self._waiting = list(self._waiting), {}
            for left in reversed(range(TRIES)):
                try:
                    await self._send_together(signals)
                    break
                except Exception as error:  # noqa: BLE001 - asyncpg has many words for a connection that was killed
                    self._terminate()
                    if not left:
                        log.warning("signals were lost", signals=len(signals), error=type(error).__name__)
            await asyncio.sleep(GATHER_S)

    async def _send_together(self, signals: list[Signal]) -> None:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect()
        channels, payloads = zip(*signals, strict=True)
        await self._connection.execute(_NOTIFY, channels, payloads, timeout=TIMEOUT_S)

    def _terminate(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def after_commit(session: AsyncSession, channel: str, payload: str) -> None:
    """Note a signal for ``Database.transaction()`` to send when the session's transaction was committed."""
    session.info.setdefault(_NOTED, {})[channel, payload] = None


def noted(info: dict[Any, Any]) -> list[Signal]:
    """The signals that a session's ``info`` holds."""
    return list(info.get(_NOTED, ()))
