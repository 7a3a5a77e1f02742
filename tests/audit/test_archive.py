"""Archives: what is exported is checked from the file alone, by this program and by a stranger with the document."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payment_service.audit import archive
from payment_service.audit.archive import SealRange
from payment_service.audit.canonical import Row, canonical
from payment_service.audit.checking import check_file
from payment_service.audit.sealing import AuditSeals
from payment_service.audit.verification import Expected
from payment_service.postgres.database import Database
from tests.support.database import Picture, empty_tables
from tests.support.record import Problem, hashes, seal_each, write

DOCUMENT = Path(__file__).parents[2] / "docs" / "audit.md"
START = datetime(2026, 1, 1, tzinfo=UTC)


async def lines_of(database: Database, first: int = 1, last: int = 3) -> list[bytes]:
    before = await archive.seal_before(database, first)
    after = before.last_id if before else None
    return [archive.to_line(line) async for line in archive.read(database, SealRange(first, last), after=after)]


@pytest.fixture(scope="module")
async def exported(database_url: str, kept_open: Database) -> tuple[Picture, list[bytes]]:
    """What is in the tables, and the export of it."""
    sql, database = await asyncpg.connect(database_url), kept_open
    await empty_tables(sql)
    await write(sql, 1)
    await sql.execute(
        "INSERT INTO payment_log (operation_type, actor, source, error_message)"
        " VALUES ('create', 'Әсел \"q\" \\', 'client', E'a\\nb\\u007f\\u2028 🌷 </x>')"
    )
    await write(sql, 2)
    await AuditSeals(database).seal()
    await seal_each(sql, database, 3, 2)
    picture = await Picture.take(sql)
    await sql.close()
    return picture, await lines_of(database)


@pytest.fixture
def lines(exported: tuple[Picture, list[bytes]]) -> list[bytes]:
    """An export of three seals with 4, 3 and 2 rows."""
    return list(exported[1])


@pytest.fixture
async def record(
    exported: tuple[Picture, list[bytes]], sql: asyncpg.Connection, emptied: asyncpg.Connection
) -> asyncpg.Connection:
    """The record that was exported."""
    await exported[0].put_back(emptied)
    return sql


@pytest.fixture
def problem_in(tmp_path: Path) -> Callable[..., Problem | None]:
    """What is wrong with a file of these lines."""

    def problem_in(lines: list[bytes], **how: Any) -> Problem | None:
        path = tmp_path / "archive.jsonl"
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        problem = check_file(path, **how).problem
        return (problem.kind, problem.seal, problem.row) if problem else None

    return problem_in


ProblemIn = Callable[..., Problem | None]


def test_rows_stand_before_their_seal(lines: list[bytes]) -> None:
    kinds = "".join("r" if line.startswith(b'{"row"') else "s" for line in lines)
    assert kinds == "rrrrsrrrsrrs"


def test_line_is_canonical_as_a_whole(lines: list[bytes]) -> None:
    assert [canonical(json.loads(line)) for line in lines] == lines


def test_export_is_whole(lines: list[bytes], problem_in: ProblemIn) -> None:
    assert problem_in(lines) is None


def test_export_from_the_middle_is_whole(lines: list[bytes], problem_in: ProblemIn) -> None:
    assert problem_in(lines[5:]) is None


def test_exports_one_after_the_other_are_one_export(lines: list[bytes], problem_in: ProblemIn) -> None:
    assert problem_in(lines[:5] + lines[5:9] + lines[9:]) is None


@pytest.mark.usefixtures("record")
async def test_export_of_a_part_is_that_part(lines: list[bytes], database: Database) -> None:
    assert await lines_of(database, 2, 2) == lines[5:9]


def changed(line: bytes, **fields: Any) -> bytes:
    [(kind, content)] = json.loads(line).items()
    return canonical({kind: {**content, **fields}})


SPOILT: dict[str, tuple[Callable[[list[bytes]], list[bytes]], Problem]] = {
    "row changed": (lambda f: [*f[:5], changed(f[5], amount=1), *f[6:]], ("row_changed", 2, 5)),
    "field more": (lambda f: [*f[:5], changed(f[5], more=1), *f[6:]], ("row_changed", 2, 5)),
    "key twice": (lambda f: [*f[:5], f[5][:-2] + b',"id":5}}', *f[6:]], ("row_changed", 2, 5)),
    "number as text": (lambda f: [*f[:5], f[5].replace(b"100", b"100.0"), *f[6:]], ("row_changed", 2, 5)),
    "row missing": (lambda f: [*f[:6], *f[7:]], ("row_missing", 2, 6)),
    "row twice": (lambda f: [*f[:6], f[5], *f[6:]], ("row_added", 2, 5)),
    "row elsewhere": (lambda f: [f[5], *f[:5], *f[6:]], ("row_missing", 1, 1)),
    "rows swapped": (lambda f: [*f[:5], f[6], f[5], *f[7:]], ("row_missing", 2, 5)),
    "seal missing": (lambda f: [*f[:4], *f[5:]], ("row_added", 2, 1)),
    "seal in the middle missing": (lambda f: [*f[:8], *f[9:]], ("seal_missing", 2, None)),
    "last seal missing": (lambda f: f[:-1], ("row_added", None, 8)),
    "seal twice": (lambda f: [*f[:5], f[4], *f[5:]], ("seal_missing", 2, None)),
    "seal changed": (lambda f: [*f[:8], changed(f[8], count=2), *f[9:]], ("seal_changed", 2, None)),
    "seal with a field more": (lambda f: [*f[:8], changed(f[8], more=1), *f[9:]], ("unreadable", None, None)),
    "cut off": (lambda f: [*f[:8], f[8][:40]], ("unreadable", None, None)),
    "no archive": (lambda _: [b"id,shop_id", b"1,8"], ("unreadable", None, None)),
    "row without id": (lambda _: [b'{"row":{}}'], ("unreadable", None, None)),
    "deep nonsense": (lambda _: [b'{"row":' + b"[" * 100_000], ("unreadable", None, None)),
    "empty": (lambda _: [], ("unreadable", None, None)),
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_file_is_told(lines: list[bytes], problem_in: ProblemIn, how: str) -> None:
    spoil, problem = SPOILT[how]
    assert problem_in(spoil(lines)) == problem


async def test_hash_kept_elsewhere_is_looked_for_in_a_file(
    record: asyncpg.Connection, lines: list[bytes], problem_in: ProblemIn
) -> None:
    last = (await hashes(record))[2]
    assert problem_in(lines, expected=Expected(last, 3)) is None
    assert problem_in(lines[:9], expected=Expected(last, 3)) == ("seal_unexpected", 3, None)


# --- a period


@pytest.fixture
async def days(sql: asyncpg.Connection, database: Database) -> Database:
    """A seal for each of four days, with a row in the morning and one in the evening."""
    for day in range(4):
        for hour in (8, 20):
            moment = START + timedelta(days=day, hours=hour)
            await sql.execute(
                "INSERT INTO payment_log (operation_type, actor, source, created_at) VALUES ('t', 't', 'client', $1)",
                moment,
            )
        await AuditSeals(database).seal()
    return database


@pytest.mark.parametrize(
    ("since", "until", "wanted"),
    [
        (None, None, (1, 4)),
        (0, None, (1, 4)),
        (24, None, (2, 4)),
        (None, 24, (1, 1)),
        (20, 33, (1, 2)),
        (24 + 8, 24 + 8.5, (2, 2)),
        (24 + 9, 24 + 10, None),
        (200, None, None),
        (None, 0, None),
    ],
)
async def test_period_brings_the_seals_that_hold_its_rows(
    days: Database, since: float | None, until: float | None, wanted: tuple[int, int] | None
) -> None:
    ends = [None if hours is None else START + timedelta(hours=hours) for hours in (since, until)]
    assert await archive.seal_range(days, since=ends[0], until=ends[1]) == (SealRange(*wanted) if wanted else None)


async def test_period_begins_at_the_seal_that_was_asked_for(days: Database) -> None:
    assert await archive.seal_range(days, from_seal=3) == SealRange(3, 4)
    assert await archive.seal_range(days, from_seal=3, until=START + timedelta(days=3)) == SealRange(3, 3)
    assert await archive.seal_range(days, from_seal=5) is None


async def test_rows_that_wait_are_told(sql: asyncpg.Connection, days: Database) -> None:
    assert (await archive.unsealed_rows(days)).rows == 0
    await write(sql, 2)
    waiting = await archive.unsealed_rows(days)
    assert (waiting.rows, waiting.since) == (2, await sql.fetchval("SELECT max(created_at) FROM payment_log"))


# --- what the document tells strangers


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)


def test_example_of_the_document_is_right() -> None:
    """The row, its digest, the seal and its hash, as printed there."""
    row, seal = (line.encode() for line in code_blocks("json")[0].splitlines())
    kept: Row | Any = archive._from_line(row, 1)
    sealed: Any = archive._from_line(seal, 2)
    assert (kept.id, kept.digest) == tuple(sealed.rows[0])
    assert sealed.hash == sealed.computed_hash()
    assert json.loads(row)["row"].keys() >= {"id", "amount", "created_at"}


def test_shell_example_of_the_document_is_right() -> None:
    row = code_blocks("json")[0].splitlines()[0].encode()
    digest = hashlib.sha256(row[len(b'{"row":') : -1]).hexdigest()
    assert digest in json.loads(code_blocks("json")[0].splitlines()[1])["seal"]["rows"][0]


def strangers_check(path: Path) -> "subprocess.CompletedProcess[str]":
    """The program that the document prints, over a file."""
    [program] = code_blocks("python")
    return subprocess.run(
        [sys.executable, "-I", "-c", program, str(path)], capture_output=True, text=True, timeout=60, check=False
    )


def test_stranger_finds_an_export_whole(lines: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "archive.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    done = strangers_check(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == json.loads(lines[-1])["seal"]["hash"]


SHOWN = {"row changed", "row missing", "rows swapped", "seal missing", "seal changed"}
"""In `make test`; the others in `make thorough`."""


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(name, marks=() if name in SHOWN else pytest.mark.thorough)
        for name, (_, problem) in SPOILT.items()
        if problem[0] != "unreadable"
    ],
)
def test_stranger_finds_a_spoilt_export_so(lines: list[bytes], tmp_path: Path, how: str) -> None:
    path = tmp_path / "archive.jsonl"
    path.write_bytes(b"\n".join(SPOILT[how][0](lines)) + b"\n")
    assert strangers_check(path).returncode == 1
