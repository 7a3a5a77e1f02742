"""A record to seal and to spoil: rows by plain SQL, tampering by a superuser with the triggers off."""

from dataclasses import replace
from typing import Any

import asyncpg

from payment_service.audit import rows as audit_rows
from payment_service.audit.checking import Report, check_database
from payment_service.audit.sealing import AuditSeals
from payment_service.postgres.database import Database
from tests.support.books import beyond_the_law

INSERT = """
    INSERT INTO payment_log (shop_id, operation_type, external_id, amount, status, state, payment_id, actor, source)
    SELECT 8, 'create', 'e' || each, each * 100, 'Wait', 'pending', gen_random_uuid(), 'tests', 'service'
    FROM generate_series(1, $1) AS each
"""
Problem = tuple[str, int | None, int | None]
"""The kind, the seal and the row."""


async def write(sql: asyncpg.Connection, rows: int) -> None:
    await sql.execute(INSERT, rows)


async def seal_each(sql: asyncpg.Connection, database: Database, *batches: int) -> None:
    """Seals of so many rows each."""
    for rows in batches:
        await write(sql, rows)
        assert await AuditSeals(database).seal() == rows


async def tamper(sql: asyncpg.Connection, *statements: str) -> None:
    """What a superuser can do, with the laws against it off."""
    await beyond_the_law(sql, *statements)


async def forge(sql: asyncpg.Connection, database: Database, seq: int, **lies: Any) -> None:
    """Make a seal anew over the rows that are there now, as somebody would who knows how."""
    async with database.engine.connect() as connection:
        [old] = await audit_rows.read_seals(connection, first=seq, last=seq, limit=1)
        before = await audit_rows.read_seals(connection, first=seq - 1, last=seq - 1, limit=1)
        table = await audit_rows.columns(connection)
        found = await audit_rows.read_rows(connection, table, after=old.after_id, last=old.last_id, limit=1000)
    rows = [audit_rows.sealed_row(row, old.form) for row in found]
    previous = before[0].hash if before else old.previous
    new = replace(
        old, **{"previous": previous, "count": len(rows), "rows": [(row.id, row.digest) for row in rows], **lies}
    )
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        await sql.execute(
            "UPDATE audit_seal SET form = $2, previous_hash = $3, after_id = $4, row_count = $5, row_ids = $6,"
            " row_digests = $7, hash = $8 WHERE seq = $1",
            seq,
            new.form,
            new.previous,
            new.after_id,
            new.count,
            [row_id for row_id, _digest in new.rows],
            bytes.fromhex("".join(digest for _row_id, digest in new.rows)),
            new.computed_hash(),
        )


async def check(database: Database, **how: Any) -> Report:
    return await check_database(database, **how)


async def problem_of(database: Database, **how: Any) -> Problem | None:
    """What is wrong, with which seal and which row."""
    problem = (await check(database, **how)).problem
    return (problem.kind, problem.seal, problem.row) if problem else None


async def hashes(sql: asyncpg.Connection) -> list[str]:
    return [row["hash"] for row in await sql.fetch("SELECT hash FROM audit_seal ORDER BY seq")]
