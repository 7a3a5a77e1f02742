"""How the database is now: how long it takes to answer, what it is, and how far its clock is from ours."""

import time
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from payment_service.postgres import schema
from payment_service.postgres.database import Database

_CLOCK_AND_VERSION = text("""
    SELECT extract(epoch FROM clock_timestamp())::float8, current_setting('server_version')
""")

SKEW_S: Final = 2.0
"""Beyond that people notice that the clocks of this machine and of the database differ."""
SLOW_S: Final = 0.1
"""A database that takes longer to answer is far away or overloaded."""


@dataclass(frozen=True, slots=True)
class DatabaseHealth:
    """How the database is."""

    version: str
    answered_in_s: float
    clock_ahead_s: float
    """How many seconds its clock is ahead of this machine's; known to within ``answered_in_s``."""
    revision: str | None
    """Of its schema."""


async def database_health(database: Database) -> DatabaseHealth:
    """Ask the database how it is."""
    async with database.reading() as session:
        sent_at, began = time.time(), time.perf_counter()
        database_time, version = (await session.execute(_CLOCK_AND_VERSION)).one()
        took_s = time.perf_counter() - began
    return DatabaseHealth(version, took_s, database_time - (sent_at + took_s / 2), await schema.current(database))
