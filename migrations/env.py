"""Alembic's entry: runs the migrations over one asyncpg connection, on the database that DATABASE_URL names."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, text

from payment_service.database import Base, Database
from payment_service.schema import MIGRATION_LOCK, owned_by_the_queue

config = context.config


def _migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        include_object=lambda thing, name, kind, *_: not owned_by_the_queue(thing, name, kind),
    )
    with context.begin_transaction():
        # Two processes that start at once must not migrate at once.
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        # A lock on a busy table may take longer than a request is allowed to wait.
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = '30s'"))
        context.run_migrations()


async def _migrate_async(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    try:
        async with database.engine.connect() as connection:
            await connection.run_sync(_migrate)
            await connection.commit()
    finally:
        await database.close()


def _run() -> None:
    given = config.attributes.get("connection")
    if isinstance(given, Connection):
        _migrate(given)
        return
    asyncio.run(_migrate_async(config.attributes.get("database_url") or os.environ["DATABASE_URL"]))


_run()
