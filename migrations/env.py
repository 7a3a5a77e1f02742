"""Alembic's entry: runs the migrations over one asyncpg connection, on the database that DATABASE_URL names."""

import asyncio
import os

from alembic import context
from sqlalchemy import URL, Connection, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

# Every table must be known to the metadata before it is compared with a database.
import payment_service.access.models
import payment_service.audit.models
import payment_service.events.models
import payment_service.idempotency.fingerprints
import payment_service.idempotency.models
import payment_service.notifications.models
import payment_service.payments.models
import payment_service.refunds.models
import payment_service.routing.models
import payment_service.scheduling.ticks
import payment_service.webhooks.models  # noqa: F401
from payment_service.postgres.connecting import check_encoding, connect_arguments
from payment_service.postgres.database import CONNECT_TIMEOUT_S, Base
from payment_service.postgres.schema import MIGRATION_LOCK, compared

config = context.config
_SESSION = text("""
    SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES
        ('statement_timeout', '0'), ('transaction_timeout', '0'), ('idle_in_transaction_session_timeout', '0'),
        ('standard_conforming_strings', 'on'), ('quote_all_identifiers', 'off')
    ) AS wanted (of, value) ON name = of
""")
"""By those that this PostgreSQL has: transaction_timeout came with 17."""
_AT_HOME = text("""
    SELECT set_config('search_path', quote_ident(nspname), false) FROM pg_namespace
    WHERE oid = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('alembic_version'))
""")
"""What was made stays together: a schema that the role has before it by now would get the new functions."""


def _migrate(connection: Connection) -> None:
    # Whatever the role, the database or the server have: how long a migration may take, and how its text is read.
    connection.execute(_SESSION)
    connection.execute(_AT_HOME)
    # Two processes that start at once must not migrate at once, however long the first one takes.
    connection.execute(text("SET lock_timeout = 0"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
    # A lock on a busy table may take longer than a request is allowed to wait.
    connection.execute(text("SET lock_timeout = '30s'"))
    connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        include_object=compared,
        # So that one which prepares in the background what it does holds no lock of the one before it.
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _migrate_async(database_url: str) -> None:
    # An engine of its own: the service's would cut a migration off after the few seconds that a request may take.
    arguments = {**connect_arguments(database_url), "timeout": CONNECT_TIMEOUT_S}
    engine = create_async_engine(URL.create("postgresql+asyncpg"), connect_args=arguments, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            check_encoding((await connection.get_raw_connection()).driver_connection)
            await connection.run_sync(_migrate)
            await connection.commit()
    finally:
        await engine.dispose()


def _run() -> None:
    given = config.attributes.get("connection")
    if isinstance(given, Connection):
        _migrate(given)
        return
    asyncio.run(_migrate_async(config.attributes.get("database_url") or os.environ["DATABASE_URL"]))


_run()
