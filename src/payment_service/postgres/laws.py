"""Which laws a database has: its columns, triggers, constraints, unique indexes, functions and sequences.

``laws.txt`` has those that the migrations make, a line for each; ``python -m payment_dev laws`` writes it, and a test
compares. Whoever may alter a table can drop one, and nothing says so until two payments are sent for one order. What
only makes statements fast is no law. A constraint that is NOT VALID is one: it holds for all that is written. So is
that a sequence gives ids one by one: a session that keeps some for later (CACHE) writes where the record is sealed.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.postgres.schema import head
from payment_service.postgres.sessions import HOME

FILE: Final = Path(__file__).with_suffix(".txt")
_LAWS: Final = f"""
    WITH home AS (SELECT {HOME} AS oid),
    kept AS (
        -- A partition has what its table has, and the tables of the queue are not used any more.
        SELECT pg_class.oid, relname FROM pg_class JOIN home ON relnamespace = home.oid
        WHERE relkind IN ('r', 'p', 'v') AND NOT relispartition AND relname !~ 'pgqueuer'
    ), law AS (
        SELECT format('trigger %s on %s (%s)', tgname, relname, md5(pg_get_triggerdef(pg_trigger.oid, true))) AS line
        FROM pg_trigger JOIN kept ON kept.oid = tgrelid WHERE NOT tgisinternal
        UNION ALL SELECT format('rule %s on %s', rulename, relname) FROM pg_rewrite JOIN kept ON kept.oid = ev_class
        WHERE rulename <> '_RETURN'
        UNION ALL SELECT format(
            'constraint %s on %s (%s)', conname, relname,
            md5(regexp_replace(pg_get_constraintdef(pg_constraint.oid, true), ' NOT VALID$', ''))
        ) FROM pg_constraint JOIN kept ON kept.oid = conrelid
        -- NOT NULL has one since PostgreSQL 18, which can also keep one that it does not enforce.
        WHERE contype NOT IN ('n', 't') AND to_jsonb(pg_constraint) ->> 'conenforced' IS DISTINCT FROM 'false'
        UNION ALL SELECT format(
            'unique index %s on %s (%s)', index.relname, kept.relname,
            -- How full its pages are is no law.
            md5(regexp_replace(pg_get_indexdef(index.oid, 0, true), ' WITH [(][^)]*[)]', ''))
        ) FROM pg_index JOIN kept ON kept.oid = indrelid JOIN pg_class AS index ON index.oid = indexrelid
        WHERE indisunique AND indisvalid AND indisready
        UNION ALL SELECT format(
            'function %s (%s%s%s)', proname, md5(prosrc), CASE WHEN prosecdef THEN ', as its owner' END,
            CASE WHEN proconfig::text ~ 'search_path' THEN ', with its own search path' END
        ) FROM pg_proc JOIN home ON pronamespace = home.oid
        WHERE proname !~ 'pgqueuer' AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
        UNION ALL SELECT format(
            'sequence %s (by %s, %s at a time%s)', relname, seqincrement, seqcache,
            CASE WHEN seqcycle THEN ', again' END
        ) FROM pg_sequence JOIN pg_class ON pg_class.oid = seqrelid JOIN home ON relnamespace = home.oid
        WHERE relname !~ 'pgqueuer'
        UNION ALL SELECT format(
            'column %s.%s (%s%s)', relname, attname, format_type(atttypid, atttypmod),
            CASE WHEN attnotnull THEN ' NOT NULL' END
        ) FROM pg_attribute JOIN kept ON kept.oid = attrelid WHERE attnum > 0 AND NOT attisdropped
    )
"""  # noqa: S608 - only text of this package
_AT_HEAD: Final = "(SELECT version_num FROM alembic_version) = :head"
"""Another release has other laws: one that runs on while a newer one migrates says nothing of them."""
_ALL: Final = text(f'{_LAWS} SELECT line FROM law ORDER BY line COLLATE "C"')  # noqa: S608 - only text of this module
_MISSING: Final = text(f"""{_LAWS}
    SELECT line FROM unnest(CAST(:lines AS text[])) WITH ORDINALITY AS wanted (line, place)
    WHERE line NOT IN (SELECT line FROM law) AND {_AT_HEAD} ORDER BY place
""")  # noqa: S608 - as above
_ADDED: Final = text(f"""{_LAWS}
    SELECT line FROM law WHERE line <> ALL (CAST(:lines AS text[])) AND line !~ '^(function|sequence) ' AND {_AT_HEAD}
    ORDER BY line COLLATE "C"
""")  # noqa: S608 - as above


@cache
def listed() -> list[str]:
    """The laws of this code's schema."""
    return FILE.read_text("utf-8").splitlines()


async def laws(session: AsyncSession) -> Sequence[str]:
    """The laws that the database has, as ``laws.txt`` names them."""
    return (await session.scalars(_ALL)).all()


async def missing(session: AsyncSession) -> list[str]:
    """The laws that a database at head lacks, or has in another form."""
    return [_name(line) for line in await session.scalars(_MISSING, {"lines": listed(), "head": head()})]


async def added(session: AsyncSession) -> list[str]:
    """What somebody else has put on the tables of a database at head: it may drop, change or refuse what is written."""
    return [_name(line) for line in await session.scalars(_ADDED, {"lines": listed(), "head": head()})]


def _name(line: str) -> str:
    return line.partition(" (")[0]
