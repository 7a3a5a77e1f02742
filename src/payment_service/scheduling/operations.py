"""Operations under way: once begun they run to their end, even if the caller disconnects or the answer takes long."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from payment_service.observability.logs import get_logger

Result = TypeVar("Result")
ANSWER_WITHIN_S: Final = 8.5
"""How long the caller of one waits: the PHP client waits 10 s, and a money call answers within 9 s
(docs/contract.md section 4)."""
log = get_logger(__name__)


class NotEndedYet(Exception):
    """The moment came first; the operation goes on. Not a TimeoutError: that may be the operation's own end."""


class InFlight:
    """The tasks of this process that must not be cut off."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, operation: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start an operation that outlives its caller."""
        task = asyncio.create_task(operation)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def wait(self, task: asyncio.Task[Result], *, until: float) -> Result:
        """Wait for an operation until a moment of the loop's clock; it goes on when the wait ends.

        Raises:
            NotEndedYet: when the moment came first.
        """
        await asyncio.wait({task}, timeout=max(until - asyncio.get_running_loop().time(), 0))
        if not task.done():
            raise NotEndedYet
        return task.result()

    async def drain(self, timeout_s: float) -> int:
        """Let everything end, for at most ``timeout_s`` seconds; returns how many operations did not."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return len(self._tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Read here, so that an error whose caller has left is logged instead of lost.
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("operation ended with an error", error=type(error).__name__)
