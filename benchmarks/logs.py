"""The audit log with 10,000 rows and with 1,000,000: its speed must not depend on how many, so each ratio is near 1."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
from load import Target, once
from stage import make_key, shops, stage

SMALL, LARGE = 10_000, 1_000_000
ROUNDS = 21
NOW = datetime(2026, 11, 1, tzinfo=UTC)
COLUMNS = (
    "shop_id", "organization_bin", "operation_type", "external_id", "amount", "status", "state", "provider",
    "payment_id", "actor", "source", "created_at",
)  # fmt: skip


def entries(rows: int) -> Iterator[tuple[Any, ...]]:
    """A year of payments, oldest first: made, then paid; one in fifty failed."""
    whose = [(row.shop_id, row.fields["organization_bin"]) for row in shops()]
    step = timedelta(days=365) / rows
    for number in range(rows):
        shop_id, organization_bin = whose[number // 2 % 7]
        kind, status, state = ("create", "Wait", "pending") if number % 2 == 0 else ("status", "Processed", "paid")
        if number % 50 == 49:
            status, state = "Error", "failed"
        if number % 50 == 0:
            kind = "refund"
        yield (
            shop_id, organization_bin, kind, str(12_000_000_000 + number // 2), 10_000, status, state, "kaspi", None,
            "bench", "service", NOW - step * (rows - number),
        )  # fmt: skip


async def fill(url: str, rows: int) -> None:
    """COPY the rows in; the indexes are made after them."""
    connection = await asyncpg.connect(url)
    try:
        indexes = await connection.fetch(
            "SELECT indexname, indexdef FROM pg_indexes "
            "WHERE tablename = 'payment_log' AND indexname <> 'payment_log_pkey'"
        )
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['indexname']}")
        await connection.copy_records_to_table("payment_log", records=entries(rows), columns=COLUMNS)
        for index in indexes:
            await connection.execute(index["indexdef"])
        await connection.execute("VACUUM ANALYZE payment_log")
    finally:
        await connection.close()


def questions(rows: int) -> dict[str, str]:
    """What operators ask, with the same meaning and as many lines in the answer at either size."""
    since, until = (quote((NOW - timedelta(days=days)).isoformat()) for days in (200, 100))
    return {
        "first page": "",
        "page of 1000": "limit=1000",
        "skip=5000": "skip=5000",
        "shop_id": "shop_id=69292",
        "operation_type, common": "operation_type=create",
        "operation_type, rare": "operation_type=refund",
        "operation_type, none": "operation_type=details",
        "external_id": f"external_id={12_000_000_000 + rows // 4}",
        "external_id, none": "external_id=999",
        "status, common": "status=Processed",
        "status, rare": "status=Error",
        "status, none": "status=Expired",
        "provider": "provider=kaspi",
        "provider, none": "provider=other",
        "since and until": f"since={since}&until={until}",
        "shop_id and operation_type": "shop_id=69292&operation_type=refund&limit=20",
        "shop_id and status": "shop_id=69292&status=Error&limit=20",
        "operation_type and status": "operation_type=status&status=Error&limit=20",
        "operation_type and status, none": "operation_type=create&status=Error",
        "shop_id and external_id": f"shop_id=69292&external_id={12_000_000_000 + rows // 4}",
        "shop_id, since and until": f"shop_id=69292&since={since}&until={until}",
    }


async def times(targets: dict[int, Target]) -> dict[int, float]:
    """Milliseconds to answer, the median of rounds that alternate between the sizes."""
    connections = {}
    for rows, target in targets.items():
        address = urlsplit(target.url)
        connections[rows] = await asyncio.open_connection(address.hostname, address.port)
    taken: dict[int, list[float]] = {rows: [] for rows in targets}
    for number in range(ROUNDS):
        for rows, target in targets.items():
            began = time.perf_counter()
            await once(target, *connections[rows])
            if number:
                taken[rows].append(1000 * (time.perf_counter() - began))
    for _reader, writer in connections.values():
        writer.close()
    return {rows: median(each) for rows, each in taken.items()}


async def deep_cursor(target: Target, pages: int) -> str:
    """The cursor after so many pages of 1000."""
    address = urlsplit(target.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    cursor = ""
    for _ in range(pages):
        page = Target(target.url, "GET", f"/admin/logs?limit=1000{cursor}", target.key)
        headers, _ = await once(page, reader, writer)
        cursor = f"&cursor={headers['x-next-cursor']}"
    writer.close()
    return cursor.removeprefix("&")


def main() -> None:
    with stage() as here:
        services, keys, shop_keys = {}, {}, {}
        for rows in (SMALL, LARGE):
            settings = here.database(f"logs_{rows}")
            began = time.perf_counter()
            asyncio.run(fill(settings.database_url.get_secret_value(), rows))
            print(f"{rows:,} rows in {time.perf_counter() - began:.1f} s")
            keys[rows], shop_keys[rows] = make_key(settings), make_key(settings, shops=[69292, 49237])
            services[rows] = here.serve(settings)

        def ask(rows: int, query: str, key: str = "") -> Target:
            return Target(services[rows], "GET", f"/admin/logs?{query}", key or keys[rows])

        print(f"{'':<34}{f'{SMALL:,} rows':>16}{f'{LARGE:,} rows':>18}{'ratio':>8}")
        asked = {name: {rows: ask(rows, questions(rows)[name]) for rows in services} for name in questions(SMALL)}
        asked["key of two shops"] = {rows: ask(rows, "", shop_keys[rows]) for rows in services}
        asked["key of two shops, rare status"] = {
            rows: ask(rows, "status=Error&limit=20", shop_keys[rows]) for rows in services
        }
        # As deep as the small table goes, and a hundred times deeper: half of either.
        depth = {SMALL: 5, LARGE: 500}
        asked["cursor, in the middle"] = {
            rows: ask(rows, asyncio.run(deep_cursor(ask(rows, ""), depth[rows]))) for rows in services
        }
        for name, targets in asked.items():
            taken = asyncio.run(times(targets))
            print(f"{name:<34}{taken[SMALL]:13.1f} ms{taken[LARGE]:15.1f} ms{taken[LARGE] / taken[SMALL]:8.2f}")


if __name__ == "__main__":
    main()
