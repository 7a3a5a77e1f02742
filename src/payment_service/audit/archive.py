"""The audit log in order, the rows of a seal and then the seal: from the database, and as JSON lines in a file.

Memory stays constant however long the log is. Sealed rows do not change, so each page is a transaction of its own: a
long read blocks nobody and may pause.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from payment_service.audit.canonical import Row, Seal, canonical
from payment_service.audit.models import AuditEntry, AuditRetired, AuditSeal
from payment_service.audit.rows import columns, read_rows, read_seals, sealed_row
from payment_service.audit.verification import Kind, RecordBroken, Retired
from payment_service.postgres.database import Database

SEALS_AT_ONCE = 50
ROWS_AT_ONCE = 5000
Line = Row | Seal
_SEAL = TypeAdapter(Seal)
_ROW_LINE, _SEAL_LINE = (b'{"row":', b"}"), (b'{"seal":', b"}")


@dataclass(frozen=True, slots=True)
class SealRange:
    """Which seals, both ends included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class UnsealedRows:
    """Rows that no seal covers yet, and when the oldest of them was written."""

    rows: int
    since: datetime | None


async def seal_range(
    database: Database, *, from_seal: int = 1, since: datetime | None = None, until: datetime | None = None
) -> SealRange | None:
    """The seals that there are from ``from_seal`` on; of a period, those that cover a row of it. None without any."""
    seals = select(func.min(AuditSeal.seq), func.max(AuditSeal.seq)).where(AuditSeal.seq >= from_seal)
    async with database.reading() as session:
        if since is not None or until is not None:
            period = select(func.min(AuditEntry.id), func.max(AuditEntry.id))
            if since is not None:
                period = period.where(AuditEntry.created_at >= since)
            if until is not None:
                period = period.where(AuditEntry.created_at < until)
            low, high = await _ends(session, period)
            if low is None:
                return None
            seals = seals.where(AuditSeal.last_id >= low, AuditSeal.after_id < high)
        first, last = await _ends(session, seals)
    return None if first is None else SealRange(first, last)


async def _ends(session: AsyncSession, query: Select[int, int]) -> tuple[Any, Any]:
    lowest, highest = (await session.execute(query)).one()
    return lowest, highest


async def unsealed_rows(database: Database) -> UnsealedRows:
    """What the next seals will cover."""
    sealed = select(func.coalesce(func.max(AuditSeal.last_id), 0)).scalar_subquery()
    query = select(func.count(), func.min(AuditEntry.created_at)).where(AuditEntry.id > sealed)
    async with database.reading() as session:
        rows, since = (await session.execute(query)).one()
    return UnsealedRows(rows, since)


async def retired(database: Database) -> list[Retired]:
    """What was retired."""
    query = select(AuditRetired.first_seq, AuditRetired.last_seq, AuditRetired.kept_ids)
    async with database.reading() as session:
        return [
            Retired(first, last, frozenset(kept))
            for first, last, kept in await session.execute(query)
            if first is not None and last is not None
        ]


async def seal_before(database: Database, seq: int) -> Seal | None:
    """The seal before ``seq``, to which that one is chained, if it is there."""
    async with database.engine.connect() as connection:
        found = await read_seals(connection, first=seq - 1, last=seq - 1, limit=1)
    return found[0] if found else None


async def read(database: Database, wanted: SealRange, *, after: int | None = None) -> AsyncGenerator[Line]:
    """The record out of the database: every row in the range of a seal, by id, and then the seal.

    ``after`` is where the seal before the first one ends; without it everything up to the first seal's end is read.
    """
    async with database.engine.connect() as connection:
        table = await columns(connection)
        seq = wanted.first
        while seals := await read_seals(connection, first=seq, last=wanted.last, limit=SEALS_AT_ONCE):
            end = max(seal.last_id for seal in seals)
            rows = _rows(connection, table, after=after, last=end)
            row = await anext(rows, None)
            for seal in seals:
                while row is not None and row["id"] <= seal.last_id:
                    yield sealed_row(row, seal.form)
                    row = await anext(rows, None)
                yield seal
            seq, after = seals[-1].seq + 1, end


async def _rows(
    connection: AsyncConnection, table: dict[str, str], *, after: int | None, last: int
) -> AsyncIterator[dict[str, Any]]:
    while page := await read_rows(connection, table, after=after, last=last, limit=ROWS_AT_ONCE):
        await connection.rollback()
        for row in page:
            yield row
        after = page[-1]["id"]


def to_line(line: Line) -> bytes:
    """One line of an archive, without its line feed. It holds the hashed bytes of a row as they are."""
    if isinstance(line, Row):
        return line.content.join(_ROW_LINE)
    return canonical({**line.content, "hash": line.hash}).join(_SEAL_LINE)


def from_file(file: BinaryIO) -> Iterator[tuple[Line, int]]:
    """The lines of an archive, each with its length in bytes.

    Raises:
        RecordBroken: for a line that is none of an archive.
    """
    for number, raw in enumerate(file, 1):
        yield _from_line(raw.rstrip(b"\r\n"), number), len(raw)


def _from_line(raw: bytes, number: int) -> Line:
    try:
        if raw.startswith(_SEAL_LINE[0]):
            seal = _SEAL.validate_json(raw.removeprefix(_SEAL_LINE[0]).removesuffix(_SEAL_LINE[1]), strict=True)
            if to_line(seal) == raw:
                return seal
        elif raw.startswith(_ROW_LINE[0]):
            content = raw.removeprefix(_ROW_LINE[0]).removesuffix(_ROW_LINE[1])
            row_id = json.loads(content)["id"]
            if type(row_id) is int:
                return Row(row_id, content)
    except (ValidationError, ValueError, TypeError, KeyError, RecursionError):
        pass  # raised below, as for a line of another kind
    raise RecordBroken(Kind.UNREADABLE, f"Line {number} of the file is neither a row nor a seal as they are exported.")
