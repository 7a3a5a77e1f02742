"""Waiting for events in this process: whoever waits hears of an event as soon as it is committed, without asking.

The database tells (NOTIFY). While it cannot be heard everybody who waits is woken now and then, to look for itself.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from payment_service.database import Database
from payment_service.listening import listen

CHANNEL = "event_written"


@dataclass(frozen=True, slots=True)
class Heard:
    """What the database tells of an event."""

    id: UUID
    type: str
    subject_id: str
    shop_id: int | None


@dataclass(slots=True, eq=False)
class Ear:
    """One who waits: for events of one subject, or for all."""

    subject_id: str | None
    _events: asyncio.Queue[Heard | None] = field(default_factory=lambda: asyncio.Queue(maxsize=1000))

    async def next(self, within_s: float) -> Heard | None:
        """The next event; none when there is none in time, or when some may have gone by unheard."""
        try:
            async with asyncio.timeout(within_s):
                return await self._events.get()
        except TimeoutError:
            return None

    def tell(self, event: Heard | None) -> None:
        """Something happened, or it is not known what did."""
        if event is None or self.subject_id in {None, event.subject_id}:
            if self._events.full():
                # Whoever cannot keep up looks for itself, and loses nothing.
                while not self._events.empty():
                    self._events.get_nowait()
                event = None
            self._events.put_nowait(event)


class Ears:
    """Everybody in this process who waits for an event."""

    def __init__(self) -> None:
        self._ears: set[Ear] = set()
        self.hears = False
        """Whether the database can be heard. If not, whoever waits must look now and then."""

    @contextmanager
    def open(self, subject_id: UUID | None = None) -> Iterator[Ear]:
        """Wait for events of a subject, or for all. Open it before looking: nothing happens unheard in between."""
        ear = Ear(str(subject_id) if subject_id else None)
        self._ears.add(ear)
        try:
            yield ear
        finally:
            self._ears.discard(ear)

    async def listen(self, database: Database) -> None:
        """Pass on what the database tells, until cancelled."""
        await listen(
            database,
            CHANNEL,
            self._hear,
            connected=lambda: self._may_have_missed(hears=True),
            lost=lambda: self._may_have_missed(hears=False),
        )

    def _hear(self, message: str) -> None:
        said = json.loads(message)
        self._tell(Heard(UUID(said["id"]), said["type"], said["subject_id"], said["shop_id"]))

    def _may_have_missed(self, *, hears: bool) -> None:
        self.hears = hears
        self._tell(None)

    def _tell(self, event: Heard | None) -> None:
        for ear in tuple(self._ears):
            ear.tell(event)
