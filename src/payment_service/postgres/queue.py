"""Jobs: what must be done later, written in the same transaction as its cause. The one module that knows pgqueuer.

A job's payload is an id; attempts, next time and history live in our own tables, so that the engine can be replaced.
Jobs are delivered at least once: every handler is idempotent.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import asyncpg
from pgqueuer import AsyncpgDriver, Job, QueueManager
from pgqueuer.queries import Queries
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

FOLLOW_PAYMENT = "follow_payment"
DELIVER_EVENTS = "deliver_events"
TELL_CHAT = "tell_chat"

Handler = Callable[[UUID], Awaitable[None]]


async def enqueue(session: AsyncSession, job: str, subject: UUID, *, key: str, delay_s: float = 0) -> None:
    """Put a job into the queue, in the session's transaction. A waiting job with the same key is not repeated."""
    # Asking for the transaction's connection also begins it: pgqueuer as the first statement on a connection would
    # run outside the transaction and survive its rollback.
    connection = await session.connection()
    raw = (await connection.get_raw_connection()).driver_connection
    if not isinstance(raw, asyncpg.Connection):
        raise TypeError("the queue lives in PostgreSQL, over asyncpg")
    if not raw.is_in_transaction():
        await connection.exec_driver_sql("SELECT 1")
    await Queries(AsyncpgDriver(raw)).enqueue(
        job,
        str(subject).encode(),
        execute_after=timedelta(seconds=delay_s),
        dedupe_key=f"{job}:{key}",
        on_conflict="skip",
    )


async def forget_old(session: AsyncSession, days: int) -> int:
    """Delete what the engine remembers of jobs that ended so long ago; returns how many lines."""
    deleted = 0
    for table, ended in (("pgqueuer_log", "true"), ("pgqueuer", "status = 'failed'")):
        old = f"SELECT id FROM {table} WHERE created < now() - make_interval(days => :days) AND {ended} LIMIT 10000"  # noqa: S608 - two constants
        result = await session.execute(text(f"DELETE FROM {table} WHERE id IN ({old}) RETURNING 1"), {"days": days})  # noqa: S608 - as above
        deleted += len(result.all())
    return deleted


@dataclass
class Consumer:
    """Takes jobs from the queue and runs their handlers, until told to stop."""

    connection: asyncpg.Connection
    handlers: dict[str, Handler]
    at_once: Mapping[str, int] = field(default_factory=dict)
    """How many jobs of a kind all workers together run at once; as many as there are where nothing is said."""
    _manager: QueueManager = field(init=False)

    def __post_init__(self) -> None:
        self._manager = QueueManager(Queries(AsyncpgDriver(self.connection)))
        # Left to itself the manager notices a lost connection late, and until then no job is taken.
        self.connection.add_termination_listener(lambda _connection: self.stop())
        for job, handler in self.handlers.items():
            self._register(job, handler)

    def _register(self, job: str, handler: Handler) -> None:
        async def run(picked: Job) -> None:
            await handler(UUID((picked.payload or b"").decode()))

        self._manager.entrypoint(job, concurrency_limit=self.at_once.get(job, 0), on_failure="hold")(run)

    async def run(self) -> None:
        """Work until ``stop`` is called; raises when the connection is lost."""
        await self._manager.run(dequeue_timeout=timedelta(seconds=5), batch_size=20, shutdown_on_listener_failure=True)
        if self.connection.is_closed():
            raise ConnectionResetError("the queue's connection was lost")

    def stop(self) -> None:
        """Take no more jobs and let those in hand end."""
        self._manager.shutdown.set()
