"""Retiring: the oldest months of the audit log leave the database, each as a whole partition.

Before it leaves, a month is sealed, checked and written to a file. Its table stays, detached and unchangeable, until a
person drops it; its seals stay in the audit log, so that the chain is still checked from its first seal on.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select, text

from payment_service.audit import archive, checking
from payment_service.audit.archive import SealRange
from payment_service.audit.canonical import Seal
from payment_service.audit.models import AuditRetired, AuditSeal
from payment_service.observability.context import origin
from payment_service.postgres.database import Database
from payment_service.postgres.months import NotRetired, detach, partitions_before


@dataclass(frozen=True, slots=True)
class RetirablePartition:
    """A partition that may leave, with the seals to write to its file; none when earlier files hold all its rows."""

    partition: str
    until: datetime
    """Its rows were written before that."""
    seals: SealRange | None


async def retirable(database: Database, *, before: datetime) -> Sequence[RetirablePartition]:
    """The partitions whose rows were all written before then, the oldest first, each with the seals of its file.

    A seal that covers rows of two months goes with the older one: files hold seals whole, and none of them twice.
    """
    old = await partitions_before(database, "payment_log", before=before)
    async with database.reading() as session:
        written = await session.scalar(select(func.coalesce(func.max(AuditRetired.last_seq), 0))) or 0
        found = []
        for name, until in old:
            ids = await session.execute(text(f'SELECT min(id), max(id) FROM "{name}"'))  # noqa: S608 - a table's name
            low, high = (each or 0 for each in ids.one())
            covering = select(func.max(AuditSeal.seq)).where(AuditSeal.last_id >= low, AuditSeal.after_id < high)
            last = await session.scalar(covering) or 0
            first = await session.scalar(covering.with_only_columns(func.min(AuditSeal.seq))) or 0
            seals = SealRange(max(first, written + 1), last)
            found.append(RetirablePartition(name, until, seals if seals.first <= last else None))
            written = max(written, last)
    return found


async def write_file(database: Database, seals: SealRange, path: Path, *, progress: Callable[[int], object]) -> str:
    """Write these seals and their rows to a new file and read it again; returns its SHA-256.

    Raises:
        NotRetired: when what was written is not what was sealed.
        OSError: when it cannot be written.
    """
    before = await archive.seal_before(database, seals.first)
    with path.open("xb") as file:
        async with aclosing(archive.read(database, seals, after=before.last_id if before else None)) as lines:
            async for line in lines:
                file.write(archive.to_line(line) + b"\n")
                if isinstance(line, Seal):
                    progress(1)
        # The month leaves the database for it.
        file.flush()
        os.fsync(file.fileno())
    report = checking.check_file(path)
    in_record = await archive.seal_before(database, seals.last + 1)
    if report.problem is not None or report.last is None or in_record is None or report.last.hash != in_record.hash:
        what = report.problem.sentence if report.problem else "Its last seal is another."
        raise NotRetired(f"{path} is not what was sealed. {what}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def retire(database: Database, partition: str, file_sha256: str | None) -> None:
    """Take the oldest partition out of the audit log, as the owner of the tables, and record that.

    Raises:
        NotRetired: when the database refuses it, or something else held the record for too long.
    """
    statement = "SELECT retire_log_partition($1::text, $2, $3)"
    await detach(database, partition, statement, partition, file_sha256, origin.get().actor)
