"""``payment-service audit``: checking the record and taking it elsewhere, as an operator does."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payment_service.audit.sealing import AuditSeals
from payment_service.postgres.database import Database
from tests.support.database import Server
from tests.support.months import NOW, month, with_months_since
from tests.support.record import hashes, seal_each, tamper, write
from tests.support.rig import Rig
from tests.support.waiting import until

pytestmark = [pytest.mark.xdist_group("cli"), pytest.mark.thorough]


@pytest.fixture
async def books(shell: Rig) -> AsyncIterator[asyncpg.Connection]:
    """Five rows under two seals, and one that waits; as whoever has the database's password sees them."""
    connection, database = await asyncpg.connect(shell.database_url), Database(shell.database_url, pool_size=2)
    await seal_each(connection, database, 3, 2)
    await write(connection, 1)
    yield connection
    await connection.close()
    await database.close()


NOTHING_TO_COMPARE = "As recorded: 0 rows of routing, keys, webhooks, chats and secrets.\n"


async def test_key_that_was_put_in_or_taken_away_with_the_laws_off_is_named(
    shell: Rig, books: asyncpg.Connection
) -> None:
    assert shell.run("keys", "create", "site", "--scope", "admin").returncode == 0
    assert report(shell)["rows_as_recorded"] == 1
    held = (
        "INSERT INTO api_key (id, name, prefix, digest, scopes) VALUES (99, 'eve', 'ps_', repeat('e', 64), '{admin}')"
    )
    await tamper(books, held)
    done = shell.run("audit", "verify")
    assert (done.returncode, done.stderr) == (
        1,
        "api_key:99 is there, and the record does not tell where it comes from.\n",
    )
    await tamper(books, "DELETE FROM api_key")
    told = report(shell)
    assert (told["whole"], told["problem"]) == (False, "change_not_recorded")
    assert told["detail"].startswith("api_key:1 is gone, and row ")


def report(shell: Rig, *words: str) -> dict[str, Any]:
    [line] = json.loads(shell.run("audit", "verify", "--json", *words).stdout)
    assert isinstance(line, dict)
    return line


async def test_whole_record_is_told_with_its_last_hash(shell: Rig, books: asyncpg.Connection) -> None:
    done = shell.run("audit", "verify")
    last = (await hashes(books))[-1]
    assert (done.returncode, done.stderr) == (0, "")
    whole, seal, waiting, compared = done.stdout.splitlines()
    assert whole == "Whole: seals 1 to 2 with 5 rows."
    assert seal == f"Seal 2: {last}"
    assert waiting.startswith("1 row waits for its seal, since ")
    assert compared == "As recorded: 0 rows of routing, keys, webhooks, chats and secrets."


def test_record_without_seals_is_told_as_such(shell: Rig) -> None:
    done = shell.run("audit", "verify")
    assert (done.returncode, done.stdout) == (
        0,
        "Nothing is sealed yet.\nNo row waits for its seal.\n" + NOTHING_TO_COMPARE,
    )


async def test_first_bad_row_is_named(shell: Rig, books: asyncpg.Connection) -> None:
    await tamper(books, "UPDATE payment_log SET amount = 1 WHERE id >= 4")
    done = shell.run("audit", "verify")
    assert done.returncode == 1
    assert done.stderr.startswith("Row 4 was changed after it was sealed, by seal 2 of ")
    assert done.stdout.splitlines()[0] == "Whole before that: seals 1 to 1 with 3 rows."


async def test_scripts_get_json(shell: Rig, books: asyncpg.Connection) -> None:
    assert report(shell) == {
        "whole": True,
        "first_seal": 1,
        "last_seal": 2,
        "last_hash": (await hashes(books))[-1],
        "rows": 5,
        "rows_retired": 0,
        "rows_waiting": 1,
        "rows_as_recorded": 0,
        "problem": None,
        "problem_seal": None,
        "problem_row": None,
        "detail": None,
    }
    await tamper(books, "DELETE FROM payment_log WHERE id = 4")
    told = report(shell)
    assert (told["whole"], told["problem"], told["problem_seal"], told["problem_row"]) == (False, "row_missing", 2, 4)


async def test_months_leave_and_what_stays_is_verified(server: Server, worker_id: str, tmp_path: Path) -> None:
    url = await server.make(f"cli_leaving_{worker_id}")
    shell, sql, database = Rig(tmp_path, url), await asyncpg.connect(url), Database(url, pool_size=2)
    await with_months_since(sql, 3)
    await sql.execute(
        "INSERT INTO payment_log (operation_type, actor, source, created_at) SELECT 't', 't', 'client', each"
        " FROM unnest($1::timestamptz[]) AS each",
        [month(4), month(4), NOW],
    )
    assert await AuditSeals(database).seal() == 3
    before = f"{month(3):%Y-%m}"
    words = ("audit", "retire", "--folder", ".", "--before")
    assert shell.run(*words, "2020-01").stderr == "Nothing is in the record that ended before 2020-01.\n"
    done = shell.run(*words, before)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        "payment_log_first has left the record. Its rows are in payment_log_first.jsonl, SHA-256 "
    )
    told = report(shell)
    assert (told["whole"], told["rows"], told["rows_retired"], told["rows_waiting"]) == (True, 1, 2, 1)
    assert "2 rows under these seals have left the record" in shell.run("audit", "verify").stdout
    assert shell.run("audit", "verify", "--file", "payment_log_first.jsonl").returncode == 0
    assert "Seals up to 1 are in the files" in shell.run("audit", "export").stderr
    assert await AuditSeals(database).seal() == 1
    await tamper(sql, f"DELETE FROM payment_log WHERE created_at = '{NOW}'")
    done = shell.run(*words, f"{month(2):%Y-%m}")
    assert done.stderr.startswith("Nothing leaves a record that is not whole. Row 3 is missing")
    await sql.close()
    await database.close()


async def test_hash_that_another_machine_kept_proves_the_record(shell: Rig, books: asyncpg.Connection) -> None:
    first, last = await hashes(books)
    for kept in (first, last, f"{last}@2", last.upper()):
        assert shell.run("audit", "verify", "--expect", kept).returncode == 0
    done = shell.run("audit", "verify", "--expect", f"{first}@2")
    assert done.returncode == 1
    assert done.stderr.startswith("Seal 2 is not the expected one: its hash is ")
    done = shell.run("audit", "verify", "--expect", f"{last}@7")
    assert (done.returncode, done.stderr) == (
        1,
        "There is no seal 7, and it was expected: the chain ends with seal 2.\n",
    )


async def test_check_begins_where_it_is_told_to(shell: Rig, books: asyncpg.Connection) -> None:
    await tamper(books, "DELETE FROM payment_log WHERE id = 1")
    told = report(shell, "--from-seal", "2")
    assert (told["whole"], told["first_seal"], told["rows"]) == (True, 2, 2)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("verify", "--expect", "abc"), "--expect is a hash of 64"),
        (("verify", "--from-seal", "9"), "There is no seal 9."),
        (("verify", "--file", "missing.jsonl"), "missing.jsonl cannot be read: No such file"),
        (("verify", "--file", "x", "--from-seal", "2"), "--from-seal is for the database"),
        (("export", "--output", "missing/file"), "missing/file cannot be written: No such file"),
        (("export", "--output", "/dev/full"), "/dev/full is there already"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(shell: Rig, words: tuple[str, ...], sentence: str) -> None:
    done = shell.run("audit", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr


async def test_export_is_checked_without_a_database(shell: Rig, books: asyncpg.Connection) -> None:
    done = shell.run("audit", "export", "--output", "record.jsonl")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("Seals 1 to 2 were written. 1 row waits for its seal, since ")
    away = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    last = (await hashes(books))[-1]
    whole = shell.run("audit", "verify", "--file", "record.jsonl", "--expect", f"{last}@2", **away)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout == f"Whole: seals 1 to 2 with 5 rows.\nSeal 2: {last}\n"
    file = shell.folder / "record.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"external_id":"e2"', b'"external_id":"e3"', 1))
    spoilt = shell.run("audit", "verify", "--file", "record.jsonl", **away)
    assert (spoilt.returncode, spoilt.stderr.split(" was ")[0]) == (1, "Row 2")


@pytest.mark.usefixtures("books")
def test_export_goes_to_standard_output_if_no_file_is_named(shell: Rig) -> None:
    done = shell.run("audit", "export", "--from-seal", "2")
    assert [next(iter(json.loads(line))) for line in done.stdout.splitlines()] == ["row", "row", "seal"]


@pytest.mark.usefixtures("books")
def test_export_overwrites_nothing(shell: Rig) -> None:
    (shell.folder / "record.jsonl").write_text("precious")
    done = shell.run("audit", "export", "--output", "record.jsonl")
    assert (done.returncode, done.stderr) == (1, "record.jsonl is there already: give the export a new name.\n")
    assert (shell.folder / "record.jsonl").read_text() == "precious"


@pytest.mark.usefixtures("books")
def test_period_without_rows_is_an_empty_export(shell: Rig) -> None:
    done = shell.run("audit", "export", "--until", "2020-01-01")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("No seal covers that.")


def on_a_terminal(shell: Rig, *words: str) -> tuple[int, str, str]:
    """Exit code, standard output, and what a terminal shows of standard error."""
    master, terminal = pty.openpty()
    environment = {**shell.environment(), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-m", "payment_service", "audit", *words],
        env=environment,
        cwd=shell.folder,
        stdout=subprocess.PIPE,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:  # how a terminal says that everybody has left it
        pass
    os.close(master)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out.decode(), shown.decode()


@pytest.mark.usefixtures("books")
def test_progress_is_shown_on_a_terminal(shell: Rig) -> None:
    code, out, shown = on_a_terminal(shell, "verify")
    assert (code, out.splitlines()[0]) == (0, "Whole: seals 1 to 2 with 5 rows.")
    assert "Checking seals" in shown
    assert "100%" in shown


async def test_worker_seals_what_is_recorded(serving: Rig) -> None:
    """A service, a worker and a payment: soon the record of it is sealed, and the hash is in the worker's log."""
    await serving.paid()
    connection = await asyncpg.connect(serving.database_url)
    try:

        async def all_sealed() -> bool:
            return bool(
                await connection.fetchval(
                    "SELECT (SELECT max(id) FROM payment_log) = (SELECT max(last_id) FROM audit_seal)"
                )
            )

        await until(all_sealed)
        [last] = (await hashes(connection))[-1:]
    finally:
        await connection.close()
    assert report(serving, "--expect", last)["whole"] is True

    async def logged() -> bool:
        return any(last in process.written for process in serving._processes)

    await until(logged)
