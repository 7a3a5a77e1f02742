"""The audit log with 10,000 rows and with 1,000,000: its speed must not depend on how many, so each ratio is near 1."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import load
from stage import Program, shops, stage

SMALL, LARGE = 10_000, 1_000_000
ROUNDS = 21
SHOPS = [int(shop["shop_id"]) for shop in shops()]
NOW = datetime(2026, 11, 1, tzinfo=UTC)
COLUMNS = (
    "shop_id", "organization_bin", "operation_type", "external_id", "amount", "status", "state", "provider",
    "payment_id", "actor", "source", "created_at",
)  # fmt: skip


def entries(rows: int, days: int = 365) -> Iterator[tuple[Any, ...]]:
    """A year of payments, or more, oldest first: made, then paid; one in fifty failed."""
    whose = [(int(shop["shop_id"]), shop["organization_bin"]) for shop in shops()[:7]]
    step = timedelta(days=days) / rows
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


async def fill(url: str, rows: int, days: int = 365) -> None:
    """COPY the rows in; the indexes are made after them."""
    connection = await asyncpg.connect(url)
    try:
        indexes = await connection.fetch(
            "SELECT indexname, indexdef FROM pg_indexes "
            "WHERE tablename = 'payment_log' AND indexname <> 'payment_log_pkey'"
        )
        for index in indexes:
            await connection.execute(f"DROP INDEX {index['indexname']}")
        await connection.copy_records_to_table("payment_log", records=entries(rows, days), columns=COLUMNS)
        for index in indexes:
            await connection.execute(index["indexdef"].replace(" ON ONLY ", " ON "))
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
        "shop_id": f"shop_id={SHOPS[0]}",
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
        "shop_id and operation_type": f"shop_id={SHOPS[0]}&operation_type=refund&limit=20",
        "shop_id and status": f"shop_id={SHOPS[0]}&status=Error&limit=20",
        "operation_type and status": "operation_type=status&status=Error&limit=20",
        "operation_type and status, none": "operation_type=create&status=Error",
        "shop_id and external_id": f"shop_id={SHOPS[0]}&external_id={12_000_000_000 + rows // 4}",
        "shop_id, since and until": f"shop_id={SHOPS[0]}&since={since}&until={until}",
    }


def times(services: dict[int, Program], keys: dict[int, str], queries: dict[int, str]) -> dict[int, float]:
    """Milliseconds to answer, the median of rounds that alternate between the sizes."""
    taken: dict[int, list[float]] = {rows: [] for rows in services}
    for number in range(ROUNDS):
        for rows, service in services.items():
            data = load.request("GET", f"/admin/logs?{queries[rows]}", keys[rows])
            made = load.run([service.port], lambda data=data: (data, _is_answered), clients=1, requests=1)
            if number:
                taken[rows] += made.seconds
    return {rows: 1000 * median(each) for rows, each in taken.items()}


def _is_answered(status: int, _body: bytes) -> None:
    if status != 200:
        raise load.WrongAnswer(f"status {status}")


def deep_cursor(service: Program, key: str, pages: int) -> str:
    """The cursor after so many pages of 1000."""
    cursor = ""
    with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as http:
        for _ in range(pages):
            answer = http.get(f"/admin/logs?limit=1000{cursor}").raise_for_status()
            cursor = f"&cursor={answer.headers['x-next-cursor']}"
    return cursor.removeprefix("&")


def main() -> None:
    with stage() as here:
        services, keys, shop_keys = {}, {}, {}
        upstream = here.upstream()
        for rows in (SMALL, LARGE):
            database = here.database(here.tree())
            began = time.perf_counter()
            asyncio.run(fill(database.url, rows))
            print(f"{rows:,} rows in {time.perf_counter() - began:.1f} s")
            keys[rows], shop_keys[rows] = database.key, here.new_key(database, *SHOPS[:2])
            services[rows] = here.serve(database, upstream)

        print(f"{'':<34}{f'{SMALL:,} rows':>16}{f'{LARGE:,} rows':>18}{'ratio':>8}")
        asked = {name: {rows: questions(rows)[name] for rows in services} for name in questions(SMALL)}
        # As deep as the small table goes, and a hundred times deeper: half of either.
        depth = {SMALL: 5, LARGE: 500}
        asked["cursor, in the middle"] = {
            rows: deep_cursor(service, keys[rows], depth[rows]) for rows, service in services.items()
        }
        lines = [(name, keys, queries) for name, queries in asked.items()]
        lines += [
            ("key of two shops", shop_keys, dict.fromkeys(services, "")),
            ("key of two shops, rare status", shop_keys, dict.fromkeys(services, "status=Error&limit=20")),
        ]
        for name, whose, queries in lines:
            taken = times(services, whose, queries)
            print(f"{name:<34}{taken[SMALL]:13.1f} ms{taken[LARGE]:15.1f} ms{taken[LARGE] / taken[SMALL]:8.2f}")


if __name__ == "__main__":
    main()
