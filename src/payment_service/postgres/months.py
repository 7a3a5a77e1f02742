"""Tables in partitions by month: made ahead of time, and a row without one is never refused.

``payment_log`` is divided by its time, and ``event`` with its deliveries, their tries and messages by the event's id.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg
from sqlalchemy import text

from payment_service.postgres.database import Database, raw
from payment_service.postgres.locks import LOCK_MS, when_free

LEADERS: Final = ("payment_log", "event")
"""The tables whose months decide those of the others."""
AHEAD: Final = 3
"""How many months are made ahead of this one."""
ENOUGH: Final = 2
"""With fewer an alarm is raised, while there is still time."""

TRY_FOR_S: Final = 300.0
_SLOWEST_S: Final = 3600.0
"""Counting the rows of the largest month takes less."""

_MAKE = text("SELECT make_months(:leader, :ahead)")
_READY = text("""
    SELECT leader, 12 * date_part('year', gap)::int + date_part('month', gap)::int - 1, rows_astray(leader)
    FROM unnest(CAST(:leaders AS text[])) AS leader,
        age(months_until(leader) AT TIME ZONE 'UTC', date_trunc('month', now() AT TIME ZONE 'UTC')) AS gap
""")
_BEFORE = text("""
    SELECT relname, month_until(oid) AS until FROM pg_class JOIN pg_inherits ON inhrelid = oid
    WHERE inhparent = CAST(CAST(:leader AS text) AS regclass) AND month_until(oid) <= :before ORDER BY until
""")


class NotRetired(Exception):
    """A month cannot leave; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Months:
    """How many months lie ready after this one, of the table that has fewest."""

    ahead: int
    astray: Sequence[str]
    """The partitions for what has no month that hold rows."""

    @property
    def are_enough(self) -> bool:
        """Whether no person has to act."""
        return self.ahead >= ENOUGH and not self.astray


async def make_months(database: Database) -> int:
    """Make the months that are missing; returns how many. No payment waits for it longer than 300 ms.

    Raises:
        DBAPIError: when a lock was not free, or rows went astray that a person must look at (docs/audit.md). The months
            of the other tables are made all the same.
    """
    made = 0
    failed: Exception | None = None
    for leader in LEADERS:
        try:
            async with database.transaction() as session:
                made += await session.scalar(_MAKE, {"leader": leader, "ahead": AHEAD})
        except Exception as error:  # noqa: BLE001 - raised below
            failed = error
    if failed is not None:
        raise failed
    return made


async def months(database: Database) -> Months:
    """How many months lie ready."""
    async with database.reading() as session:
        found = (await session.execute(_READY, {"leaders": list(LEADERS)})).all()
    return Months(min(row[1] for row in found), [f"{leader}_default" for leader, _ahead, astray in found if astray])


async def partitions_before(database: Database, leader: str, *, before: datetime) -> list[tuple[str, datetime]]:
    """The partitions whose rows were all written before then, and until when they were, the oldest first."""
    async with database.reading() as session:
        found = await session.execute(_BEFORE, {"leader": leader, "before": before})
        return [(name, until) for name, until in found]


async def detach(database: Database, partition: str, statement: str, *arguments: object) -> None:
    """Take a partition out by a statement, as the owner of the tables.

    Payments wait for its lock for at most ``LOCK_MS``, and for as long as the rest of it takes: some milliseconds.

    Raises:
        NotRetired: when the database refuses it, or something else held the table for too long.
    """

    async def leave() -> None:
        async with database.transaction() as session:
            connection = await raw(session)
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}; SET LOCAL statement_timeout = 0")
            await connection.execute(statement, *arguments, timeout=_SLOWEST_S)

    try:
        await when_free(leave, for_s=TRY_FOR_S)
    except asyncpg.LockNotAvailableError as error:
        raise NotRetired(f"{partition} is held by something else: try again later.") from error
    except asyncpg.InsufficientPrivilegeError as error:
        sentence = "Only the owner of the tables may do that: use the DATABASE_URL of 'migrate'."
        raise NotRetired(sentence) from error
    except asyncpg.CheckViolationError as error:
        raise NotRetired(f"{partition} stays: {error.args[0]}.") from error
