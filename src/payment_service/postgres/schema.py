"""The schema as a whole: whether a database is at head, and what its migrations share."""

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Final

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from payment_service.postgres.database import Database, lacks_schema
from payment_service.postgres.locks import LOCK_MS, when_free

MIGRATION_LOCK = 0x7061796D656E74  # "payment"
TRY_FOR_S: Final = 600.0
"""For how long it tries: a dump of the whole database or a VACUUM holds it off."""
_PARTITION: Final = re.compile(r"_(first|default|\d{4}_\d\d)$")


def migrations() -> Path:
    """The folder of the migrations: inside the installed package, or beside the sources."""
    packaged = Path(str(files("payment_service"))) / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


@cache
def head() -> str:
    """The newest revision that this code knows: the number that its file's name begins with."""
    return max(file.name.partition("_")[0] for file in migrations().glob("versions/[0-9]*.py"))


class SchemaError(Exception):
    """A database that this code cannot use as it is; the text says what to do."""


def is_newer(revision: str | None) -> bool:
    """Whether a newer release has migrated a database that is at this revision."""
    return (revision or "") > head()


def trouble(revision: str | None) -> str | None:
    """What to do about a database that is at this revision; none when this code can use it."""
    if revision == head():
        return None
    at = f"The database is at schema {revision or 'nothing'} and this code needs {head()}: "
    if is_newer(revision):
        return f"{at}a newer release has migrated it, and only that one or a later one can use it."
    return f"{at}run 'payment-service migrate' first."


def run_script(bind: Connection, script: str) -> None:
    """Run several statements of a migration, inside its transaction.

    SQLAlchemy would prepare them, and a prepared statement is one statement; asyncpg itself takes a script.
    """
    _run(bind, partial(_execute, script=script))


def run_briefly(bind: Connection, script: str) -> None:
    """Run several statements of a migration whose locks payments wait for: as one transaction, or a part of one.

    A lock that is not free at once is asked for again later, so that nobody waits for long behind whoever holds it.
    """
    _run(bind, partial(_execute_briefly, script=script))


def _run(bind: Connection, work: Callable[[asyncpg.Connection], Awaitable[None]]) -> None:
    adapted = bind.connection.dbapi_connection
    if adapted is None:
        raise RuntimeError("a migration needs a live connection")
    # SQLAlchemy begins a transaction with its own first statement. Without one each script would be committed by
    # itself, and a migration that is cut off behind its first script could never be run again.
    bind.exec_driver_sql("SELECT 1")
    adapted.run_async(work)


def pinned(*laws: str) -> str:
    """The script that lets functions read the tables that they were made for, whatever a session's search path says."""
    names = ", ".join(f"'{law}'" for law in laws)
    return f"""
DO $$
DECLARE
    law regprocedure;
BEGIN
    FOR law IN SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = current_schema()::regnamespace AND proname IN ({names})
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', law, current_schema());
    END LOOP;
END $$;
"""  # noqa: S608 - names of functions that a migration makes


def rewritten(law: str, lines: Mapping[str, str]) -> str:
    """The script that changes lines of a function and leaves the rest as it is; it fails when a line is not there."""
    changes = "".join(
        f"""
    IF position($before${before}$before$ IN source) = 0 THEN
        RAISE EXCEPTION '{law} has no such line: %', $before${before}$before$;
    END IF;
    source := replace(source, $before${before}$before$, $after${after}$after$);"""
        for before, after in lines.items()
    )
    return f"""
DO $law$
DECLARE
    source text := pg_get_functiondef('{law}'::regproc);
BEGIN{changes}
    EXECUTE source;
END $law$;
"""


async def _execute(connection: asyncpg.Connection, *, script: str) -> None:
    await connection.execute(script)


async def _execute_briefly(connection: asyncpg.Connection, *, script: str) -> None:
    async def execute() -> None:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
            await connection.execute(script)

    await when_free(execute, for_s=TRY_FOR_S)


async def current(database: Database) -> str | None:
    """The revision that the database is at; none for an empty one."""
    async with database.reading() as session:
        try:
            return (await session.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
        except DBAPIError as error:
            if lacks_schema(error):
                return None
            raise


def compared(_thing: object, name: str | None, kind: str, reflected: bool, repeated_in: object) -> bool:
    """Whether Alembic compares an object of the database with the models.

    Nothing reads the tables of the queue since migration 0010, and partitions are read by the table that they are of.
    Indexes and foreign keys that only the database has are its laws: the models say what code reads and writes, the
    migrations say what is forbidden.
    """
    if kind == "table" and ((name or "").startswith("pgqueuer") or _PARTITION.search(name or "")):
        return False
    return not (kind in {"index", "foreign_key_constraint"} and reflected and repeated_in is None)
