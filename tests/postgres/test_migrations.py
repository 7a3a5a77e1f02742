"""The migrations: from nothing to head, once and for all, and in agreement with the models."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from payment_service.postgres import migrating, schema
from payment_service.postgres.database import Base, Database, constraint_of
from payment_service.postgres.laws import missing
from tests.support.books import insert_sample_rows
from tests.support.database import Server
from tests.support.waiting import until

TABLES = """
    SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'
    AND table_name NOT LIKE 'pgqueuer%' AND table_name !~ '_(first|default|[0-9]{4}_[0-9]{2})$'
    AND table_name <> 'alembic_version'
"""

KEPT = ("payment", "refund", "payment_config", "payment_config_history", "device_token")


@pytest.fixture
async def empty_url(server: Server, worker_id: str) -> str:
    return await server.make(f"migrations_{worker_id}", empty=True)


@pytest.fixture
async def head_url(server: Server, worker_id: str) -> str:
    return await server.make(f"migrated_{worker_id}")


async def rows_of(url: str, query: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch(query)
        return found
    finally:
        await connection.close()


async def revision_of(url: str) -> str | None:
    database = Database(url, pool_size=2)
    try:
        return await schema.current(database)
    finally:
        await database.close()


async def test_empty_database_has_no_revision(empty_url: str) -> None:
    assert await revision_of(empty_url) is None


async def test_upgrade_brings_an_empty_database_to_head(empty_url: str) -> None:
    await asyncio.to_thread(migrating.migrate, empty_url)
    assert await revision_of(empty_url) == schema.head()
    assert {row["table_name"] for row in await rows_of(empty_url, TABLES)} == set(Base.metadata.tables)


async def test_database_of_a_newer_release_is_told_so(empty_url: str) -> None:
    """As an image that was put back finds it: to run migrate is no help."""
    await rows_of(empty_url, "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
    await rows_of(empty_url, "INSERT INTO alembic_version VALUES ('9999')")
    with pytest.raises(schema.SchemaError, match="A newer release"):
        await asyncio.to_thread(migrating.migrate, empty_url)
    assert "a newer release has migrated it" in (schema.trouble("9999") or "")
    assert "run 'payment-service migrate'" in (schema.trouble("0001") or "")


def test_newest_file_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(migrating.alembic_config()).get_heads() == [schema.head()]


async def test_second_upgrade_changes_nothing(empty_url: str) -> None:
    await asyncio.to_thread(migrating.migrate, empty_url)
    made = "SELECT oid, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY oid"
    before = await rows_of(empty_url, made)
    await asyncio.to_thread(migrating.migrate, empty_url)
    assert await rows_of(empty_url, made) == before


async def migrate_in_a_process(url: str) -> int:
    """Alembic keeps its context in the process, so two upgrades at once are two processes."""
    program = f"from payment_service.postgres.migrating import migrate; migrate({url!r})"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    return await process.wait()


@pytest.mark.thorough
async def test_upgrades_at_once_wait_for_each_other(empty_url: str) -> None:
    assert await asyncio.gather(*(migrate_in_a_process(empty_url) for _ in range(2))) == [0, 0]
    assert await revision_of(empty_url) == schema.head()


async def test_upgrade_waits_for_another_longer_than_a_request_may_wait(empty_url: str) -> None:
    other = await asyncpg.connect(empty_url)
    try:
        for timeout in ("lock_timeout", "statement_timeout"):
            await other.execute(
                f"ALTER DATABASE {await other.fetchval('SELECT current_database()')} SET {timeout} = 50"
            )
        await other.execute("SELECT pg_advisory_lock($1)", schema.MIGRATION_LOCK)
        upgrading = asyncio.create_task(asyncio.to_thread(migrating.migrate, empty_url))
        long_wait = """
            SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'
            AND query_start < clock_timestamp() - interval '150 milliseconds'
        """

        async def has_waited() -> bool:
            return upgrading.done() or bool(await other.fetchval(long_wait))

        await until(has_waited)
        assert await other.fetchval("SELECT to_regclass('payment')") is None
    finally:
        await other.close()
    await upgrading
    assert await revision_of(empty_url) == schema.head()


async def test_failed_upgrade_leaves_nothing(empty_url: str) -> None:
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE TABLE refund (in_the_way text)")
    await connection.close()
    with pytest.raises(Exception, match="refund"):
        await asyncio.to_thread(migrating.migrate, empty_url)
    assert {row["table_name"] for row in await rows_of(empty_url, TABLES)} == {"refund"}


async def test_scripts_of_a_migration_are_one_transaction(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, alone = schema._run, []

    def run_and_look(bind: Connection, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        run(bind, work)
        adapted: Any = bind.connection.dbapi_connection
        if not (adapted.autocommit or adapted.driver_connection.is_in_transaction()):
            alone.append(op.get_context().get_current_revision())

    monkeypatch.setattr(schema, "_run", run_and_look)
    await asyncio.to_thread(migrating.migrate, empty_url)
    assert alone == []


class CutOffError(Exception):
    """The connection of a migration is gone."""


@pytest.mark.thorough
async def test_upgrade_that_was_cut_off_anywhere_is_taken_up_by_the_next_one(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by SIGKILL: behind each script of each migration, the connection ends without a word."""
    config, run = migrating.alembic_config(empty_url), schema._run
    left = 0

    def run_until_cut_off(bind: Connection, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
        nonlocal left
        run(bind, work)
        left -= 1
        if left == 0:
            driver: Any = bind.connection.driver_connection
            driver.terminate()
            raise CutOffError

    monkeypatch.setattr(schema, "_run", run_until_cut_off)
    revision, scripts, tries = await revision_of(empty_url), 1, 0
    while True:
        left, tries = scripts, tries + 1
        try:
            await asyncio.to_thread(command.upgrade, config, "head")
        except Exception:
            if left > 0:
                raise
        else:
            break
        before, revision = revision, await revision_of(empty_url)
        scripts = scripts + 1 if revision == before else 1
    assert tries > 100
    database = Database(empty_url, pool_size=2)
    try:
        async with database.reading() as session:
            assert await missing(session) == []
    finally:
        await database.close()


async def test_upgrade_keeps_what_is_there(empty_url: str) -> None:
    config = migrating.alembic_config(empty_url)
    await asyncio.to_thread(command.upgrade, config, "0001")
    connection = await asyncpg.connect(empty_url)
    try:
        await insert_sample_rows(connection)
        before = {table: await connection.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in KEPT}
        await asyncio.to_thread(migrating.migrate, empty_url)
        for table, rows in before.items():
            after = await connection.fetch(f"SELECT {', '.join(rows[0].keys())} FROM {table} ORDER BY 1")
            assert [dict(row) for row in after] == [dict(row) for row in rows]
        assert await connection.fetchval("SELECT bool_and(moved_at = updated_at) FROM payment")
        today, recorded = "SELECT subject, content FROM audited_today", "SELECT subject, content FROM payment_log"
        assert len(await connection.fetch(today)) == 4
        assert await connection.fetch(f"{today} EXCEPT {recorded}") == []
    finally:
        await connection.close()


async def test_upgrade_goes_where_the_tables_are_whatever_schema_the_role_has_before_them(empty_url: str) -> None:
    config = migrating.alembic_config(empty_url)
    await asyncio.to_thread(command.upgrade, config, "0028")
    connection = await asyncpg.connect(empty_url)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"CREATE SCHEMA old; ALTER DATABASE {name} SET search_path = old, public")
    await connection.close()
    await asyncio.to_thread(command.upgrade, config, "head")
    assert await rows_of(empty_url, "SELECT FROM pg_proc WHERE pronamespace = 'old'::regnamespace") == []
    database = Database(empty_url, pool_size=2)
    async with database.reading() as session:
        assert await missing(session) == []
    await database.close()


async def test_models_and_migrations_agree(head_url: str) -> None:
    def differences(connection: Connection) -> list[Any]:
        options: dict[str, Any] = {
            "compare_type": True,
            "compare_server_default": True,
            "include_object": schema.compared,
        }
        context = MigrationContext.configure(connection, opts=options)
        found: list[Any] = compare_metadata(context, Base.metadata)
        return found

    database = Database(head_url, pool_size=2)
    try:
        async with database.engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await database.close()


def test_migrations_depend_on_nothing_but_what_runs_them() -> None:
    """What is installed later must not change what a migration makes."""
    allowed = {"alembic", "sqlalchemy", "asyncpg", "payment_service", *sys.stdlib_module_names}
    for file in sorted(schema.migrations().glob("versions/*.py")):
        imported = re.findall(r"^\s*(?:from|import) (\w+)", file.read_text("utf-8"), re.MULTILINE)
        assert set(imported) <= allowed, file.name


async def test_downgrade_is_refused(head_url: str) -> None:
    config = migrating.alembic_config(head_url)
    with pytest.raises(DBAPIError) as caught:
        await asyncio.to_thread(command.downgrade, config, "base")
    assert constraint_of(caught.value) == "no_way_back"
    assert await revision_of(head_url) == schema.head()
