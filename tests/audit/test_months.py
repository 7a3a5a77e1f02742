"""The record over its partitions: its laws hold in each, months are made ahead, and old ones leave whole."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import typer
from alembic import command

from payment_service.audit import checking, retiring
from payment_service.audit.comparing import compare
from payment_service.audit.sealing import AuditSeals
from payment_service.cli import audit as cli_audit
from payment_service.postgres import migrating, schema
from payment_service.postgres.database import Database, constraint_of
from payment_service.postgres.months import AHEAD, NotRetired, make_months, months
from tests.support.books import LINE, insert, insert_sample_rows, law_of
from tests.support.database import Server
from tests.support.months import NOW, called, made_until, month, partitions, with_months_since
from tests.support.record import problem_of, tamper
from tests.support.waiting import until


@pytest.fixture
async def url(server: Server, worker_id: str) -> str:
    """A database whose partitions no other test has."""
    return await server.make(f"months_{worker_id}")


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=4)
    yield database
    await database.close()


async def write(sql: asyncpg.Connection, *when: datetime) -> None:
    for moment in when:
        await insert(sql, "payment_log", LINE, created_at=moment, amount=100)


async def test_no_row_is_changed_in_whichever_partition_and_by_whichever_name(sql: asyncpg.Connection) -> None:
    assert await sql.fetchval("SELECT make_months('payment_log', 6)") > 0
    found = await partitions(sql)
    assert len(found) >= 6
    for name in found:
        ends = await sql.fetchval("SELECT month_until($1::regclass)", name)
        await write(sql, ends - timedelta(seconds=1) if ends else datetime(2999, 1, 1, tzinfo=UTC))
        assert await sql.fetchval(f"SELECT count(*) FROM {name}") == 1
    for name in ("payment_log", *found):
        for attack in (
            f"UPDATE {name} SET amount = 1",
            f"UPDATE {name} SET created_at = created_at + interval '1 month'",
            f"DELETE FROM {name}",
            f"TRUNCATE {name}",
        ):
            assert await law_of(sql, attack) == "payment_log_insert_only", attack


async def test_report_is_taken_once_over_all_months(sql: asyncpg.Connection) -> None:
    report = {**LINE, "source": "client", "report_id": "r1", "shop_id": 8}
    await insert(sql, "payment_log", report)
    for moment in (NOW, month(-1), month(12)):
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            await insert(sql, "payment_log", report, created_at=moment)
        assert constraint_of(caught.value) == "payment_log_report"
    await insert(sql, "payment_log", report, external_id="111")
    assert await law_of(sql, "DELETE FROM report_taken") == "report_taken_insert_only"
    assert await law_of(sql, "TRUNCATE report_taken") == "report_taken_insert_only"


async def test_months_lie_ready_and_a_second_making_makes_none(database: Database, sql: asyncpg.Connection) -> None:
    await made_until(sql, -1)
    assert (await months(database)).are_enough is False
    assert await make_months(database) == AHEAD
    assert await make_months(database) == 0
    found = await months(database)
    assert (found.ahead, found.astray, found.are_enough) == (AHEAD, [], True)


async def test_rows_of_months_that_nobody_made_are_written_and_their_table_becomes_the_partition(
    database: Database, sql: asyncpg.Connection
) -> None:
    await made_until(sql, 2)
    await write(sql, month(1), NOW)
    found = await months(database)
    assert (found.ahead, found.astray, found.are_enough) == (-3, ["payment_log_default"], False)
    before = await sql.fetch("SELECT * FROM payment_log ORDER BY id")
    assert await make_months(database) == 1 + AHEAD
    assert await sql.fetch("SELECT * FROM payment_log ORDER BY id") == before
    assert await sql.fetchval(f"SELECT count(*) FROM {called(2)}") == 2
    assert (await months(database)).are_enough
    assert await law_of(sql, f"UPDATE {called(2)} SET amount = 1") == "payment_log_insert_only"
    assert await law_of(sql, "TRUNCATE payment_log_default") == "payment_log_insert_only"
    await write(sql, NOW, datetime(2999, 1, 1, tzinfo=UTC))


async def test_rows_astray_of_several_times_are_left_to_people_and_rows_are_still_written(
    database: Database, sql: asyncpg.Connection
) -> None:
    await made_until(sql, 1)
    await write(sql, NOW, month(-2))
    with pytest.raises(Exception, match="other times") as caught:
        await make_months(database)
    assert constraint_of(caught.value) == "payment_log_default_of_one_time"
    await write(sql, NOW)
    assert (await months(database)).astray


async def test_forged_partition_and_one_that_was_taken_away_are_found(
    database: Database, sql: asyncpg.Connection
) -> None:
    await with_months_since(sql, 1)
    await write(sql, month(1), month(1), NOW)
    assert await AuditSeals(database).seal() == 3
    await sql.execute(
        "CREATE TABLE forged (LIKE payment_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS);"
        "INSERT INTO forged (id, operation_type, actor, source, created_at)"
        " VALUES (3, 'create', 'eve', 'service', '2999-01-01');"
        "ALTER TABLE payment_log ATTACH PARTITION forged FOR VALUES FROM ('2999-01-01') TO ('2999-02-01')"
    )
    assert await problem_of(database) == ("row_added", 1, 3)
    await sql.execute("ALTER TABLE payment_log DETACH PARTITION forged")
    assert await problem_of(database) is None
    await sql.execute(f"ALTER TABLE payment_log DETACH PARTITION {called(1)}")
    assert await problem_of(database) == ("row_missing", 1, 1)


async def test_sealing_waits_for_whoever_writes_to_a_partition_by_its_name(
    database: Database, sql: asyncpg.Connection, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_service.audit.sealing.WRITERS_TIMEOUT_S", 0.1)
    await write(sql, NOW)
    other = await asyncpg.connect(url)
    await other.execute("BEGIN; LOCK TABLE payment_log_first IN ROW EXCLUSIVE MODE")
    sealed = await AuditSeals(database).seal()
    await other.close()
    assert sealed == 0
    assert await AuditSeals(database).seal() == 1


# --- leaving


async def leave(database: Database, folder: Path, ago: int) -> list[tuple[str, Path | None]]:
    """Take every month out that ended before the one so many months ago; with the file of each."""
    left = []
    for one in await retiring.retirable(database, before=month(ago)):
        path = folder / f"{one.partition}.jsonl"
        digest = None
        if one.seals is not None:
            digest = await retiring.write_file(database, one.seals, path, progress=lambda _: None)
        await retiring.retire(database, one.partition, digest)
        left.append((one.partition, path if digest else None))
    return left


@pytest.fixture
async def old(sql: asyncpg.Connection, database: Database) -> asyncpg.Connection:
    """Rows of four months and of before: seal 1 is of the first two partitions, 2 of the next two, 3 of this month."""
    await with_months_since(sql, 4)
    await insert_sample_rows(sql)  # this month's: what decides who may do what
    assert await AuditSeals(database).seal() == 4
    await write(sql, month(5), month(5), month(4))
    assert await AuditSeals(database).seal() == 3
    await write(sql, month(3), month(2))
    assert await AuditSeals(database).seal() == 2
    return sql


async def test_months_that_leave_are_in_files_and_the_rest_is_still_whole(
    old: asyncpg.Connection, database: Database, tmp_path: Path
) -> None:
    before = await checking.check_database(database)
    assert await leave(database, tmp_path, 4) == [("payment_log_first", tmp_path / "payment_log_first.jsonl")]
    report = await checking.check_database(database)
    assert (report.problem, report.rows, report.rows_retired) == (None, before.rows - 2, 2)
    # The row of the next month that seal 2 covers too is still looked at.
    assert await leave(database, tmp_path, 3) == [(called(4), None)]
    assert await leave(database, tmp_path, 2) == [(called(3), tmp_path / f"{called(3)}.jsonl")]
    report = await checking.check_database(database)
    assert (report.problem, report.rows, report.rows_retired) == (None, before.rows - 4, 4)
    first, third = (checking.check_file(tmp_path / f"{name}.jsonl") for name in ("payment_log_first", called(3)))
    assert (first.problem, first.rows, third.problem, third.rows) == (None, 3, None, 2)
    assert first.last
    assert third.first
    assert third.first.previous == first.last.hash
    assert (await compare(database)).problem is None

    assert await old.fetchval(f"SELECT count(*) FROM {called(3)}") == 1
    row = "(id, operation_type, actor, source) VALUES (99, 'create', 'eve', 'service')"
    for attack in (f"INSERT INTO {called(3)} {row}", f"UPDATE {called(3)} SET amount = 1", f"TRUNCATE {called(3)}"):
        assert await law_of(old, attack) == "payment_log_insert_only"
    assert await law_of(old, "DELETE FROM audit_retired") == "audit_retired_insert_only"
    await write(old, month(3))  # late, and not refused
    await tamper(old, f"DELETE FROM payment_log WHERE created_at = '{month(2)}'")
    assert (await problem_of(database) or ("",))[0] == "row_missing"


async def test_file_of_a_month_whose_leaving_was_not_heard_is_kept(
    old: asyncpg.Connection,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    retire = retiring.retire

    async def retire_unheard(*arguments: Any) -> None:
        await retire(*arguments)
        raise asyncpg.ConnectionDoesNotExistError

    monkeypatch.setattr(retiring, "retire", retire_unheard)
    [leaving] = await retiring.retirable(database, before=month(4))
    path = tmp_path / "left.jsonl"
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await cli_audit._retire(database, leaving, path)
    digest = await old.fetchval("SELECT file_sha256 FROM audit_retired")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert capsys.readouterr().err.endswith(f"keep {path}.\n")


async def test_file_of_a_month_that_stays_is_removed(
    old: asyncpg.Connection, database: Database, tmp_path: Path
) -> None:
    [_, _, third] = await retiring.retirable(database, before=month(2))
    path = tmp_path / "stays.jsonl"
    with pytest.raises(typer.Exit):  # not the oldest
        await cli_audit._retire(database, third, path)
    assert not path.exists()


async def test_what_the_record_says_last_of_who_may_do_what_does_not_leave(
    old: asyncpg.Connection, database: Database, tmp_path: Path
) -> None:
    await tamper(old, f"UPDATE payment_log SET created_at = '{month(5)}' WHERE subject IS NOT NULL")
    assert (await compare(database)).problem is None
    await tamper(old, "DELETE FROM audit_seal")
    await AuditSeals(database).seal()
    await leave(database, tmp_path, 4)
    found = await compare(database)
    assert (found.problem, found.rows) == (None, 5)
    said = await old.fetch("SELECT subject, reason FROM payment_log WHERE operation_type = 'baseline' ORDER BY subject")
    assert [row["subject"] for row in said] == [
        "device_token:1",
        "device_token:2",
        "payment_config:8",
        "payment_config:9",
    ]
    assert all("has left with payment_log_first" in row["reason"] for row in said)


async def test_what_others_paid_back_is_still_counted(
    old: asyncpg.Connection, database: Database, tmp_path: Path
) -> None:
    refund = {**LINE, "operation_type": "refund", "source": "client", "shop_id": 8, "external_id": "111"}
    await insert(old, "payment_log", refund, amount=700, created_at=month(5), report_id="r1")
    await insert(old, "payment_log", refund, amount=50, created_at=NOW)
    await AuditSeals(database).seal()
    # Of these payments one refund each has no sum: of 222 a later line says it, of 333 the line of an older refund.
    for payment, ago, amount in (("222", 5, None), ("222", 0, 60), ("333", 5, 40), ("333", 4, None)):
        of_payment = refund | {"external_id": payment}
        await insert(old, "payment_log", of_payment, amount=amount, created_at=month(ago) if ago else NOW)
    await AuditSeals(database).seal()
    counted = "SELECT refunded_elsewhere(8, 'kaspi', '111'), refunded_elsewhere(8, 'kaspi', '222'), "
    counted += "refunded_elsewhere(8, 'kaspi', '333')"
    before = await old.fetchrow(counted)
    assert tuple(before) == (750, 60, 9_999_999_999 + 40)
    await leave(database, tmp_path, 3)
    assert await old.fetchval("SELECT count(*) FROM payment_log_first WHERE amount = 700") == 1
    assert await old.fetchrow(counted) == before
    assert (
        await law_of(
            old,
            "INSERT INTO payment_log (report_id, actor, shop_id, operation_type, external_id, source)"
            " VALUES ('r1', 'tests', 8, 'refund', '111', 'client')",
        )
        == "payment_log_report"
    )


async def test_what_still_belongs_to_the_record_does_not_leave(
    old: asyncpg.Connection, database: Database, tmp_path: Path
) -> None:
    async def refused(partition: str) -> str:
        with pytest.raises(NotRetired) as caught:
            await retiring.retire(database, partition, None)
        return str(caught.value)

    assert "oldest" in await refused(called(4))
    await insert(old, "payment_log", LINE, created_at=month(6), payment_id="00000000-0000-7000-8000-000000000001")
    assert "sealed before" in await refused("payment_log_first")
    await AuditSeals(database).seal()
    assert "has not ended" in await refused("payment_log_first")  # its refund is under way
    await tamper(old, "UPDATE refund SET state = 'succeeded'")
    await leave(database, tmp_path, 1)
    assert "a month after its end" in await refused(called(1))


async def test_retirement_that_the_record_does_not_tell_is_refused_and_found(
    old: asyncpg.Connection, database: Database
) -> None:
    row = "('payment_log_first', now(), 2, 2, 2, '{}', NULL, 'eve')"
    lie = (
        "INSERT INTO audit_retired (partition, until, row_count, first_seq, last_seq, kept_ids, file_sha256, actor)"
        f" VALUES {row}"
    )
    assert await law_of(old, lie) == "change_is_audited"
    await tamper(old, lie)
    problem = (await compare(database)).problem
    assert problem is not None
    assert problem.sentence.startswith("audit_retired:payment_log_first is there")


# --- the migration


async def test_migration_waits_for_its_lock_without_holding_payments_up_and_takes_views_and_rights_along(
    server: Server, worker_id: str
) -> None:
    url = await server.make(f"months_{worker_id}", empty=True)
    await asyncio.to_thread(command.upgrade, migrating.alembic_config(url), "0014")
    sql, reader = await asyncpg.connect(url), await asyncpg.connect(url)
    role = f"reader_{worker_id}"
    await sql.execute(
        f"CREATE ROLE {role}; GRANT SELECT, INSERT ON payment_log TO {role}; SET lock_timeout = '1s';"
        "CREATE VIEW of_ours AS SELECT id, actor, report_id FROM payment_log WHERE report_id IS NOT NULL"
    )
    report = {**LINE, "source": "client", "report_id": "r1"}
    await insert(sql, "payment_log", report, shop_id=8)
    for obstacle, law in (
        ("MATERIALIZED VIEW obstacle AS SELECT * FROM payment_log", "payment_log_read_by"),
        ("VIEW payment_log_default AS SELECT 1", None),
    ):
        await sql.execute(f"CREATE {obstacle}")
        with pytest.raises(asyncpg.PostgresError) as caught:
            await asyncio.to_thread(migrating.migrate, url)
        assert constraint_of(caught.value) == law
        await sql.execute(f"DROP {obstacle.partition(' AS ')[0]}")
        left = "SELECT count(*) FROM pg_constraint WHERE conname = 'payment_log_first_bound'"
        assert await sql.fetchval(left) == 0, "it would refuse the rows of a later month"
    async with reader.transaction():
        await reader.fetch("SELECT FROM payment_log")  # as a dump of the whole database does
        migration = asyncio.create_task(asyncio.to_thread(migrating.migrate, url))
        waiting = (
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE NOT granted AND relation = 'payment_log'::regclass AND datname = current_database())"
        )

        async def waits() -> bool:
            return migration.done() or bool(await sql.fetchval(waiting))

        await until(waits)
        for _ in range(3):
            await insert(sql, "payment_log", report, shop_id=9, report_id=f"meanwhile-{_}")
            await asyncio.sleep(0.1)
    await migration
    assert await sql.fetchval("SELECT version_num FROM alembic_version") == schema.head()
    last = await sql.fetchval("SELECT max(id) FROM payment_log")
    await insert(sql, "payment_log", report, shop_id=10, created_at=month(-3))
    assert await sql.fetchval("SELECT count(*) FROM of_ours") == 5
    assert await sql.fetchval("SELECT max(id) FROM payment_log") == last + 1
    assert await sql.fetchval("SELECT count(*) FROM report_taken") == 5
    may = "SELECT has_table_privilege($1, $2, $3)"
    assert await sql.fetchval(may, role, "payment_log", "SELECT")
    assert not await sql.fetchval(may, role, "payment_log_first", "INSERT")
    for column, allowed in (("actor", True), ("id", False)):
        assert (
            await sql.fetchval(f"SELECT has_column_privilege('{role}', 'payment_log', $1, 'INSERT')", column) is allowed
        )
    assert await sql.fetchval(f"SELECT has_function_privilege('{role}', 'make_months(text, integer)', 'EXECUTE')")
    await reader.close()
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await sql.close()
