"""The record: what is written, and that reading it is exact and never depends on its length."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from payment_service.audit import service as audit
from payment_service.audit.service import LogFilter
from payment_service.errors import InvalidInput
from payment_service.observability.context import Origin, origin
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services

START = datetime(2025, 10, 22, tzinfo=UTC)


async def write(services: Services, **words: Any) -> int:
    async with services.database.transaction() as session:
        return (await audit.record(session, words.pop("operation_type", "create"), **{"provider": "kaspi", **words})).id


async def find(services: Services, limit: int = 100, skip: int = 0, **wanted: Any) -> list[int]:
    async with services.database.reading() as session:
        page = await audit.search(session, LogFilter(**{"shops": ALL_SHOPS, **wanted}), limit=limit, skip=skip)
    return [entry.id for entry in page.rows]


async def test_line_tells_who_and_for_which_request(services: Services, sql: asyncpg.Connection) -> None:
    mark = origin.set(Origin("bitrix", "request-1"))
    try:
        await write(services, shop_id=8, amount=10_000)
    finally:
        origin.reset(mark)
    row = await sql.fetchrow("SELECT actor, request_id, source, shop_id, amount, provider FROM payment_log")
    assert row == ("bitrix", "request-1", "service", 8, 10_000, "kaspi")


async def test_line_of_a_client_is_marked_as_reported(services: Services, sql: asyncpg.Connection) -> None:
    await write(services, source="client")
    assert await sql.fetchval("SELECT source FROM payment_log") == "client"


async def test_long_error_is_cut_to_what_the_table_holds(services: Services, sql: asyncpg.Connection) -> None:
    await write(services, error_message="я" * 600)
    assert await sql.fetchval("SELECT length(error_message) FROM payment_log") == 500


async def test_line_of_a_deed_that_failed_is_not_there(services: Services, sql: asyncpg.Connection) -> None:
    async def record_and_fail() -> None:
        async with services.database.transaction() as session:
            await audit.record(session, "create", provider="kaspi")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await record_and_fail()
    assert await sql.fetchval("SELECT count(*) FROM payment_log") == 0


@pytest.fixture
async def log(services: Services) -> dict[str, int]:
    """Lines that differ from the first in one word each."""
    first: dict[str, Any] = {"shop_id": 8, "external_id": "1", "status": "Wait", "operation_type": "create"}
    changes: dict[str, dict[str, Any]] = {
        "first": {},
        "shop_id": {"shop_id": 9},
        "external_id": {"external_id": "2"},
        "status": {"status": "Processed"},
        "operation_type": {"operation_type": "refund"},
        "provider": {"provider": "other"},
        "no shop": {"shop_id": None},
    }
    return {name: await write(services, **{**first, **change}) for name, change in changes.items()}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"shop_id": 9}, ["shop_id"]),
        ({"external_id": "2"}, ["external_id"]),
        ({"status": "Processed"}, ["status"]),
        ({"operation_type": "refund"}, ["operation_type"]),
        ({"provider": "other"}, ["provider"]),
        ({"shops": [9]}, ["shop_id"]),
        ({"shops": []}, []),
        ({"shops": [9], "shop_id": 8}, []),
        ({"shop_id": 8, "status": "Wait", "operation_type": "create"}, ["provider", "external_id", "first"]),
        ({}, ["no shop", "provider", "operation_type", "status", "external_id", "shop_id", "first"]),
    ],
)
async def test_filter_finds_exactly_its_lines_newest_first(
    services: Services, log: dict[str, int], wanted: dict[str, Any], found: list[str]
) -> None:
    assert await find(services, **wanted) == [log[name] for name in found]


async def at_times(sql: asyncpg.Connection, *seconds: float) -> list[int]:
    """Lines of the record at these seconds after the start."""
    insert = "INSERT INTO payment_log (operation_type, actor, source, created_at) VALUES ('t', 't', 'client', $1)"
    return [await sql.fetchval(f"{insert} RETURNING id", START + timedelta(seconds=second)) for second in seconds]


async def test_since_is_included_and_until_is_not(services: Services, sql: asyncpg.Connection) -> None:
    _, second, third, _ = await at_times(sql, 0, 1, 2, 3)
    since, until = START + timedelta(seconds=1), START + timedelta(seconds=3)
    assert await find(services, since=since, until=until) == [third, second]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_hold_every_line_once_even_of_one_moment(
    services: Services, sql: asyncpg.Connection, limit: int
) -> None:
    made = await at_times(sql, 0, 1, 1, 1, 1, 2, 2)
    found: list[int] = []
    cursor: str | None = None
    while True:
        async with services.database.reading() as session:
            page = await audit.search(session, LogFilter(shops=ALL_SHOPS), limit=limit, cursor=cursor)
        found += [entry.id for entry in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
        await at_times(sql, 10)  # what comes meanwhile is newer and does not shift the pages
    assert found == made[::-1]


async def test_skip_passes_over_the_newest(services: Services, sql: asyncpg.Connection) -> None:
    made = await at_times(sql, 0, 1, 2)
    assert await find(services, limit=1, skip=1) == [made[1]]
    assert await find(services, skip=5) == []


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "nonsense",
        "%%%",
        "MjAyNS0xMC0yMlQwMDowMDowMHwx",  # a time without an offset
        "MjAyNS0xMC0yMlQwMDowMDowMCswMDowMHx4",  # an id that is no number
        "MjAyNS0xMC0yMlQwMDowMDowMCswMDowMHw5OTk5OTk5OTk5OTk5OTk5OTk5OTk5",  # an id that no column holds
        "MDAwMS0wMS0wMVQwMDowMDowMCsxNDowMHwx",  # a time before the first
    ],
)
async def test_forged_cursor_is_refused(services: Services, cursor: str) -> None:
    async with services.database.reading() as session:
        with pytest.raises(InvalidInput, match=r"^cursor: "):
            await audit.search(session, LogFilter(shops=ALL_SHOPS), limit=1, cursor=cursor)


async def test_history_of_a_payment_is_oldest_first_and_only_its_own(services: Services) -> None:
    ours, other = uuid4(), uuid4()
    made = [await write(services, payment_id=payment) for payment in (ours, other, ours)]
    async with services.database.reading() as session:
        assert [entry.id for entry in await audit.of_payment(session, ours)] == [made[0], made[2]]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"shop_id": 8},
        {"shop_id": 8, "operation_type": "create"},
        {"shop_id": 8, "status": "Wait"},
        {"operation_type": "create"},
        {"status": "Wait"},
        {"external_id": "1"},
    ],
)
async def test_page_of_a_long_log_is_read_through_an_index(sql: asyncpg.Connection, wanted: dict[str, Any]) -> None:
    """Never by sorting: the speed of a page must not depend on the length of the log."""
    conditions = " AND ".join([*(f"{name} = '{value}'" for name, value in wanted.items()), "true"])
    async with sql.transaction():
        # Whatever is in the table just now, which decides what is cheapest, the question is what is possible.
        for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
            await sql.execute(f"SET LOCAL enable_{way} = off")
        plan = await sql.fetch(
            f"EXPLAIN SELECT * FROM payment_log WHERE {conditions} ORDER BY created_at DESC, id DESC LIMIT 100"
        )
    text = "\n".join(row[0] for row in plan)
    assert "Index Scan Backward" in text
    assert re.search(r"-> +(Incremental )?Sort", text) is None
