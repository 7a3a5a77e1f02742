"""A throw-away PostgreSQL, and databases copied from a migrated template: quicker than migrating each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from payment_dev.postgres import EmbeddedPostgres
from payment_service.postgres import migrating

TEMPLATE = "payment_service_template"
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What a statement raises over a connection that was cut. When the server's last words were read and the end was not,
asyncpg calls the next statement an internal error: it waits for the end of an answer."""


def start_postgres(folder: Path, *, max_connections: int = 400) -> EmbeddedPostgres:
    """Start a PostgreSQL that forgets commits when it crashes, with the template; the caller removes it."""
    postgres = EmbeddedPostgres(folder, durable=False, max_connections=max_connections)
    try:
        postgres.start()
        postgres.create_database(TEMPLATE)
        migrating.migrate(postgres.url(TEMPLATE))
    except BaseException:
        postgres.remove()
        raise
    return postgres


@dataclass(frozen=True)
class Server:
    """The PostgreSQL of a run of the tests."""

    url: str

    def of(self, database: str) -> str:
        return self.url.rsplit("/", 1)[0] + "/" + database

    async def make(self, database: str, *, empty: bool = False, template: str = TEMPLATE, released: bool = True) -> str:
        """A new database, with the schema or empty; returns its URL. A copy sends nothing before it is released."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
            template = "template0" if empty else template
            await connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')
        finally:
            await connection.close()
        if released and not empty:
            await self._release(database)
        return self.of(database)

    async def _release(self, database: str) -> None:
        connection = await asyncpg.connect(self.of(database))
        try:
            async with without_laws(connection):
                await connection.execute(_RELEASE)
        finally:
            await connection.close()


@asynccontextmanager
async def without_laws(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """A transaction in which no trigger fires and no row is checked."""
    async with connection.transaction():
        await connection.execute("SET LOCAL session_replication_role = replica")
        yield


async def tables_of(connection: asyncpg.Connection) -> list[str]:
    """Every table that is empty when a test begins."""
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        " AND NOT relispartition AND relname NOT IN ('alembic_version', 'sending_hold')"
    )
    return [row["relname"] for row in rows]


_RELEASE = "INSERT INTO sending_hold (actor, is_held, reason) VALUES ('migration', false, 'as the migration left it')"
_EMPTY = """
CREATE FUNCTION pg_temp.empty_tables() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL session_replication_role = replica;
    {deletions};
    PERFORM setval(sequencename::regclass, 1, false)
    FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL;
    {release};
END $$
"""


async def connect_for_emptying(url: str) -> asyncpg.Connection:
    """A connection on which no trigger fires and no row is checked, so that its plans are made once and kept."""
    return await asyncpg.connect(url, server_settings={"session_replication_role": "replica"})


async def empty_tables(connection: asyncpg.Connection) -> None:
    """Empty every table and start its ids anew; sending is released, as after the migrations.

    Not TRUNCATE: that makes new files for every table and takes a hundred times as long.
    """
    try:
        await connection.execute("SELECT pg_temp.empty_tables()")
    except (asyncpg.InvalidSchemaNameError, asyncpg.UndefinedFunctionError):
        tables = [*await tables_of(connection), "sending_hold"]
        deletions = ";\n    ".join(f'DELETE FROM "{table}"' for table in tables)
        await connection.execute(_EMPTY.format(deletions=deletions, release=_RELEASE))
        await connection.execute("SELECT pg_temp.empty_tables()")


@dataclass(frozen=True)
class Picture:
    """What is in the tables, to be put back: quicker than making it again."""

    rows: dict[str, str]
    last_ids: dict[str, int]

    @classmethod
    async def take(cls, connection: asyncpg.Connection) -> "Picture":
        rows = {}
        for table in await tables_of(connection):
            if held := await connection.fetchval(f'SELECT json_agg(t) FROM "{table}" t'):
                rows[table] = held
        used = await connection.fetch("SELECT sequencename, last_value FROM pg_sequences WHERE last_value IS NOT NULL")
        return cls(rows, {row["sequencename"]: row["last_value"] for row in used})

    async def put_back(self, connection: asyncpg.Connection) -> None:
        """In one statement, over a connection on which no law holds."""
        inserts = [
            f'"_{table}" AS (INSERT INTO "{table}" OVERRIDING SYSTEM VALUE'
            f' SELECT * FROM json_populate_recordset(NULL::"{table}", ${number}::json))'
            for number, table in enumerate(self.rows, 3)
        ]
        await connection.execute(
            f"WITH {', '.join(inserts)}"
            " SELECT setval(name::regclass, last) FROM unnest($1::text[], $2::bigint[]) AS ids (name, last)",
            list(self.last_ids),
            list(self.last_ids.values()),
            *self.rows.values(),
        )
