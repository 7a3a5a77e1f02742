"""Sealing: what is covered, what is waited for, and that it is on nobody's path."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
import structlog

from payment_service.audit import rows as audit_rows
from payment_service.audit import sealing
from payment_service.audit.canonical import FORMS, newest_form
from payment_service.audit.sealing import SEALING_LOCK, AuditSeals, SealFormMismatch
from payment_service.postgres.database import Database
from payment_service.services import Services
from tests.support.books import law_of
from tests.support.database import Server
from tests.support.record import check, hashes, problem_of, seal_each, write
from tests.support.waiting import until


@pytest.fixture
def seals(database: Database) -> AuditSeals:
    return AuditSeals(database)


@pytest.fixture
async def other(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A second connection, of a slow writer."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "WRITERS_TIMEOUT_S", 0.05)


async def test_empty_record_has_nothing_to_seal(sql: asyncpg.Connection, seals: AuditSeals) -> None:
    assert await seals.seal() == 0
    assert await hashes(sql) == []


async def test_seals_follow_each_other_and_cover_every_row_once(
    sql: asyncpg.Connection, database: Database, seals: AuditSeals
) -> None:
    await seal_each(sql, database, 3, 1, 5)
    assert await seals.seal() == 0
    found = await sql.fetch("SELECT seq, after_id, last_id, row_count FROM audit_seal ORDER BY seq")
    assert [tuple(row) for row in found] == [(1, 0, 3, 3), (2, 3, 4, 1), (3, 4, 9, 5)]
    report = await check(database)
    assert (report.problem, report.rows) == (None, 9)


async def test_gap_of_a_rolled_back_writer_is_ordinary(sql: asyncpg.Connection, database: Database) -> None:
    await write(sql, 2)
    transaction = sql.transaction()
    await transaction.start()
    await write(sql, 3)
    await transaction.rollback()
    await seal_each(sql, database)
    await write(sql, 1)
    assert await AuditSeals(database).seal() == 3
    assert await problem_of(database) is None


async def test_long_record_is_sealed_in_batches_and_over_several_sweeps(
    sql: asyncpg.Connection, database: Database, seals: AuditSeals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "MAX_ROWS", 10)
    monkeypatch.setattr(sealing, "MAX_SEALS_AT_ONCE", 3)
    await write(sql, 42)
    assert [await seals.seal() for _ in range(3)] == [30, 12, 0]
    sizes = await sql.fetch("SELECT row_count FROM audit_seal ORDER BY seq")
    assert [size["row_count"] for size in sizes] == [10, 10, 10, 10, 2]
    assert await problem_of(database) is None


async def test_row_that_commits_late_is_waited_for(
    sql: asyncpg.Connection,
    other: asyncpg.Connection,
    database: Database,
    seals: AuditSeals,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks, writers = 0, sealing._writers

    async def look(connection: Any) -> set[str]:
        nonlocal looks
        looks += 1
        return await writers(connection)

    monkeypatch.setattr(sealing, "_writers", look)
    late = other.transaction()
    await late.start()
    await write(other, 1)  # id 1, not to be seen yet
    await write(sql, 1)  # id 2, committed
    sealing_now = asyncio.create_task(seals.seal())

    async def looked_again() -> bool:
        return looks > 2

    await until(looked_again)
    assert await hashes(sql) == []
    await late.commit()
    assert await sealing_now == 2
    assert await problem_of(database) is None


@pytest.mark.usefixtures("impatient")
async def test_writer_that_stays_open_puts_the_sealing_off(
    sql: asyncpg.Connection, other: asyncpg.Connection, database: Database, seals: AuditSeals
) -> None:
    late = other.transaction()
    await late.start()
    await write(other, 1)
    await write(sql, 1)
    with structlog.testing.capture_logs() as logs:
        assert await seals.seal() == 0
    assert [(line["log_level"], line["transactions"]) for line in logs] == [("warning", 1)]
    await late.rollback()
    assert await seals.seal() == 1
    assert await problem_of(database) is None


@pytest.mark.usefixtures("impatient")
async def test_writer_that_has_no_id_yet_is_waited_for(
    sql: asyncpg.Connection, other: asyncpg.Connection, seals: AuditSeals
) -> None:
    """A row's id may be given before its transaction has an id of its own, so looking at those would not do."""
    await write(sql, 1)
    late = other.transaction()
    await late.start()
    await other.execute("LOCK TABLE payment_log IN ROW EXCLUSIVE MODE")
    await other.fetchval("SELECT nextval(pg_get_serial_sequence('payment_log', 'id'))")
    assert await other.fetchval("SELECT pg_current_xact_id_if_assigned()") is None
    await write(sql, 1)
    assert await seals.seal() == 0
    await late.rollback()


async def test_writers_that_came_later_are_not_waited_for(
    sql: asyncpg.Connection, other: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy service always has writers: only those that were there count."""
    await write(sql, 1)
    looks = iter([{"1/1"}, {"2/7", "3/5"}])

    async def writers(_connection: Any) -> set[str]:
        return next(looks)

    monkeypatch.setattr(sealing, "_writers", writers)
    assert await AuditSeals(database).seal() == 1


async def test_sealing_never_makes_a_writer_wait(
    sql: asyncpg.Connection, other: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held in the middle of its transaction, with every lock that it takes."""
    await write(sql, 1)
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def held(*args: Any, **more: Any) -> Any:
        rows = await audit_rows.read_rows(*args, **more)
        inside.set()
        await go_on.wait()
        return rows

    monkeypatch.setattr(sealing, "read_rows", held)
    at_work = asyncio.create_task(AuditSeals(database).seal())
    await inside.wait()
    await other.execute("SET lock_timeout = 1")
    await write(other, 1)
    go_on.set()
    assert await at_work == 1
    assert await problem_of(database) is None


async def test_of_many_sealers_one_seals_and_none_waits(sql: asyncpg.Connection, database: Database) -> None:
    await write(sql, 50)
    made = await asyncio.gather(*(AuditSeals(database).seal() for _ in range(8)))
    assert sorted(made) == [0] * 7 + [50]
    assert await problem_of(database) is None


async def test_sealer_that_finds_another_at_work_goes_on(
    sql: asyncpg.Connection, other: asyncpg.Connection, seals: AuditSeals
) -> None:
    await write(sql, 1)
    await other.execute("SELECT pg_advisory_lock($1)", SEALING_LOCK)
    assert await seals.seal() == 0
    await other.execute("SELECT pg_advisory_unlock($1)", SEALING_LOCK)
    assert await seals.seal() == 1


async def test_sealing_beside_many_writers_and_sealers_makes_one_whole_chain(
    sql: asyncpg.Connection, database_url: str, services: Services, database: Database
) -> None:
    async def writer(number: int) -> None:
        connection = await asyncpg.connect(database_url)
        try:
            for turn in range(30):
                transaction = connection.transaction()
                await transaction.start()
                await write(connection, 1 + turn % 3)
                # Each takes its own time, so that they do not commit in the order of their rows.
                await connection.execute("SELECT pg_sleep($1)", (5 * turn + 7 * number) % 11 / 1000)
                await (transaction.rollback() if (turn + number) % 5 == 0 else transaction.commit())
        finally:
            await connection.close()

    async def sealer(writers: "asyncio.Future[Any]") -> None:
        while not writers.done():
            await AuditSeals(database).seal()

    writers = asyncio.gather(*(writer(number) for number in range(6)))
    await asyncio.gather(writers, *(sealer(writers) for _ in range(3)))
    await AuditSeals(database).seal()
    report = await check(database)
    assert report.problem is None
    assert report.rows == await sql.fetchval("SELECT count(*) FROM payment_log")
    assert len(await hashes(sql)) > 2


async def test_hash_of_each_seal_goes_to_the_log(sql: asyncpg.Connection, database: Database) -> None:
    with structlog.testing.capture_logs() as logs:
        await seal_each(sql, database, 2, 3)
    told = [(line["event"], line["seq"], line["rows"], line["hash"]) for line in logs]
    first, second = await hashes(sql)
    assert told == [("audit sealed", 1, 2, first), ("audit sealed", 2, 3, second)]


# --- the form


async def test_newest_form_holds_every_column_of_the_table(sql: asyncpg.Connection) -> None:
    """Whoever adds a column adds a form: the earlier ones stay as they are, for the seals made with them."""
    columns = await sql.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'payment_log'")
    assert {column["column_name"] for column in columns} == FORMS[newest_form()]


@pytest.fixture
async def widened(server: Server, worker_id: str) -> AsyncIterator[tuple[asyncpg.Connection, Database]]:
    """A record of two sealed rows, to whose table a column was added."""
    url = await server.make(f"widened_{worker_id}")
    connection, database = await asyncpg.connect(url), Database(url, pool_size=2)
    await seal_each(connection, database, 2)
    await connection.execute("ALTER TABLE payment_log ADD COLUMN note text")
    yield connection, database
    await connection.close()
    await database.close()


Widened = tuple[asyncpg.Connection, Database]


async def test_rows_are_read_as_text_whatever_the_session_quotes(database: Database) -> None:
    async with database.engine.connect() as connection:
        plain = await audit_rows.columns(connection)
        await connection.exec_driver_sql("SET LOCAL quote_all_identifiers = on")
        assert await audit_rows.columns(connection) == plain


async def test_code_that_does_not_know_a_column_does_not_seal(widened: Widened) -> None:
    sql, database = widened
    await write(sql, 1)
    with pytest.raises(SealFormMismatch, match="note"):
        await AuditSeals(database).seal()
    assert len(await hashes(sql)) == 1


async def test_seals_of_an_earlier_form_stay_valid(widened: Widened, monkeypatch: pytest.MonkeyPatch) -> None:
    sql, database = widened
    monkeypatch.setitem(FORMS, 3, FORMS[2] | {"note"})
    await write(sql, 1)
    await sql.execute("INSERT INTO payment_log (operation_type, actor, source, note) VALUES ('t', 't', 'client', 'n')")
    assert await AuditSeals(database).seal() == 2
    forms = await sql.fetch("SELECT form FROM audit_seal ORDER BY seq")
    assert [row["form"] for row in forms] == [2, 3]
    assert await problem_of(database) is None


async def test_later_column_cannot_be_filled_in_an_earlier_row(
    widened: Widened, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql, database = widened
    monkeypatch.setitem(FORMS, 3, FORMS[2] | {"note"})
    await sql.execute("ALTER TABLE payment_log DISABLE TRIGGER ALL")
    await sql.execute("UPDATE payment_log SET note = 'as if it had been there' WHERE id = 2")
    assert await problem_of(database) == ("row_changed", 1, 2)


# --- the laws


@pytest.mark.parametrize(
    "change", ["UPDATE audit_seal SET form = 2", "DELETE FROM audit_seal", "TRUNCATE audit_seal CASCADE"]
)
async def test_seals_are_insert_only(sql: asyncpg.Connection, database: Database, change: str) -> None:
    await seal_each(sql, database, 1)
    assert await law_of(sql, change) == "audit_seal_insert_only"


SECOND = {
    "seq": "2",
    "form": "1",
    "previous_seq": "1",
    "previous_hash": "(SELECT hash FROM audit_seal WHERE seq = 1)",
    "after_id": "3",
    "last_id": "5",
    "row_count": "2",
    "row_ids": "'{4,5}'",
    "row_digests": "decode(repeat('00', 64), 'hex')",
    "hash": "repeat('a', 64)",
}


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({}, None),
        ({"seq": "1", "previous_seq": "NULL", "previous_hash": "repeat('0', 64)", "after_id": "0"}, "audit_seal_pkey"),
        ({"seq": "1"}, "audit_seal_has_its_place"),
        ({"seq": "3"}, "audit_seal_has_its_place"),
        ({"seq": "0", "previous_seq": "-1"}, "audit_seal_has_its_place"),
        ({"previous_seq": "NULL"}, "audit_seal_has_its_place"),
        ({"seq": "3", "previous_seq": "2"}, "audit_seal_follows"),
        ({"previous_hash": "repeat('b', 64)"}, "audit_seal_follows"),
        ({"after_id": "2"}, "audit_seal_follows"),
        ({"form": "0"}, "audit_seal_form_check"),
        ({"hash": "repeat('A', 64)"}, "audit_seal_hash_check"),
        ({"hash": "(SELECT hash FROM audit_seal WHERE seq = 1)"}, "audit_seal_hash"),
        ({"row_count": "3"}, "audit_seal_fits_its_rows"),
        ({"row_ids": "'{3,5}'"}, "audit_seal_fits_its_rows"),
        ({"row_ids": "'{4,6}'"}, "audit_seal_fits_its_rows"),
        ({"row_digests": "'x'"}, "audit_seal_fits_its_rows"),
        ({"row_count": "0", "row_ids": "'{}'", "row_digests": "''"}, "audit_seal_row_count_check"),
    ],
)
async def test_database_holds_the_chain(
    sql: asyncpg.Connection, database: Database, changes: dict[str, str], law: str | None
) -> None:
    await seal_each(sql, database, 3)
    row = {**SECOND, **changes}
    assert await law_of(sql, f"INSERT INTO audit_seal ({', '.join(row)}) VALUES ({', '.join(row.values())})") == law
