"""Due work: rows with a time and a lease, claimed by any number of workers on any number of machines.

A kind of work defines how its due rows are claimed: one statement takes as many as there are free slots, skips what
others are taking, and moves their time to the end of a lease. Performing a claimed row plans its row anew when it
ends; the lease of a worker that died simply ends, and the row is due again. So work is done at least once, and every
work must be safe to repeat.

What was done and could not be written down is done again when its lease ends. Where that is noticed outside, as a
message that comes again, the row waits longer each time.

Nothing is queued: the rows are the queue. Whoever makes work due at once notifies the workers after the commit
(``wake``). A notification that was lost costs at most ``IDLE_S``, the interval at which every worker looks for itself.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, Generic, Protocol, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.observability.logs import get_logger
from payment_service.postgres.database import is_unreachable
from payment_service.postgres.signals import after_commit
from payment_service.scheduling.failures import count_failure
from payment_service.scheduling.jitter import jitter

WORK_DUE: Final = "work_due"
"""The channel on which work that is due at once is announced, by its kind."""
IDLE_S: Final = 1.0
"""How often due rows are looked for without a notification. What is due sooner than that is announced."""
GATHER_S: Final = 0.01
"""Between two claims: what becomes due or free meanwhile is claimed together."""
RETRY_S = 1.0
"""After a claim that failed."""
FIRST_PAUSE_S: Final = 60.0
LONGEST_PAUSE_S: Final = 3600.0
"""How long a row is left alone after the database has refused its result, first and at most; doubled each time."""
_MOST_REFUSED: Final = 10_000
Claimed = TypeVar("Claimed")
Item = TypeVar("Item")
log = get_logger(__name__)


class Kind(StrEnum):
    """What can be due."""

    READINGS = "readings"
    DELIVERIES = "deliveries"
    MESSAGES = "messages"


def wake(session: AsyncSession, kind: Kind) -> None:
    """Let workers look for work of this kind as soon as the session's transaction is committed."""
    after_commit(session, WORK_DUE, kind)


class DueWork(Protocol[Claimed]):
    """One kind of due work."""

    @property
    def kind(self) -> Kind:
        """Which one."""

    @property
    def slots(self) -> int:
        """How many rows one worker works on at once."""

    async def claim(self, at_most: int) -> Sequence[Claimed]:
        """Claim due rows until their leases end. Each of them is then performed."""

    async def due_in_s(self) -> float | None:
        """How long until the next row is due, in seconds; none when nothing is planned."""

    async def perform(self, claimed: Claimed) -> None:
        """Do the work, write its result, and plan the row anew."""

    def repeated(self, claimed: Claimed) -> Hashable | None:
        """What is noticed outside when the row is performed again; none where nothing is."""

    async def bring_forward(self) -> int:
        """Make due now what is planned later, or leased for longer, than any plan or lease allows; returns how many."""


class Dispatcher(Generic[Claimed]):
    """Claims due work of one kind and performs it in a bounded number of slots, until told to stop."""

    def __init__(self, work: DueWork[Claimed]) -> None:
        self._work = work
        self._running: set[asyncio.Task[None]] = set()
        self._woken = asyncio.Event()
        self._refused = _Refused()
        self._stopping = False
        self.is_held = False
        """While true, nothing is claimed."""

    async def run(self) -> None:
        """Work until ``stop`` is called, then finish the work under way."""
        while not self._stopping:
            self._woken.clear()
            try:
                pause_s = await self._dispatch()
            except Exception as error:  # noqa: BLE001 - whatever it is, work must go on when it has passed
                count_failure(self._work.kind, error)
                log.warning("due work cannot be claimed", kind=self._work.kind, error=type(error).__name__)
                pause_s = RETRY_S * jitter(1.5)
            await self._pause(pause_s)
        if self._running:
            await asyncio.wait(self._running)

    async def bring_forward(self) -> None:
        """Make due now what was planned while the database's clock was ahead.

        A lease of more than twice its length, or a pause longer than its plan and a lease, was set by such a clock.
        """
        if brought := await self._work.bring_forward():
            log.warning("due work was planned by a clock that was ahead", kind=self._work.kind, brought=brought)
            self.wake()

    def wake(self) -> None:
        """Look for due work now."""
        self._woken.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._woken.set()

    async def _dispatch(self) -> float:
        """Start what is due; how long to wait before the next look, unless woken."""
        free = 0 if self.is_held else self._work.slots - len(self._running)
        batch = await self._work.claim(free) if free > 0 else ()
        for claimed in batch:
            task = asyncio.create_task(self._perform(claimed))
            self._running.add(task)
            task.add_done_callback(self._ended)
        if batch:
            return 0  # there may be more
        # Jitter, so that many workers do not look in step.
        idle_s = IDLE_S / jitter(1.25)
        due_in_s = await self._work.due_in_s() if free > 0 else None
        return idle_s if due_in_s is None else min(due_in_s, idle_s)

    async def _perform(self, claimed: Claimed) -> None:
        """Perform one row. A failure is logged here, where its context is bound."""
        repeated = self._work.repeated(claimed)
        if self._refused.holds(repeated):
            return  # its lease ends, and it is asked again whether its time has come
        try:
            await self._work.perform(claimed)
        except Exception as error:  # noqa: BLE001 - the lease ends, and the row is due again
            count_failure(self._work.kind, error)
            log.warning("due work failed", kind=self._work.kind, error=type(error).__name__)
            if repeated is not None and not is_unreachable(error):
                self._refused.add(repeated)
        else:
            self._refused.forget(repeated)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._woken.set()  # a slot is free, and what waited for it may be due

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(GATHER_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(max(seconds - GATHER_S, 0)):
                await self._woken.wait()


class _Refused:
    """Rows whose result the database refused, and until when each of them is left alone."""

    def __init__(self) -> None:
        self._rows: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """The moment until which it is left alone, and the pause that led to it, in seconds."""

    def holds(self, row: Hashable) -> bool:
        return row in self._rows and time.monotonic() < self._rows[row][0]

    def add(self, row: Hashable) -> None:
        _until, last_s = self._rows.pop(row, (0, FIRST_PAUSE_S / 2))
        pause_s = min(2 * last_s, LONGEST_PAUSE_S)
        self._rows[row] = (time.monotonic() + pause_s, pause_s)
        if len(self._rows) > _MOST_REFUSED:
            self._rows.popitem(last=False)

    def forget(self, row: Hashable) -> None:
        self._rows.pop(row, None)


class BatchWriter(Generic[Item]):
    """Batches writes: items that come while a statement runs are written by the next. If it fails, each goes alone."""

    def __init__(self, write: Callable[[Sequence[Item]], Awaitable[Any]]) -> None:
        self._write_all = write
        self._waiting: list[tuple[Item, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def write(self, item: Item) -> None:
        """Write an item; returns when it is written.

        Raises:
            Exception: what the statement raised that held this item alone, or whatever says that the database is away.
        """
        written = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_batches())
        await written

    async def _write_batches(self) -> None:
        while self._waiting:
            together, self._waiting = self._waiting, []
            try:
                await self._write_all([item for item, _ in together])
            except Exception as error:  # noqa: BLE001 - it is raised to each item's writer
                for item, written in together:
                    await self._write_alone(item, written, error, alone=len(together) == 1)
            else:
                for _, written in together:
                    _settle(written, None)

    async def _write_alone(self, item: Item, written: asyncio.Future[None], error: Exception, *, alone: bool) -> None:
        outcome: Exception | None = error
        if not (alone or is_unreachable(error)):
            try:
                await self._write_all([item])
                outcome = None
            except Exception as own_error:  # noqa: BLE001 - as above
                outcome = own_error
        _settle(written, outcome)


def _settle(written: asyncio.Future[None], error: Exception | None) -> None:
    if written.done():  # whoever waited was cancelled
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
