"""API keys served from memory: a key that ends, ends in every process, and silence is not trusted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import asyncpg
import pytest

from payment_service.access.service import Access, NewKey
from payment_service.errors import NotAuthenticated
from payment_service.postgres.cache import keep_fresh
from payment_service.postgres.database import Database
from payment_service.postgres.visibility import ALL_SHOPS
from tests.support.books import change_by_hand
from tests.support.statements import asked
from tests.support.waiting import until


@pytest.fixture
async def made(database: Database) -> NewKey:
    return await Access(database).create("bitrix", ["admin"], shops=ALL_SHOPS)


@pytest.fixture
async def processes(
    database: Database, made: NewKey, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Access, Access]]:
    """Two processes that listen, each of which has seen the key."""
    monkeypatch.setattr("payment_service.postgres.listening.RECONNECT_S", 0.05)
    both = Access(database), Access(database)
    tasks = [asyncio.create_task(keep_fresh(database, access.cache)) for access in both]
    for access in both:
        await until(lambda access=access: is_remembered(access, made))  # type: ignore[misc]
    yield both
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def is_remembered(access: Access, made: NewKey) -> bool:
    await access.caller_with(made.key)
    return access.cache.get(made.row.digest) is not None


async def has_ended(access: Access, made: NewKey) -> bool:
    try:
        await access.caller_with(made.key)
    except NotAuthenticated:
        return True
    return False


async def test_known_key_is_not_looked_up_again(
    processes: tuple[Access, Access], made: NewKey, database: Database
) -> None:
    with asked(database) as statements:
        caller = await processes[0].caller_with(made.key)
    assert (caller.name, caller.key_id) == ("bitrix", made.row.id)
    assert statements == []


async def test_key_revoked_in_one_process_ends_in_the_other(processes: tuple[Access, Access], made: NewKey) -> None:
    here, elsewhere = processes
    await elsewhere.revoke(made.row.id)
    assert await has_ended(elsewhere, made)
    await until(lambda: has_ended(here, made), within_s=5)


async def test_key_changed_by_hand_changes_in_every_process(
    processes: tuple[Access, Access], made: NewKey, sql: asyncpg.Connection
) -> None:
    await change_by_hand(sql, f"api_key:{made.row.id}", "UPDATE api_key SET shops = '{8}'")

    async def narrowed(access: Access) -> bool:
        return (await access.caller_with(made.key)).shops == frozenset({8})

    for access in processes:
        await until(lambda access=access: narrowed(access), within_s=5)  # type: ignore[misc]


async def test_expiry_is_checked_at_each_use(database: Database) -> None:
    access = Access(database)
    access.cache.trust(trusted=True)
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    made = await access.create("ends", ["admin"], shops=ALL_SHOPS, expires_at=in_an_hour)
    await access.caller_with(made.key)
    held = access.cache.get(made.row.digest)
    assert held is not None
    with asked(database) as statements, patch("payment_service.access.service.time") as clock:
        clock.monotonic.return_value = held.ends_at - 1
        await access.caller_with(made.key)
        clock.monotonic.return_value = held.ends_at
        assert await has_ended(access, made)
    assert statements == []


async def test_guessed_keys_are_not_kept(processes: tuple[Access, Access]) -> None:
    for number in range(20):
        with pytest.raises(NotAuthenticated):
            await processes[0].caller_with(f"ps_guess-{number}")
    assert len(processes[0].cache._rows) <= 1


async def test_key_revoked_while_the_database_cannot_be_heard_ends_at_once(
    processes: tuple[Access, Access],
    made: NewKey,
    database: Database,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = processes[0]

    async def not_connected(_database: object) -> asyncpg.Connection:
        raise OSError

    monkeypatch.setattr(type(database), "raw_connection", not_connected)
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )

    async def distrusted() -> bool:
        return not await is_remembered(here, made)

    await until(distrusted)
    await change_by_hand(sql, f"api_key:{made.row.id}", "UPDATE api_key SET revoked_at = now()")
    assert await has_ended(here, made)
