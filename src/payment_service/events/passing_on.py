"""Passing events on: each, once, to everybody who takes events, in the transaction that notes that it was.

Takers write down what they will do with an event (a delivery, a message) and enqueue it; they call nobody.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.database import Database
from payment_service.events.models import Event
from payment_service.events.waiting import CHANNEL
from payment_service.listening import listen
from payment_service.logs import get_logger

BATCH: Final = 200
# Events of one object must be passed on in their order, so one worker at a time passes on, and the others wait for it.
_ONE_AT_A_TIME: Final = text("SELECT pg_advisory_xact_lock(hashtext('passing_on'))")

Taker: TypeAlias = Callable[[AsyncSession, Sequence[Event]], Awaitable[None]]
"""Takes events, oldest first, in the caller's transaction."""
log = get_logger(__name__)


@dataclass(slots=True)
class PassingOn:
    """Hears of events and passes them on."""

    database: Database
    takers: Sequence[Taker]
    _written: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Pass on whatever is written, as soon as it is, until cancelled. What fails the next sweep does."""
        async with asyncio.TaskGroup() as group:
            group.create_task(listen(self.database, CHANNEL, self._hear, connected=self._written.set))
            while True:
                await self._written.wait()
                self._written.clear()
                try:
                    await self.pass_on()
                except Exception as error:  # noqa: BLE001 - events are written down, and the next time finds them
                    log.warning("events not passed on yet", error=type(error).__name__)

    async def pass_on(self) -> int:
        """Pass on everything that waits; returns how many events."""
        passed = 0
        while batch := await self._pass_on_batch():
            passed += batch
        return passed

    async def _pass_on_batch(self) -> int:
        waiting = select(Event).where(Event.passed_on_at.is_(None))
        async with self.database.transaction() as session:
            await session.execute(_ONE_AT_A_TIME)
            # By id after the time: both of them grow.
            oldest = waiting.order_by(Event.created_at, Event.id).limit(BATCH)
            events = list(await session.scalars(oldest))
            if events:
                for take in self.takers:
                    await take(session, events)
                ids = [event.id for event in events]
                await session.execute(
                    update(Event).where(Event.id.in_(ids)).values(passed_on_at=func.now()),
                    execution_options={"synchronize_session": False},
                )
        return len(events)

    def _hear(self, _message: str) -> None:
        self._written.set()
