"""The worker: reads open payments, delivers events, sends messages, and repairs what was lost.

Each kind of due work has a loop and slots of its own, so that a flood of one never keeps the others waiting.
"""

import asyncio
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from payment_service import __version__
from payment_service.audit.sealing import AuditSeals
from payment_service.events.outbox import EVENT_WRITTEN
from payment_service.events.relay import Relay
from payment_service.idempotency.holding import Holding, HoldReason
from payment_service.identifiers import new_id
from payment_service.observability.context import Origin, origin
from payment_service.observability.lag import measure_lag
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import (
    DATABASE_CLOCK_AHEAD,
    DELIVERIES_WAITING,
    LAST_SWEEP,
    LAWS_OFF,
    LOG_MONTHS_AHEAD,
    LOG_ROWS_ASTRAY,
    OLDEST_DUE,
    OLDEST_OPEN,
    OPEN,
    SENDING_HELD,
    TASKS,
    TOKENS_UNREADABLE,
    WORK_FAILURES,
    alarm,
    begin_at_zero,
)
from payment_service.payments import queries as payment_queries
from payment_service.payments.polling import Polling
from payment_service.postgres.database import Database
from payment_service.postgres.guarantees import laws_off
from payment_service.postgres.health import database_health
from payment_service.postgres.listening import listen
from payment_service.postgres.months import make_months, months
from payment_service.refunds import queries as refund_queries
from payment_service.refunds.settling import RefundSettling
from payment_service.routing.service import Routing
from payment_service.scheduling.due import WORK_DUE, Dispatcher, Kind
from payment_service.scheduling.failures import count_failure
from payment_service.scheduling.ticks import tick
from payment_service.services import Services
from payment_service.webhooks.delivery import count_waiting_deliveries

_SENT_OUTSIDE: Final = (Kind.DELIVERIES, Kind.MESSAGES)
log = get_logger(__name__)


def worker_over(services: Services) -> "Worker":
    """A worker that calls these services."""
    return Worker(
        services.database,
        services.polling,
        services.refund_settling,
        services.holding,
        services.routing,
        AuditSeals(services.database),
        Relay(services.database, [services.deliveries.consume, services.notifications.consume]),
        {work.kind: Dispatcher(work) for work in (services.polling, services.deliveries, services.notifications)},
        services.due_since,
        services.settings.sweep_every_s,
    )


@dataclass(slots=True)
class Worker:
    """One worker of possibly many."""

    database: Database
    polling: Polling
    refund_settling: RefundSettling
    holding: Holding
    routing: Routing
    audit_seals: AuditSeals
    relay: Relay
    dispatchers: dict[str, Dispatcher[Any]]
    """By the kind of work."""
    due_since: Callable[[], Awaitable[Mapping[str, datetime | None]]]
    sweep_every_s: float = 15
    id: UUID = field(default_factory=new_id)
    swept_at: float = field(default_factory=time.monotonic)
    """When the last sweep began, by the monotonic clock."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _hold_reason: HoldReason | None = None
    _laws_off: str | None = None
    _unreadable_tokens: set[int] = field(default_factory=set)
    """Shops."""

    async def run(self) -> None:
        """Work until ``stop`` is called, then finish the work under way. Waits for a lost database."""
        origin.set(Origin("worker"))
        self._hold_notifications(held=True)  # until the first sweep has checked whether this is a copy
        beside = {asyncio.create_task(one) for one in (self._listen(), self.relay.run(), measure_lag())}
        try:
            await asyncio.gather(self._sweep(), *(dispatcher.run() for dispatcher in self.dispatchers.values()))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    def stop(self) -> None:
        """Claim no more and finish the work under way."""
        self._stopping.set()
        for dispatcher in self.dispatchers.values():
            dispatcher.stop()

    async def _listen(self) -> None:
        """Wait for notifications of due work. After a reconnect, look for what was missed."""

        def wake_all() -> None:
            self.relay.wake()
            for dispatcher in self.dispatchers.values():
                dispatcher.wake()

        def wake(kind: str) -> None:
            if kind in self.dispatchers:
                self.dispatchers[kind].wake()

        handlers = {EVENT_WRITTEN: lambda _event: self.relay.wake(), WORK_DUE: wake}
        await listen(self.database, handlers, connected=wake_all)

    async def _sweep(self) -> None:
        """Do the periodic chores, until stopped."""
        chores = {
            "look_at_database": self._look_at_database,
            "look_at_laws": self._look_at_laws,
            "look_at_clock": self._look_at_clock,
            "look_at_tokens": self._look_at_tokens,
            "tick": self._tick,
            "mark_lost_payments": self._mark_lost_payments,
            "mark_lost_refunds": self._mark_lost_refunds,
            **{f"bring_{kind}_forward": one.bring_forward for kind, one in self.dispatchers.items()},
            "count": self._count,
            "look_for_late_work": self._measure_due_work,
            "make_months": self._make_months,
            "seal": self.audit_seals.seal,
        }
        begin_at_zero(WORK_FAILURES, ((name,) for name in (*chores, *self.dispatchers, "events")))
        while not self._stopping.is_set():
            self.swept_at = time.monotonic()
            LAST_SWEEP.set_to_current_time()
            for name, chore in chores.items():
                try:
                    await chore()
                except Exception as error:  # noqa: BLE001 - the next sweep does what this one could not
                    count_failure(name, error)
                    log.warning("sweep failed", chore=name, error=type(error).__name__)
            # Jitter, so that many workers do not sweep in step.
            await self._pause(self.sweep_every_s * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret

    async def _look_at_database(self) -> None:
        """Send no notifications from a copy of the database. Readings go on: they change nothing elsewhere."""
        await self.database.check_servers()
        await self.holding.follow_promotion()
        hold_reason = await self.holding.hold_reason()
        self._hold_notifications(held=hold_reason not in {None, HoldReason.HELD})
        SENDING_HELD.set(hold_reason is not None)
        if hold_reason is not None and hold_reason != self._hold_reason:
            alarm(log, "sending_held", because=hold_reason)
        self._hold_reason = hold_reason

    async def _look_at_laws(self) -> None:
        """Look whether the database still guards the record: it did when this process started."""
        async with self.database.reading() as session:
            off = await laws_off(session)
        LAWS_OFF.set(off is not None)
        if off is not None and off != self._laws_off:
            alarm(log, "laws_off", because=off)
        self._laws_off = off

    async def _look_at_clock(self) -> None:
        DATABASE_CLOCK_AHEAD.set((await database_health(self.database)).clock_ahead_s)

    async def _look_at_tokens(self) -> None:
        """Tell which shops take no payments because their device token cannot be decrypted, once each."""
        unreadable, _tokens = await self.routing.unreadable_tokens()
        TOKENS_UNREADABLE.set(len(unreadable))
        for shop_id in set(unreadable) - self._unreadable_tokens:
            alarm(log, "device_token_unreadable", shop_id=shop_id)
        self._unreadable_tokens = set(unreadable)

    def _hold_notifications(self, *, held: bool) -> None:
        for kind in _SENT_OUTSIDE:
            self.dispatchers[kind].is_held = held
            self.dispatchers[kind].wake()

    async def _tick(self) -> None:
        await tick(self.database, self.id, host=socket.gethostname(), version=__version__)

    async def _mark_lost_payments(self) -> None:
        if settled := await self.polling.mark_lost_unknown():
            log.warning("processes died while they were sending payments", settled=settled)

    async def _mark_lost_refunds(self) -> None:
        if settled := await self.refund_settling.mark_lost_unknown():
            log.warning("processes died while they were sending refunds", settled=settled)

    async def _count(self) -> None:
        """Set the metrics of open work here, so that a scrape does not query the database."""
        lease_s = self.polling.sending_lease_s
        async with self.database.reading() as session:
            DELIVERIES_WAITING.set(await count_waiting_deliveries(session))
            for kind, queries in (("payment", payment_queries), ("refund", refund_queries)):
                TASKS.labels(kind).set(await queries.count_for_people(session, sending_lease_s=lease_s))
                for state, (number, oldest_s) in (await queries.count_open(session)).items():
                    OPEN.labels(kind, state).set(number)
                    OLDEST_OPEN.labels(kind, state).set(oldest_s)

    async def _measure_due_work(self) -> None:
        """Set the metric of how long the oldest work of each kind has been due."""
        for kind, since in (await self.due_since()).items():
            OLDEST_DUE.labels(kind).set((datetime.now(UTC) - since).total_seconds() if since else 0)

    async def _make_months(self) -> None:
        """Make the partitions of missing months, and set the metrics of how many there are, made or not."""
        try:
            if made := await make_months(self.database):
                log.info("months made", made=made)
        finally:
            found = await months(self.database)
            LOG_MONTHS_AHEAD.set(found.ahead)
            LOG_ROWS_ASTRAY.set(bool(found.astray))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
