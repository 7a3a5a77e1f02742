"""The schema as a whole: whether a database is at head, and what its migrations share."""

from functools import partial
from importlib.resources import files
from pathlib import Path

import asyncpg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from payment_service.postgres.database import Database, lacks_schema

MIGRATION_LOCK = 0x7061796D656E74  # "payment"


def migrations() -> Path:
    """The folder of the migrations: inside the installed package, or beside the sources."""
    packaged = Path(str(files("payment_service"))) / "_migrations"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "migrations"


def head() -> str:
    """The newest revision that this code knows: the number that its file's name begins with."""
    return max(file.name.partition("_")[0] for file in migrations().glob("versions/[0-9]*.py"))


def run_script(bind: Connection, script: str) -> None:
    """Run several statements of a migration, inside its transaction.

    SQLAlchemy would prepare them, and a prepared statement is one statement; asyncpg itself takes a script. Alembic's
    first statement has opened the transaction already, so the script runs inside it.
    """
    adapted = bind.connection.dbapi_connection
    if adapted is None:
        raise RuntimeError("a migration needs a live connection")
    adapted.run_async(partial(_execute, script=script))


async def _execute(connection: asyncpg.Connection, *, script: str) -> None:
    await connection.execute(script)


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

    Nothing reads the tables of the queue since migration 0010. Indexes and foreign keys that only the database has are
    its laws: the models say what code reads and writes, the migrations say what is forbidden.
    """
    if kind == "table" and (name or "").startswith("pgqueuer"):
        return False
    return not (kind in {"index", "foreign_key_constraint"} and reflected and repeated_in is None)
