"""What the code reads from a database's errors, and how it insists on writing down what has happened."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from payment_service.postgres.database import (
    FOREVER,
    Database,
    constraint_of,
    is_duplicate,
    is_unreachable,
    retry_until_written,
)
from payment_service.services import Services
from tests.support.books import insert_sample_rows

TERMINATE_OTHERS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def error_of(database: Database, statement: str) -> DBAPIError:
    with pytest.raises(DBAPIError) as caught:
        async with database.transaction() as session:
            await session.execute(text(statement))
    return caught.value


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE payment SET amount = 1", "payment_route_is_pinned"),
        ("UPDATE payment SET reserved_amount = 99999", "payment_refunds_within_amount"),
        ("UPDATE payment SET reserved_amount = 0", "refunds_add_up"),
        ("INSERT INTO payment_config_history SELECT * FROM payment_config_history", "payment_config_history_pkey"),
        ("SELECT 1 / 0", None),
        ("SELECT nonsense", None),
    ],
)
async def test_broken_law_is_known_by_its_name(
    database: Database, sql: asyncpg.Connection, statement: str, name: str | None
) -> None:
    await insert_sample_rows(sql)
    error = await error_of(database, statement)
    assert constraint_of(error) == name
    assert not is_unreachable(error)


async def test_duplicate_is_told_from_other_broken_laws(database: Database, sql: asyncpg.Connection) -> None:
    await insert_sample_rows(sql)
    again = await error_of(database, "INSERT INTO payment_config_history SELECT * FROM payment_config_history")
    other = await error_of(database, "UPDATE payment SET reserved_amount = 99999")
    assert isinstance(again, IntegrityError)
    assert (is_duplicate(again), is_duplicate(other)) == (True, False)


async def test_terminated_backend_is_unreachable(database: Database) -> None:
    error = await error_of(database, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert is_unreachable(error)


async def test_connection_terminated_from_outside_is_unreachable(database: Database, sql: asyncpg.Connection) -> None:
    async def work_while_terminated() -> None:
        async with database.transaction() as session:
            await session.execute(text("SELECT 1"))
            await sql.execute(TERMINATE_OTHERS)
            await session.execute(text("SELECT 1"))

    with pytest.raises(DBAPIError) as caught:
        await work_while_terminated()
    assert is_unreachable(caught.value)


async def test_connection_that_died_in_the_pool_is_not_noticed(database: Database, sql: asyncpg.Connection) -> None:
    async with database.reading() as session:
        await session.execute(text("SELECT 1"))
    await sql.execute(TERMINATE_OTHERS)
    async with database.reading() as session:
        assert await session.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        PoolTimeoutError(),
        asyncpg.AdminShutdownError("going down"),
        asyncpg.CannotConnectNowError("starting"),
        asyncpg.TooManyConnectionsError("full"),
        asyncpg.ConnectionDoesNotExistError("closed"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InvalidPasswordError("password changed"),
        asyncpg.InvalidCatalogNameError("database dropped"),
    ],
)
def test_error_of_a_database_that_is_away_is_unreachable(error: Exception) -> None:
    assert is_unreachable(error)


@pytest.mark.parametrize(
    "sqlstate", ["53100", "53300", "57P02", "57P03", "58030", "25006"], ids=lambda code: f"code {code}"
)
async def test_server_that_cannot_serve_is_unreachable_whatever_class_its_error_has(
    database: Database, sqlstate: str
) -> None:
    error = await error_of(database, f"DO $$BEGIN RAISE 'no' USING ERRCODE = '{sqlstate}'; END$$")
    assert is_unreachable(error)


@pytest.mark.parametrize("error", [ValueError(), KeyError(), asyncpg.UndefinedTableError("no table")])
def test_mistake_of_ours_is_not_unreachable(error: Exception) -> None:
    assert not is_unreachable(error)


async def test_failed_block_commits_nothing(database: Database, sql: asyncpg.Connection) -> None:
    await insert_sample_rows(sql)

    async def change_and_fail() -> None:
        async with database.transaction() as session:
            await session.execute(text("UPDATE payment SET checks = 7"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await change_and_fail()
    assert await sql.fetchval("SELECT checks FROM payment") == 0


def failing_at_first(error: Exception) -> tuple[Callable[[], Awaitable[int]], list[int]]:
    """An action that fails once, and how often it was tried."""
    tries: list[int] = []

    async def action() -> int:
        tries.append(1)
        if len(tries) == 1:
            raise error
        return 42

    return action, tries


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        PoolTimeoutError(),
        DBAPIError("UPDATE", None, Exception("lock timeout")),
        # The queue speaks to asyncpg itself, so its errors come as they are.
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.LockNotAvailableError("lock timeout"),
        asyncpg.DeadlockDetectedError("deadlock"),
        asyncpg.QueryCanceledError("statement timeout"),
    ],
)
async def test_insisting_tries_again_whatever_the_database_says(error: Exception) -> None:
    action, tries = failing_at_first(error)
    assert await retry_until_written(action) == 42
    assert len(tries) == 2


async def test_insisting_ends_at_a_broken_law(database: Database, sql: asyncpg.Connection) -> None:
    await insert_sample_rows(sql)
    action, tries = failing_at_first(await error_of(database, "UPDATE payment SET amount = 1"))
    with pytest.raises(DBAPIError):
        await retry_until_written(action)
    assert len(tries) == 1


async def test_insisting_ends_at_a_mistake_of_ours() -> None:
    action, tries = failing_at_first(KeyError("mistake"))
    with pytest.raises(KeyError):
        await retry_until_written(action)
    assert len(tries) == 1


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError(), asyncpg.InternalServerError("x"), DBAPIError("UPDATE", None, Exception("x"))],
)
async def test_insisting_ends_when_it_has_lasted_long_enough(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payment_service.postgres.database.RETRY_S", -1)
    action, tries = failing_at_first(error)
    with pytest.raises(type(error)):
        await retry_until_written(action, while_unreachable_s=-1)
    assert len(tries) == 1


async def test_insisting_outlives_any_absence_of_the_database_when_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payment_service.postgres.database.RETRY_S", -1)
    action, tries = failing_at_first(ConnectionResetError())
    assert await retry_until_written(action, while_unreachable_s=FOREVER) == 42
    assert len(tries) == 2


async def test_insisting_ends_at_a_value_that_the_database_cannot_hold(database: Database) -> None:
    action, tries = failing_at_first(await error_of(database, "SELECT 'x'::integer"))
    with pytest.raises(DBAPIError):
        await retry_until_written(action)
    assert len(tries) == 1


async def test_insisting_can_be_cancelled() -> None:
    action, _ = failing_at_first(asyncio.CancelledError())  # type: ignore[arg-type] # it is raised all the same
    with pytest.raises(asyncio.CancelledError):
        await retry_until_written(action)


async def test_full_pool_is_told_within_its_timeout(services: Services) -> None:
    database = Database(services.settings.database_url.get_secret_value(), pool_size=1)
    try:
        async with database.reading() as session:
            await session.execute(text("SELECT 1"))
            with pytest.raises(PoolTimeoutError):
                async with database.reading() as other:
                    await other.execute(text("SELECT 1"))
    finally:
        await database.close()
