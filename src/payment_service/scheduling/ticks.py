"""Heartbeats of workers: each updates one row at every sweep, so that people see which there are and when they stop."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import Float, String, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Database, Stamp

FORGOTTEN_AFTER: Final = timedelta(days=1)
"""After how long a worker that stopped is deleted."""


class WorkerTick(Base):
    """One worker that runs, or did within the last day."""

    __tablename__ = "worker_tick"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(String(100))
    version: Mapped[str] = mapped_column(String(50))
    began_at: Mapped[Stamp]
    ticked_at: Mapped[Stamp]


MISSED_TICKS: Final = 4
"""After how many sweeps without a heartbeat a worker counts as stopped."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker, and how many seconds ago it was last seen."""

    host: str
    version: str
    began_at: datetime
    seen_s: float

    def is_alive(self, sweep_every_s: float) -> bool:
        """Whether it still works. One that was seen in the future was seen before the database's clock was set back."""
        return abs(self.seen_s) < MISSED_TICKS * sweep_every_s


async def tick(database: Database, worker_id: UUID, *, host: str, version: str) -> None:
    """Record that this worker runs, and forget those that ended long ago."""
    row = {"id": worker_id, "host": host[:100], "version": version[:50]}
    seen = insert(WorkerTick).values(row).on_conflict_do_update(index_elements=["id"], set_={"ticked_at": func.now()})
    async with database.transaction() as session:
        await session.execute(seen)
        await session.execute(delete(WorkerTick).where(WorkerTick.ticked_at < func.now() - FORGOTTEN_AFTER))


async def workers(database: Database) -> list[WorkerStatus]:
    """The workers of the last day, at most 50, the one that was seen last first."""
    seen_s = func.extract("epoch", func.now() - WorkerTick.ticked_at).cast(Float)
    query = select(WorkerTick.host, WorkerTick.version, WorkerTick.began_at, seen_s)
    async with database.reading() as session:
        rows = await session.execute(query.order_by(WorkerTick.ticked_at.desc()).limit(50))
        return [WorkerStatus(*row) for row in rows]
