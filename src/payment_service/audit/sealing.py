"""Sealing: chains audit entries in batches, in the background. It takes no lock that blocks a writer.

A row gets its id before its transaction commits, so it may appear below rows that are visible already. A seal therefore
covers a row only when every transaction that could still insert below it has ended. A transaction locks ``payment_log``
(or one partition of it, by its name) for writing before it gets an id, and releases the lock after its commit is
visible. So: read the newest id, read who holds that lock, and wait until each of those has released it (as CREATE INDEX
CONCURRENTLY does). Nothing waits for the sealing, and it depends on no transaction ids, which a restored copy lacks.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from payment_service.audit.canonical import FORMS, GENESIS, MAX_ROWS, Seal, newest_form
from payment_service.audit.models import AuditEntry, AuditSeal
from payment_service.audit.rows import UTC_TEXT, columns, read_rows, sealed_row
from payment_service.observability.logs import get_logger
from payment_service.postgres.database import Database

SEALING_LOCK = 0x7365616C  # "seal"
MAX_SEALS_AT_ONCE = 20
WRITERS_TIMEOUT_S = 2.0
"""How long one attempt waits for open transactions; the next one is a sweep away."""
log = get_logger(__name__)

_WRITERS = text("""
    SELECT virtualtransaction FROM pg_locks
    WHERE locktype = 'relation' AND granted AND (relation = 'payment_log'::regclass
      OR relation IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'payment_log'::regclass))
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
""")
_NOW = text(f"SELECT now(), {UTC_TEXT.format('now()')}")


class SealFormMismatch(RuntimeError):
    """``payment_log`` has other columns than the newest form: another version must seal it."""


@dataclass(frozen=True, slots=True)
class AuditSeals:
    """Makes seals. Of several workers at once one seals, and the others skip it."""

    database: Database

    async def seal(self) -> int:
        """Seal what can be sealed now; returns how many rows.

        Raises:
            SealFormMismatch: when the table has other columns than the newest form holds.
        """
        async with self.database.engine.connect() as connection:
            horizon = await _horizon(connection)
            rows = 0
            if horizon is not None:
                for _ in range(MAX_SEALS_AT_ONCE):
                    made = await _seal_once(connection, horizon)
                    rows += made
                    if made < MAX_ROWS:
                        break
            return rows


async def _horizon(connection: AsyncConnection) -> int | None:
    """The newest id up to which no row can appear any more; none when there is nothing new, or writers take long."""
    newest = await connection.scalar(select(func.max(AuditEntry.id)))
    sealed = await connection.scalar(select(func.max(AuditSeal.last_id)))
    # Each query is a transaction of its own, so that no lock is held while waiting, which would block a migration.
    await connection.rollback()
    if newest is None or newest <= (sealed or 0):
        return None
    writers = await _writers(connection)
    give_up_at = time.monotonic() + WRITERS_TIMEOUT_S
    pause_s = 0.01
    while writers:
        if time.monotonic() > give_up_at:
            log.warning("audit not sealed: transactions that write are still open", transactions=len(writers))
            return None
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.25)
        writers &= await _writers(connection)
    return int(newest)


async def _writers(connection: AsyncConnection) -> set[str]:
    found = set(await connection.scalars(_WRITERS))
    await connection.rollback()
    return found


async def _seal_once(connection: AsyncConnection, horizon: int) -> int:
    """Make one seal, in one transaction; returns how many rows it covers."""
    async with connection.begin():
        if not await connection.scalar(select(func.pg_try_advisory_xact_lock(SEALING_LOCK))):
            return 0
        previous = (
            await connection.execute(
                select(AuditSeal.seq, AuditSeal.hash, AuditSeal.last_id).order_by(AuditSeal.seq.desc()).limit(1)
            )
        ).one_or_none()
        seq, previous_hash, after_id = previous or (0, GENESIS, 0)
        # Held to the end, so that no column is added between reading columns and rows. It blocks no writer.
        await connection.execute(text("LOCK TABLE payment_log IN ACCESS SHARE MODE"))
        table, form = await columns(connection), newest_form()
        if table.keys() != FORMS[form]:
            differ = ", ".join(sorted(table.keys() ^ FORMS[form]))
            log.error("audit not sealed: payment_log has other columns than this code seals", columns=differ)
            raise SealFormMismatch(differ)
        found = await read_rows(connection, table, after=after_id, last=horizon, limit=MAX_ROWS)
        if not found:
            return 0
        rows = [sealed_row(row, form) for row in found]
        created_at, created_at_text = (await connection.execute(_NOW)).one()
        seal = Seal(
            seq=seq + 1,
            form=form,
            previous=previous_hash,
            after_id=after_id,
            last_id=rows[-1].id,
            count=len(rows),
            created_at=created_at_text,
            rows=[(row.id, row.digest) for row in rows],
        )
        own_hash = await _store(connection, seal, created_at)
    # The collected logs have the hash on another machine, so that a forged chain is noticed.
    log.info("audit sealed", seq=seal.seq, rows=seal.count, hash=own_hash)
    return seal.count


async def _store(connection: AsyncConnection, seal: Seal, created_at: datetime) -> str:
    """Insert a seal; returns its hash."""
    own_hash = seal.computed_hash()
    row = insert(AuditSeal).values(
        seq=seal.seq,
        form=seal.form,
        previous_seq=seal.seq - 1 or None,
        previous_hash=seal.previous,
        after_id=seal.after_id,
        last_id=seal.last_id,
        row_count=seal.count,
        row_ids=[row_id for row_id, _digest in seal.rows],
        row_digests=bytes.fromhex("".join(digest for _row_id, digest in seal.rows)),
        hash=own_hash,
        created_at=created_at,
    )
    await connection.execute(row)
    return own_hash
