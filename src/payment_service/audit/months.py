"""The months of the record: partitions are made ahead of their time, and a row without one is never refused."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from payment_service.postgres.database import Database

AHEAD: Final = 3
"""How many months lie ready after this one."""
ENOUGH: Final = 2
"""With fewer people are told, while there is still time."""

_MAKE = text("SELECT make_log_months(:ahead)")
_STANDING = text("""
    SELECT 12 * date_part('year', gap)::int + date_part('month', gap)::int - 1, log_rows_astray()
    FROM age(log_months_until() AT TIME ZONE 'UTC', date_trunc('month', now() AT TIME ZONE 'UTC')) AS gap
""")


@dataclass(frozen=True, slots=True)
class Months:
    """How many months lie ready after this one, and whether rows had to go where none was."""

    ahead: int
    astray: bool

    @property
    def are_enough(self) -> bool:
        """Whether nobody has to do anything."""
        return self.ahead >= ENOUGH and not self.astray


async def make_months(database: Database) -> int:
    """Make the months that are missing; returns how many. No payment waits for it longer than 300 ms.

    Raises:
        DBAPIError: when a lock was not free, or rows went astray that a person must look at (docs/audit.md).
    """
    async with database.transaction() as session:
        made: int = await session.scalar(_MAKE, {"ahead": AHEAD})
    return made


async def months(database: Database) -> Months:
    """How it stands with the months."""
    async with database.reading() as session:
        return Months(*(await session.execute(_STANDING)).one())
