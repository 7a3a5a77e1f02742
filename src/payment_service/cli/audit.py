"""``payment-service audit``: verify the audit log against its seals, export and retire it."""

import re
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from payment_service.audit import archive, checking, retiring
from payment_service.audit.archive import SealRange, UnsealedRows
from payment_service.audit.canonical import Seal
from payment_service.audit.checking import Report
from payment_service.audit.comparing import Comparison, compare
from payment_service.audit.retiring import RetirablePartition
from payment_service.audit.verification import Expected, RecordBroken
from payment_service.cli.output import AsJson, Before, fail, in_utc, show
from payment_service.cli.progress import progress
from payment_service.cli.running import with_database
from payment_service.postgres.database import Database, is_unreachable
from payment_service.postgres.months import NotRetired

app = typer.Typer(no_args_is_help=True)

_EXPECTED = re.compile(r"([0-9a-f]{64})(?:@([1-9]\d{0,17}))?")
FromSeal = Annotated[int, typer.Option(min=1, help="Begin with this seal; only its chain to the one before is kept.")]
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
Since = Annotated[
    datetime | None, typer.Option(formats=_FORMATS, help="Only seals with rows of this time (UTC) or later.")
]
Until = Annotated[
    datetime | None, typer.Option(formats=_FORMATS, help="Only seals with rows from before this time (UTC).")
]


@app.command()
def verify(
    *,
    from_seal: FromSeal = 1,
    expect: Annotated[
        str | None, typer.Option(metavar="HASH[@SEQ]", help="A seal's hash that another machine's log holds.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Check this file of 'audit export' instead, without a database.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every sealed row and the chain of seals. Exit code 1 names the first row or seal that is wrong.

    For a database, also check that routing, keys, webhooks, chats and secrets match their latest entries.
    """
    expected = _expected(expect)
    if file is not None:
        if from_seal > 1:
            fail("--from-seal is for the database: a file is checked from its first seal on.")
        _print_report(_check_file(file, expected), None, None, as_json=as_json)
        return

    async def work(database: Database) -> tuple[Report, UnsealedRows, Comparison | None]:
        seals = await archive.seal_range(database, from_seal=from_seal)
        if seals is None and from_seal > 1:
            fail(f"There is no seal {from_seal}.")
        with progress("Checking seals", seals.last - from_seal + 1 if seals else 0) as advance:
            report = await checking.check_database(database, from_seal=from_seal, expected=expected, progress=advance)
        waiting = await archive.unsealed_rows(database)
        await _record_check(database, report)
        return report, waiting, await compare(database) if report.problem is None else None

    _print_report(*with_database(work), as_json=as_json)


async def _record_check(database: Database, report: Report) -> None:
    """Record the check for the console, unless the database cannot be written to."""
    try:
        await checking.record_check(database, report)
    except Exception as error:
        if not is_unreachable(error):
            raise
        typer.echo("This check was not recorded: the database cannot be written to just now.", err=True)


@app.command()
def export(
    *,
    from_seal: FromSeal = 1,
    since: Since = None,
    until: Until = None,
    output: Annotated[Path | None, typer.Option(help="A new file; standard output if left out.")] = None,
) -> None:
    """Write sealed rows and their seals as JSON lines that can be checked without this service: see docs/audit.md.

    Seals are written whole, so a period may bring some rows from around it. Rows that are not sealed yet are left out.
    """

    async def work(database: Database) -> tuple[SealRange | None, UnsealedRows]:
        period = {"since": in_utc(since), "until": in_utc(until)}
        wanted = await archive.seal_range(database, from_seal=from_seal, **period)
        gone = max((one.last_seq for one in await archive.retired(database)), default=0)
        if wanted is not None and wanted.first <= gone:
            typer.echo(f"Seals up to {gone} are in the files of what has left the record.", err=True)
            wanted = SealRange(gone + 1, wanted.last) if gone < wanted.last else None
        with _sink(output) as file:
            if wanted is not None:
                await _write(database, wanted, file)
        return wanted, await archive.unsealed_rows(database)

    wanted, waiting = with_database(work)
    what = f"Seals {wanted.first} to {wanted.last} were written." if wanted else "No seal covers that."
    typer.echo(f"{what} {_unsealed_text(waiting)}", err=True)


async def _write(database: Database, wanted: SealRange, file: BinaryIO) -> None:
    before = await archive.seal_before(database, wanted.first)
    lines = archive.read(database, wanted, after=before.last_id if before else None)
    with progress("Writing seals", wanted.last - wanted.first + 1) as advance:
        async with aclosing(lines):
            async for line in lines:
                _put(file, archive.to_line(line) + b"\n")
                if isinstance(line, Seal):
                    advance(1)
        _put(file, b"")


@app.command()
def retire(
    *,
    before: Before,
    folder: Annotated[Path, typer.Option(help="Where each month's file is written.", file_okay=False, exists=True)],
) -> None:
    """Take old months out of the database, as the owner of its tables. Nothing is deleted.

    Each is written to a file and checked; then its table stands beside the record until a person drops it: see
    docs/audit.md.
    """

    async def work(database: Database) -> None:
        wanted = await retiring.retirable(database, before=before.replace(tzinfo=UTC))
        if not wanted:
            fail(f"Nothing is in the record that ended before {before:%Y-%m}.")
        report, comparison = await checking.check_database(database), await compare(database)
        if problem := report.problem or comparison.problem:
            fail(f"Nothing leaves a record that is not whole. {problem.sentence}")
        for one in wanted:
            await _retire(database, one, folder / f"{one.partition}.jsonl")

    with_database(work)


async def _retire(database: Database, leaving: RetirablePartition, path: Path) -> None:
    digest = None
    if leaving.seals is not None:
        count = leaving.seals.last - leaving.seals.first + 1
        with _whole_or_removed(path), progress(f"Writing {leaving.partition}", count) as advance:
            digest = await retiring.write_file(database, leaving.seals, path, progress=advance)
    with _kept_unless_it_stays(path, leaving.partition):
        await retiring.retire(database, leaving.partition, digest)
    where = f"Its rows are in {path}, SHA-256 {digest}." if digest else "Earlier files hold its rows."
    typer.echo(f"{leaving.partition} has left the record. {where}")


@contextmanager
def _kept_unless_it_stays(path: Path, partition: str) -> Iterator[None]:
    """Remove the file of a month that is known to have stayed in the database, and no other."""
    try:
        yield
    except NotRetired as error:
        path.unlink(missing_ok=True)
        fail(str(error))
    except BaseException:
        typer.echo(f"It is not known whether {partition} has left the record: keep {path}.", err=True)
        raise


@contextmanager
def _whole_or_removed(path: Path) -> Iterator[None]:
    """Remove the file of a month when it was not completed."""
    try:
        yield
    except FileExistsError:
        fail(f"{path} is there already: move it away.")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, NotRetired):
            fail(str(error))
        if isinstance(error, OSError):
            fail(f"{path} cannot be written: {error.strerror}.")
        raise


def _put(file: BinaryIO, text: bytes) -> None:
    """Write a text; an empty one flushes the file."""
    try:
        file.write(text)
        if not text:
            file.flush()
    except BrokenPipeError:
        raise  # the reader has closed the pipe: end quietly
    except OSError as error:
        fail(f"The export is not whole: {error.strerror}.")


def _check_file(path: Path, expected: Expected | None) -> Report:
    try:
        with progress("Checking the file", path.stat().st_size) as advance:
            return checking.check_file(path, expected=expected, progress=advance)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}.")


def _print_report(
    report: Report, waiting: UnsealedRows | None, comparison: Comparison | None, *, as_json: bool
) -> None:
    problem = report.problem or (comparison.problem if comparison else None)
    if as_json:
        show([_line(report, waiting, comparison, problem)], as_json=True)
    else:
        _print_text(report, waiting, comparison)
    if problem is not None:
        fail(problem.sentence)


def _print_text(report: Report, waiting: UnsealedRows | None, comparison: Comparison | None) -> None:
    if report.first is not None and report.last is not None:
        until = "" if report.problem is None else " before that"
        typer.echo(f"Whole{until}: seals {report.first.seq} to {report.last.seq} with {report.rows} rows.")
        typer.echo(f"Seal {report.last.seq}: {report.last.hash}")
        if report.rows_retired:
            typer.echo(f"{report.rows_retired} rows under these seals have left the record: their files hold them.")
    elif report.problem is None:
        typer.echo("Nothing is sealed yet.")
    if waiting is not None:
        typer.echo(_unsealed_text(waiting))
    if comparison is not None:
        but = "" if comparison.problem is None else ", and not all are"
        typer.echo(f"As recorded: {comparison.rows} rows of routing, keys, webhooks, chats and secrets{but}.")


def _line(
    report: Report, waiting: UnsealedRows | None, comparison: Comparison | None, problem: RecordBroken | None
) -> dict[str, Any]:
    return {
        "whole": problem is None,
        "first_seal": report.first.seq if report.first else None,
        "last_seal": report.last.seq if report.last else None,
        "last_hash": report.last.hash if report.last else None,
        "rows": report.rows,
        "rows_retired": report.rows_retired,
        "rows_waiting": waiting.rows if waiting else None,
        "rows_as_recorded": comparison.rows if comparison else None,
        "problem": problem.kind if problem else None,
        "problem_seal": problem.seal if problem else None,
        "problem_row": problem.row if problem else None,
        "detail": problem.sentence if problem else None,
    }


def _unsealed_text(waiting: UnsealedRows) -> str:
    if waiting.since is None:
        return "No row waits for its seal."
    since = waiting.since.isoformat(timespec="seconds")
    if waiting.rows == 1:
        return f"1 row waits for its seal, since {since}."
    return f"{waiting.rows} rows wait for their seals, the oldest since {since}."


def _expected(text: str | None) -> Expected | None:
    if text is None:
        return None
    found = _EXPECTED.fullmatch(text.strip().lower())
    if found is None:
        fail("--expect is a hash of 64 hexadecimal digits, and maybe the number of its seal: HASH@SEQ.")
    return Expected(found[1], int(found[2]) if found[2] else None)


@contextmanager
def _sink(path: Path | None) -> Iterator[BinaryIO]:
    """Where the export goes. A file that was not completed is removed, and none is overwritten."""
    if path is None:
        yield sys.stdout.buffer
        return
    try:
        file = path.open("xb")
    except FileExistsError:
        fail(f"{path} is there already: give the export a new name.")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")
    try:
        with file:
            yield file
    except BaseException:
        path.unlink()
        raise
