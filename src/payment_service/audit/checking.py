"""Checking the whole record, out of the database or out of an archive, into one report."""

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from payment_service.audit import archive
from payment_service.audit.archive import Extent
from payment_service.audit.canonical import Seal
from payment_service.audit.verification import Expected, Kind, RecordBroken, Verifier
from payment_service.postgres.database import Database

Progress = Callable[[int], object]
"""Told how much was done since it was last told: seals of the database, bytes of a file."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found to be whole and, if there is one, the first thing that is not."""

    first: Seal | None
    last: Seal | None
    rows: int
    problem: RecordBroken | None


async def check_database(
    database: Database, *, from_seal: int = 1, expected: Expected | None = None, progress: Progress = lambda _: None
) -> Report:
    """Check every seal from ``from_seal`` on with its rows; of the one before it only the seal itself."""
    verifier = Verifier(expected=expected)
    try:
        after = None
        if from_seal > 1:
            before = await archive.seal_before(database, from_seal)
            if before is None:
                raise RecordBroken(Kind.SEAL_MISSING, f"Seal {from_seal - 1} is missing.", seal=from_seal - 1)
            verifier.continue_after(before)
            after = before.last_id
        wanted = await archive.extent(database, from_seal=from_seal)
        if wanted is not None:
            async with aclosing(archive.read(database, Extent(from_seal, wanted.last), after=after)) as lines:
                async for line in lines:
                    verifier.take(line)
                    if isinstance(line, Seal):
                        progress(1)
        verifier.end()
    except RecordBroken as problem:
        return _report(verifier, problem)
    return _report(verifier)


def check_file(path: Path, *, expected: Expected | None = None, progress: Progress = lambda _: None) -> Report:
    """Check an archive, without a database. The place of its first seal is taken on trust, unless that is seal 1."""
    verifier = Verifier(expected=expected, start_anywhere=True)
    try:
        with path.open("rb") as file:
            done = 0
            for line, length in archive.from_file(file):
                verifier.take(line)
                done += length
                if isinstance(line, Seal):
                    progress(done)
                    done = 0
        verifier.end()
        if verifier.last is None:
            raise RecordBroken(Kind.UNREADABLE, "The file holds no seal.")
    except RecordBroken as problem:
        return _report(verifier, problem)
    return _report(verifier)


def _report(verifier: Verifier, problem: RecordBroken | None = None) -> Report:
    return Report(verifier.first, verifier.last, verifier.rows, problem)
