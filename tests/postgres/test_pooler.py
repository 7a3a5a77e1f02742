"""Behind a real PgBouncer: settings that hold, sessions that are shared and say so, and commits that a crash keeps."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from signal import SIGQUIT
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import text

from payment_dev.postgres import EmbeddedPostgres
from payment_service.postgres import migrating
from payment_service.postgres.connecting import UnsuitableDatabaseError
from payment_service.postgres.database import STATEMENT_SETTINGS, Database
from payment_service.postgres.sessions import SETTINGS
from tests.support.books import NEW_PAYMENT, insert, insert_sample_rows
from tests.support.database import Server
from tests.support.pgbouncer import PROGRAM, pgbouncer
from tests.support.rig import Rig
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("pooler")


@pytest.fixture(autouse=True, scope="module")
def program() -> None:
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("pgbouncer is not installed")
        pytest.skip("pgbouncer is not installed")


@pytest.fixture(scope="module")
async def url(server: Server, worker_id: str) -> str:
    return await server.make(f"pooled_{worker_id}")


@pytest.fixture(scope="module")
def sessions(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A pooler in session mode, as it comes from the package."""
    with pgbouncer(tmp_path_factory.mktemp("sessions"), url, "session") as address:
        yield address


@pytest.fixture(scope="module")
def transactions(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A pooler in transaction mode, with so few sessions that clients meet in them."""
    with pgbouncer(tmp_path_factory.mktemp("transactions"), url, "transaction", default_pool_size="2") as address:
        yield address


@pytest.fixture
async def settings_of_the_role(url: str, worker_id: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(url)
    await give_settings(connection, f"pooled_{worker_id}")
    yield
    await connection.execute(f"ALTER ROLE postgres IN DATABASE pooled_{worker_id} RESET ALL")
    await connection.close()


async def give_settings(connection: asyncpg.Connection, database: str) -> None:
    for name, value in SETTINGS.items():
        await connection.execute(f"ALTER ROLE postgres IN DATABASE {database} SET {name} = '{value}'")


async def reconnect(transactions: str) -> None:
    """As an administrator of the pooler: sessions that are open keep what they began with."""
    admin = await asyncpg.connect(transactions.rsplit("/", 1)[0] + "/pgbouncer", statement_cache_size=0)
    await admin.execute("RECONNECT")
    await admin.close()


async def shown(database: Database, names: list[str]) -> list[dict[str, str]]:
    """Settings of a connection of the pool, and of a line."""
    rows = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"
    async with database.reading() as session:
        found = await session.execute(text(rows.replace("$1", ":names")), {"names": names})
        pooled = {row.name: row.setting for row in found}
    return [pooled, {row["name"]: row["setting"] for row in await database.statements.fetch(rows, names)}]


async def test_session_mode_keeps_every_setting_and_is_told_from_transaction_mode(
    sessions: str, transactions: str
) -> None:
    database = Database(sessions, pool_size=2)
    try:
        await database.check_sessions()
        pooled, of_line = await shown(database, [*SETTINGS, *STATEMENT_SETTINGS, "TimeZone"])
        assert pooled.items() >= {**SETTINGS, "TimeZone": "UTC"}.items()
        assert of_line == {**SETTINGS, **STATEMENT_SETTINGS, "TimeZone": "UTC"}
    finally:
        await database.close()
    shared = Database(transactions, pool_size=2)
    try:
        with pytest.raises(UnsuitableDatabaseError, match=r"DATABASE_URL leads to a pooler.* in transaction mode"):
            await shared.check_sessions()
    finally:
        await shared.close()


async def test_shared_sessions_without_the_settings_are_refused_with_what_to_run(
    url: str, transactions: str, worker_id: str
) -> None:
    database = Database(transactions, pool_size=2, direct_url=url)
    try:
        with pytest.raises(UnsuitableDatabaseError) as refused:
            await database.check_sessions()
        role = f"ALTER ROLE postgres IN DATABASE pooled_{worker_id}"
        assert f"{role} SET idle_in_transaction_session_timeout = '30000';" in str(refused.value)
    finally:
        await database.close()


@pytest.mark.usefixtures("settings_of_the_role")
async def test_direct_address_that_is_shared_too_is_refused(transactions: str) -> None:
    await reconnect(transactions)
    database = Database(transactions, pool_size=2, direct_url=transactions)
    try:
        with pytest.raises(UnsuitableDatabaseError, match="DATABASE_DIRECT_URL leads to a pooler"):
            await database.check_sessions()
    finally:
        await database.close()


@pytest.mark.thorough
@pytest.mark.usefixtures("settings_of_the_role")
async def test_statements_of_many_clients_meet_in_shared_sessions(url: str, transactions: str) -> None:
    await reconnect(transactions)
    databases = [Database(transactions, pool_size=8, direct_url=url) for _ in range(3)]

    async def ask(database: Database, number: int) -> None:
        assert (await database.statements.fetchrow(f"SELECT $1::int + {number} AS sum", 1))["sum"] == number + 1  # type: ignore[index]
        async with database.transaction() as session:
            again = [await session.scalar(text("SELECT CAST(:a AS int)"), {"a": number}) for _ in range(2)]
        assert again == [number] * 2

    try:
        await databases[0].check_sessions()
        await asyncio.gather(*(ask(database, number) for number in range(20) for database in databases))
        heard: list[str] = []
        connection = await databases[0].raw_connection()
        await connection.add_listener("told", lambda *said: heard.append(said[-1]))
        databases[1].signals.send("told", "a")

        async def told() -> bool:
            return heard == ["a"]

        await until(told, "the other process is told")
        connection.terminate()
    finally:
        for database in databases:
            await database.close()


async def test_options_in_an_address_are_refused_by_name(sessions: str) -> None:
    database = Database(f"{sessions}?options={quote('-c search_path=pay')}", pool_size=2)
    try:
        with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter: options"):
            await database.check_sessions()
    finally:
        await database.close()


# --- commits


@pytest.mark.parametrize("weaker", ["off", "local", "remote_write"])
async def test_transaction_that_writes_a_payment_waits_for_the_disk_whatever_its_session_says(
    sql: asyncpg.Connection, weaker: str
) -> None:
    await insert_sample_rows(sql)
    await sql.execute(f"SET synchronous_commit = {weaker}")
    async with sql.transaction():
        assert await sql.fetchval("SHOW synchronous_commit") == weaker
        await insert(sql, "payment", NEW_PAYMENT)
        assert await sql.fetchval("SHOW synchronous_commit") == "on"
    assert await sql.fetchval("SHOW synchronous_commit") == weaker
    await sql.execute("SET synchronous_commit = remote_apply")
    async with sql.transaction():
        await sql.execute("INSERT INTO payment SELECT * FROM payment WHERE false")
        assert await sql.fetchval("SHOW synchronous_commit") == "remote_apply"


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_session_that_would_not_see_an_equal_payment_writes_none(sql: asyncpg.Connection, isolation: str) -> None:
    await insert_sample_rows(sql)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        async with sql.transaction(isolation=isolation):
            await insert(sql, "payment", NEW_PAYMENT)
    assert refused.value.constraint_name == "sees_what_was_committed"


@pytest.mark.thorough
async def test_crash_takes_no_payment_back_that_a_careless_session_committed(tmp_path: Path) -> None:
    """The same session commits a row of another table before, which the crash takes back."""
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    try:
        postgres.start()
        await asyncio.to_thread(migrating.migrate, postgres.url())
        sql = await asyncpg.connect(postgres.url())
        await insert_sample_rows(sql)
        await sql.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        await sql.execute("CREATE TABLE other (i int)")
        await sql.execute("SELECT pg_reload_conf()")
        await sql.execute("CHECKPOINT")
        await asyncio.sleep(0.5)
        await sql.execute("SET synchronous_commit = off")
        payments = await sql.fetchval("SELECT count(*) FROM payment")
        await insert(sql, "payment", NEW_PAYMENT)
        await sql.execute("INSERT INTO other VALUES (1)")
        await crash(postgres)
        sql.terminate()
        postgres.start()
        sql = await asyncpg.connect(postgres.url())
        assert await sql.fetchval("SELECT count(*) FROM payment") == payments + 1
        assert await sql.fetchval("SELECT count(*) FROM other") == 0
        await sql.close()
    finally:
        postgres.remove()


async def crash(postgres: EmbeddedPostgres) -> None:
    """End it at once: what it had not written yet is lost."""
    assert postgres._running
    pid = postgres._running.pid
    os.kill(pid, SIGQUIT)

    async def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await until(gone, "PostgreSQL is gone")


# --- the whole service


@pytest.mark.thorough
@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_service_works_behind_pgbouncer(server: Server, tmp_path: Path, mode: str) -> None:
    name = f"tests_behind_{mode}"
    direct = await server.make(name)
    connection = await asyncpg.connect(direct)
    try:
        if mode == "transaction":
            await give_settings(connection, name)
        with pgbouncer(tmp_path / "pgbouncer", direct, mode) as pooled:
            settings = {"DATABASE_POOL_SIZE": "4"} | ({"DATABASE_DIRECT_URL": direct} if mode == "transaction" else {})
            async with Rig(tmp_path, direct, settings, database_path=pooled) as rig:
                await rig.serve_all()
                await _pay_and_pay_back(rig)
        assert await connection.fetchval("SELECT count(*) FROM refund WHERE state = 'succeeded'") == 20
    finally:
        await connection.close()


async def _pay_and_pay_back(rig: Rig) -> None:
    made = await asyncio.gather(*(rig.paid(by=rig.clients[number % 2]) for number in range(20)))
    for payment in made:
        await rig.in_state(payment["id"], "paid")
    refunds = await asyncio.gather(*(rig.refund(payment["external_id"], amount=100) for payment in made))
    assert {answer.status_code for answer in refunds} == {200}
    # A route that is changed through one process is known to the other: LISTEN.
    body = {"organization_bin": SHOPS[121038], "is_active": False}
    (await rig.clients[0].put("/admin/configs/121038", json=body)).raise_for_status()

    async def refused() -> bool:
        return (await rig.create(by=rig.clients[1])).status_code == 403

    await until(refused, "the other process knows that the shop is off")
