"""The partitions of the record as they are after other histories than that of a new database."""

from datetime import UTC, datetime

import asyncpg

NOW = datetime.now(UTC)
_PARTITIONS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'payment_log'::regclass ORDER BY 1"


def month(ago: int) -> datetime:
    """The beginning of the month that was so many months ago."""
    years, number = divmod(NOW.year * 12 + NOW.month - 1 - ago, 12)
    return datetime(years, number + 1, 1, tzinfo=UTC)


def called(ago: int) -> str:
    return f"payment_log_{month(ago):%Y_%m}"


async def partitions(sql: asyncpg.Connection) -> list[str]:
    return [row[0] for row in await sql.fetch(_PARTITIONS)]


async def made_until(sql: asyncpg.Connection, ago: int) -> None:
    """As if nobody had made a month since: the first partition ends there, and there is no other."""
    for name in await partitions(sql):
        await sql.execute(f"ALTER TABLE payment_log DETACH PARTITION {name}")
        if name not in {"payment_log_first", "payment_log_default"}:
            await sql.execute(f"DROP TABLE {name}")
    await sql.execute(
        f"ALTER TABLE payment_log ATTACH PARTITION payment_log_first FOR VALUES FROM (MINVALUE) TO ('{month(ago)}');"
        "ALTER TABLE payment_log ATTACH PARTITION payment_log_default DEFAULT"
    )


async def with_months_since(sql: asyncpg.Connection, ago: int) -> None:
    """A partition for each month since then, as a service has them that began before."""
    await made_until(sql, ago)
    for number in range(ago, -1, -1):
        await sql.execute(f"SELECT make_log_partition('{called(number)}')")
        await sql.execute(
            f"ALTER TABLE payment_log ATTACH PARTITION {called(number)}"
            f" FOR VALUES FROM ('{month(number)}') TO ('{month(number - 1)}')"
        )
