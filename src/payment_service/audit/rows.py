"""Reads rows and seals from the database in the form that is hashed; no other module does."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from payment_service.audit.canonical import Row, Seal, canonical, covered

# Independent of the session's time zone and of the driver. A time BC must not look like one AD.
UTC_TEXT = (
    """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || """
    "CASE WHEN {0} < '0001-01-01' THEN ' BC' ELSE '' END"
)
_CREATED_AT = UTC_TEXT.format("created_at")
_COLUMNS = text("""
    SELECT attname, typname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = 'payment_log'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
""")
_SEALS = text(f"""
    SELECT seq, form, previous_hash, after_id, last_id, row_count, {_CREATED_AT}, row_ids, row_digests, hash
    FROM audit_seal WHERE seq BETWEEN :first AND :last ORDER BY seq LIMIT :limit
""")  # noqa: S608 - our own words


async def columns(connection: AsyncConnection) -> dict[str, str]:
    """The columns of ``payment_log`` today, each with its type."""
    found = await connection.execute(_COLUMNS)
    return {row.attname: row.typname for row in found}


async def read_rows(
    connection: AsyncConnection, table: Mapping[str, str], *, after: int | None, last: int, limit: int
) -> list[dict[str, Any]]:
    """Rows with ``after < id <= last``, by id, as text, whole numbers and None. ``table``: see ``columns``."""
    selected = ", ".join(_as_text(f'"{name}"', kind) for name, kind in table.items())
    query = text(
        f"SELECT {selected} FROM payment_log WHERE id <= :last"  # noqa: S608 - the table's own column names
        f"{'' if after is None else ' AND id > :after'} ORDER BY id LIMIT :limit"
    )
    values = {"last": last, "limit": limit, **({} if after is None else {"after": after})}
    return [dict(zip(table, row, strict=True)) for row in await connection.execute(query, values)]


def sealed_row(row: Mapping[str, Any], form: int) -> Row:
    """A row as a seal of that form hashes it."""
    return Row(row["id"], canonical(covered(row, form)))


async def read_seals(connection: AsyncConnection, *, first: int, last: int, limit: int) -> list[Seal]:
    """Seals from ``first`` to ``last``, both included, by number."""
    found = await connection.execute(_SEALS, {"first": first, "last": last, "limit": limit})
    return [_seal(*row) for row in found]


def _seal(
    seq: int,
    form: int,
    previous: str,
    after_id: int,
    last_id: int,
    count: int,
    created_at: str,
    ids: list[int],
    digests: bytes,
    own_hash: str,
) -> Seal:
    each = [digests[place : place + 32].hex() for place in range(0, len(digests), 32)]
    rows = list(zip(ids, each, strict=False))
    return Seal(seq, form, previous, after_id, last_id, count, created_at, rows, own_hash)


def _as_text(name: str, kind: str) -> str:
    match kind:
        case "timestamptz":
            return UTC_TEXT.format(name)
        case "uuid":
            return f"{name}::text"
        case _:
            return name
