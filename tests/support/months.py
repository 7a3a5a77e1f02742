"""The partitions by months as they are after other histories than that of a new database."""

from datetime import UTC, datetime

import asyncpg

NOW = datetime.now(UTC)
_PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = $1::text::regclass ORDER BY 1"


def month(ago: int) -> datetime:
    """The beginning of the month that was so many months ago."""
    years, number = divmod(NOW.year * 12 + NOW.month - 1 - ago, 12)
    return datetime(years, number + 1, 1, tzinfo=UTC)


def called(ago: int, table: str = "payment_log") -> str:
    return f"{table}_{month(ago):%Y_%m}"


async def partitions(sql: asyncpg.Connection, table: str = "payment_log") -> list[str]:
    return [row[0] for row in await sql.fetch(_PARTITIONS, table)]


async def made_until(sql: asyncpg.Connection, ago: int, leader: str = "payment_log") -> None:
    """As if nobody had made a month since: the first partition ends there, and there is no other."""
    kept_with = await sql.fetchval("SELECT kept_with($1)", leader)
    for table in reversed(kept_with):
        for name in await partitions(sql, table):
            await sql.execute(f"ALTER TABLE {table} DETACH PARTITION {name}")
            if name not in {f"{table}_first", f"{table}_default"}:
                await sql.execute(f"DROP TABLE {name}")
    for table in kept_with:
        bound = await sql.fetchval("SELECT month_bound($1, $2)", table, month(ago))
        await sql.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {table}_first FOR VALUES FROM (MINVALUE) TO ('{bound}');"
            f"ALTER TABLE {table} ATTACH PARTITION {table}_default DEFAULT"
        )


async def with_months_since(sql: asyncpg.Connection, ago: int, leader: str = "payment_log") -> None:
    """A partition for each month since then, as a service has them that began before."""
    await made_until(sql, ago, leader)
    for number in range(ago, -1, -1):
        for table in await sql.fetchval("SELECT kept_with($1)", leader):
            bounds = [
                await sql.fetchval("SELECT month_bound($1, $2)", table, month(each)) for each in (number, number - 1)
            ]
            await sql.execute(
                f"SELECT make_partition('{table}', '{month(number):%Y_%m}', '{table}');"
                f"ALTER TABLE {table} ATTACH PARTITION {called(number, table)}"
                f" FOR VALUES FROM ('{bounds[0]}') TO ('{bounds[1]}')"
            )
