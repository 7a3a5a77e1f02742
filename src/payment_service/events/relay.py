"""Passes each event on to every consumer, once, in the transaction that marks it as passed on.

A consumer writes rows of work to do about an event (a delivery, a message); it makes no calls.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.events.models import Event
from payment_service.events.outbox import payment_of
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import alarm
from payment_service.observability.sentry import report
from payment_service.postgres.database import Database, is_unreachable
from payment_service.scheduling.failures import count_failure

BATCH: Final = 200
LOOK_EVERY_S: Final = 1.0
"""How often it looks for events that no notification announced."""
GATHER_S: Final = 0.02
"""Between two passes: what is written meanwhile is passed on together."""
# Events of one object must be passed on in their order, so one worker at a time passes on, and the others wait for it.
_ONE_AT_A_TIME: Final = text("SELECT pg_advisory_xact_lock(hashtext('passing_on'))")

# By id after the time: both of them grow.
_WAITING: Final = select(Event).where(Event.passed_on_at.is_(None)).order_by(Event.created_at, Event.id)

Consumer: TypeAlias = Callable[[AsyncSession, Sequence[Event]], Awaitable[None]]
"""Writes what is to be done about these events, oldest first, in the caller's transaction."""
log = get_logger(__name__)


@dataclass(slots=True)
class Relay:
    """Passes events on to the consumers when it is notified of one, and looks for missed ones now and then."""

    database: Database
    consumers: Sequence[Consumer]
    _written: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Pass on what is written, until cancelled. After a failure the next look tries again."""
        while True:
            with suppress(TimeoutError):
                # Jitter, so that many workers do not look in step.
                async with asyncio.timeout(LOOK_EVERY_S * random.uniform(0.8, 1.2)):  # noqa: S311 - not a secret
                    await self._written.wait()
            self._written.clear()
            try:
                await self.pass_on()
            except Exception as error:  # noqa: BLE001 - events are written down, and the next time finds them
                count_failure("events", error)
                log.warning("events not passed on yet", error=type(error).__name__)
            await asyncio.sleep(GATHER_S)

    def wake(self) -> None:
        """Look now: an event was written, or may have been."""
        self._written.set()

    async def pass_on(self) -> int:
        """Pass on everything that waits and can be consumed; returns how many events.

        Raises:
            DBAPIError, OSError: when the database is away.
        """
        passed = 0
        while True:
            batch = await self._pass_on_batch()
            passed += batch
            if batch < BATCH:
                return passed

    async def _pass_on_batch(self) -> int:
        """Pass on the oldest ones together; one by one when a consumer fails."""
        try:
            return await self._pass_on(BATCH)
        except Exception as error:
            if is_unreachable(error):
                raise
            async with self.database.reading() as session:
                waiting = list(await session.scalars(_WAITING.limit(BATCH)))
        return sum([await self._pass_on_alone(event) for event in waiting])

    async def _pass_on_alone(self, event: Event) -> int:
        """Pass on one event. If a consumer fails, it stays and does not block the others."""
        try:
            return await self._pass_on(1, Event.id == event.id)
        except Exception as error:
            if is_unreachable(error):
                raise
            report(error)
            alarm(log, "event_not_taken", event_id=str(event.id), payment_id=payment_of(event), exc_info=True)
            return 0

    async def _pass_on(self, at_most: int, *conditions: ColumnElement[bool]) -> int:
        async with self.database.transaction() as session:
            await session.execute(_ONE_AT_A_TIME)
            events = list(await session.scalars(_WAITING.where(*conditions).limit(at_most)))
            if events:
                for consume in self.consumers:
                    await consume(session, events)
                ids = [event.id for event in events]
                await session.execute(
                    update(Event).where(Event.id.in_(ids)).values(passed_on_at=func.now()),
                    execution_options={"synchronize_session": False},
                )
        return len(events)


async def events_waiting_since(session: AsyncSession) -> datetime | None:
    """When the oldest event that was not passed on was written; none when there is none."""
    query = select(Event.created_at).where(Event.passed_on_at.is_(None)).order_by(Event.created_at, Event.id).limit(1)
    return await session.scalar(query)
