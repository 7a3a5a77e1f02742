"""Who holds what statements of the service wait for: a forgotten LOCK TABLE, CREATE INDEX, an open transaction."""

import asyncio
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text

from payment_service.postgres.database import Database
from payment_service.postgres.sessions import HOME

LOOK_AGAIN_S: Final = 1.0
"""What is held now and after so long is no statement of the service's own."""
_HELD: Final = text(f"""
    WITH holder AS (
        SELECT pid, relname || ' (' || mode || ')' AS what FROM pg_locks JOIN pg_class ON pg_class.oid = relation
        WHERE granted AND locktype = 'relation'
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND relnamespace = {HOME}
            AND relkind IN ('r', 'p')
            AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        UNION SELECT holds, 'rows that others wait for'
        FROM pg_locks JOIN pg_stat_activity USING (pid), unnest(pg_blocking_pids(pid)) AS holds
        -- A lock on a transaction is of no database: whoever waits for it is of this one.
        WHERE NOT granted AND locktype IN ('transactionid', 'tuple') AND datname = current_database()
    )
    SELECT holder.pid, coalesce('session ' || holder.pid || ' of ' || usename, 'a prepared transaction') AS who,
        string_agg(DISTINCT what, ', ') AS what
    FROM holder LEFT JOIN pg_stat_activity ON pg_stat_activity.pid = holder.pid
    WHERE holder.pid IS DISTINCT FROM pg_backend_pid() GROUP BY holder.pid, usename ORDER BY holder.pid
""")  # noqa: S608 - only text of this package


@dataclass(frozen=True, slots=True)
class Holder:
    """A session or a prepared transaction, and what it holds."""

    pid: int | None
    who: str
    what: str


async def blocking(database: Database) -> list[Holder]:
    """Those who hold whole tables, or rows that others wait for, and still do after a second."""
    before = await _held(database)
    if not before:
        return []
    await asyncio.sleep(LOOK_AGAIN_S)
    return [one for one in await _held(database) if one in before]


async def _held(database: Database) -> list[Holder]:
    async with database.reading() as session:
        return [Holder(*row) for row in await session.execute(_HELD)]
