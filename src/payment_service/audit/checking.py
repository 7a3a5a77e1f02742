"""Checks the whole audit log, from the database or from an archive, and reports the result."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Float, func, select

from payment_service.audit import archive
from payment_service.audit.archive import SealRange
from payment_service.audit.canonical import Seal
from payment_service.audit.models import AuditCheck, AuditEntry, AuditSeal
from payment_service.audit.verification import Expected, Kind, RecordBroken, Verifier
from payment_service.observability.context import origin
from payment_service.postgres.database import Database

Progress = Callable[[int], object]
"""Called with what was done since the last call: seals of the database, bytes of a file."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found to be intact and, if there is one, the first thing that is not."""

    first: Seal | None
    last: Seal | None
    rows: int
    rows_retired: int
    """Sealed rows that have left the record (``retiring``)."""
    problem: RecordBroken | None


async def check_database(
    database: Database, *, from_seal: int = 1, expected: Expected | None = None, progress: Progress = lambda _: None
) -> Report:
    """Check every seal from ``from_seal`` on with its rows; of the one before it only the seal itself."""
    verifier = Verifier(expected=expected, retired=await archive.retired(database))
    try:
        after = await _begin(verifier, database, from_seal)
        wanted = await archive.seal_range(database, from_seal=from_seal)
        if wanted is not None:
            lines = archive.read(database, SealRange(from_seal, wanted.last), after=after)
            await _take_all(verifier, lines, progress)
        verifier.end()
    except RecordBroken as problem:
        return _report(verifier, problem)
    return _report(verifier)


async def _begin(verifier: Verifier, database: Database, from_seal: int) -> int | None:
    """Take the seal before ``from_seal``; returns the last row under it, none at the beginning of the record."""
    if from_seal <= 1:
        return None
    before = await archive.seal_before(database, from_seal)
    if before is None:
        raise RecordBroken(Kind.SEAL_MISSING, f"Seal {from_seal - 1} is missing.", seal=from_seal - 1)
    verifier.continue_after(before)
    return before.last_id


async def _take_all(verifier: Verifier, lines: AsyncGenerator[archive.Line], progress: Progress) -> None:
    async with aclosing(lines):
        async for line in lines:
            verifier.take(line)
            if isinstance(line, Seal):
                progress(1)


async def record_check(database: Database, report: Report) -> None:
    """Record a check that found everything intact, for pages that show it; nothing for any other."""
    if report.problem is not None or report.first is None or report.last is None:
        return
    async with database.transaction() as session:
        session.add(
            AuditCheck(
                first_seq=report.first.seq,
                last_seq=report.last.seq,
                last_hash=report.last.hash,
                row_count=report.rows,
                actor=origin.get().actor,
            )
        )


@dataclass(frozen=True, slots=True)
class SealingStatus:
    """How far the audit log is sealed, and how far an earlier check found it intact."""

    sealed_seq: int | None
    sealed_at: datetime | None
    waits_since: datetime | None
    """When the oldest row was written that no seal covers yet."""
    check: AuditCheck | None
    """The last check that found everything intact."""
    is_replaced: bool
    """Whether the last seal of that check has another hash by now."""
    ahead_s: float
    """How far in the future the latest row lies, in seconds: the database's clock was ahead, or is behind now."""


async def sealing_status(database: Database) -> SealingStatus:
    """How far the record is sealed and was checked."""
    async with database.reading() as session:
        newest = select(AuditSeal.seq, AuditSeal.last_id, AuditSeal.created_at).order_by(AuditSeal.seq.desc()).limit(1)
        seq, last_id, sealed_at = (await session.execute(newest)).one_or_none() or (None, 0, None)
        unsealed = select(AuditEntry.created_at).where(AuditEntry.id > last_id).order_by(AuditEntry.id).limit(1)
        waits_since = await session.scalar(unsealed)
        check = await session.scalar(select(AuditCheck).order_by(AuditCheck.id.desc()).limit(1))
        ahead = func.extract("epoch", func.max(AuditEntry.created_at) - func.now()).cast(Float)
        ahead_s = max(await session.scalar(select(ahead)) or 0.0, 0.0)
        hash_today = None
        if check is not None:
            hash_today = await session.scalar(select(AuditSeal.hash).where(AuditSeal.seq == check.last_seq))
    is_replaced = check is not None and hash_today != check.last_hash
    return SealingStatus(seq, sealed_at, waits_since, check, is_replaced, ahead_s)


def check_file(path: Path, *, expected: Expected | None = None, progress: Progress = lambda _: None) -> Report:
    """Check an archive, without a database. The position of its first seal is trusted, unless that is seal 1."""
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
    return Report(verifier.first, verifier.last, verifier.rows, verifier.rows_retired, problem)
