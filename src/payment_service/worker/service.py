"""The worker: follows payments, settles what was lost, and comes back by itself when the database was away."""

import asyncio
import random
from dataclasses import dataclass, field

from payment_service.access.service import SERVICE
from payment_service.audit.sealing import AuditSeals
from payment_service.events.relay import PassingOn
from payment_service.notifications.service import Notify
from payment_service.observability.context import Origin, origin
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import TASKS
from payment_service.payments.polling import Polling
from payment_service.payments.settling import Settling
from payment_service.postgres.database import Database
from payment_service.postgres.queue import DELIVER_EVENTS, FOLLOW_PAYMENT, TELL_CHAT, Consumer, Handler, forget_old
from payment_service.refunds.service import Refunds
from payment_service.services import Services
from payment_service.webhooks.delivery import Deliveries

RESTART_AFTER_S = 1.0
JOBS_KEPT_DAYS = 3
log = get_logger(__name__)


def worker_over(services: Services) -> "Worker":
    """A worker that calls these services."""
    return Worker(
        services.database,
        services.polling,
        services.settling,
        services.refunds,
        AuditSeals(services.database),
        PassingOn(services.database, [services.deliveries.take, services.notify.take]),
        services.deliveries,
        services.notify,
        services.settings.sweep_every_s,
    )


@dataclass(slots=True)
class Worker:
    """One worker of possibly many."""

    database: Database
    polling: Polling
    settling: Settling
    refunds: Refunds
    audit_seals: AuditSeals
    passing_on: PassingOn
    deliveries: Deliveries
    notify: Notify
    sweep_every_s: float = 15
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _consumer: Consumer | None = None

    async def run(self) -> None:
        """Work until ``stop`` is called. A lost database is waited for."""
        origin.set(Origin("worker"))
        sweeping = asyncio.create_task(self._sweep())
        passing_on = asyncio.create_task(self.passing_on.run())
        try:
            while not self._stopping.is_set():
                try:
                    await self._consume()
                except Exception as error:  # noqa: BLE001 - whatever it is, payments must go on being followed
                    log.warning("worker starts again", error=type(error).__name__)
                    await self._pause(RESTART_AFTER_S)
        finally:
            await sweeping
            passing_on.cancel()
            await asyncio.wait({passing_on})

    def stop(self) -> None:
        """Take no more jobs and let those in hand end."""
        self._stopping.set()
        if self._consumer is not None:
            self._consumer.stop()

    async def _consume(self) -> None:
        connection = await self.database.raw_connection()
        try:
            handlers: dict[str, Handler] = {
                FOLLOW_PAYMENT: self.polling.follow,
                DELIVER_EVENTS: self.deliveries.deliver,
                TELL_CHAT: self.notify.tell,
            }
            # Telling the world must never keep payments from being followed.
            self._consumer = Consumer(connection, handlers, {DELIVER_EVENTS: self.deliveries.plan.at_once_in_all})
            if not self._stopping.is_set():
                await self._consumer.run()
        finally:
            self._consumer = None
            connection.terminate()

    async def _sweep(self) -> None:
        """Now and then look for what was lost, and for what waits for people."""
        while not self._stopping.is_set():
            for chore in (
                self._settle_lost_payments,
                self._settle_lost_refunds,
                self._wake_overdue,
                self.passing_on.pass_on,
                self._wake_overdue_deliveries,
                self._wake_overdue_chats,
                self.deliveries.count_waiting,
                self._count_tasks,
                self._forget_old_jobs,
                self.audit_seals.seal,
            ):
                try:
                    await chore()
                except Exception as error:  # noqa: BLE001 - the next sweep does what this one could not
                    log.warning("sweep failed", chore=chore.__name__.strip("_"), error=type(error).__name__)
            # Jitter, so that many workers do not sweep in step.
            await self._pause(self.sweep_every_s * random.uniform(0.8, 1.2))  # noqa: S311 - not a secret

    async def _settle_lost_payments(self) -> None:
        if settled := await self.polling.settle_lost():
            log.warning("processes died while they were sending payments", settled=settled)

    async def _settle_lost_refunds(self) -> None:
        if settled := await self.refunds.settle_lost():
            log.warning("processes died while they were sending refunds", settled=settled)

    async def _wake_overdue(self) -> None:
        if woken := await self.polling.wake_overdue():
            log.warning("jobs were lost", woken=woken)

    async def _wake_overdue_deliveries(self) -> None:
        if woken := await self.deliveries.wake_overdue():
            log.info("endpoints woken", woken=woken)

    async def _wake_overdue_chats(self) -> None:
        if woken := await self.notify.wake_overdue():
            log.warning("jobs of chats were lost", woken=woken)

    async def _count_tasks(self) -> None:
        TASKS.labels(kind="payment").set(len(await self.settling.tasks(SERVICE)))
        TASKS.labels(kind="refund").set(len(await self.refunds.tasks(SERVICE)))

    async def _forget_old_jobs(self) -> None:
        async with self.database.transaction() as session:
            await forget_old(session, JOBS_KEPT_DAYS)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
