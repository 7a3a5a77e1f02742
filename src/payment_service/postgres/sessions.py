"""What every session with the database has set, and whether a session is ours alone.

A pooler may stand before PostgreSQL. One that gives each client a session of its own (PgBouncer in session mode) is no
different from PostgreSQL. One that shares sessions between transactions (transaction mode) loses what is set in them,
and hands settings of one client to another: there the settings are the role's, and are checked before the service
starts. What no payment can do without, a commit on the disk and READ COMMITTED, the tables themselves ask for
(migration 0020).
"""

from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Final

import asyncpg

from payment_service.postgres.connecting import UnsuitableDatabaseError

STATEMENT_TIMEOUT_MS: Final = 5_000
LOCK_TIMEOUT_MS: Final = 3_000
SETTINGS: Final = MappingProxyType(
    {
        "statement_timeout": str(STATEMENT_TIMEOUT_MS),
        "lock_timeout": str(LOCK_TIMEOUT_MS),
        "idle_in_transaction_session_timeout": "30000",
        "jit": "off",
        # Whatever the server's own setting: what is sent has its row on the disk. Never less, as with "off",
        # which answers before; of a synchronous replica it asks that the row is on its disk too.
        "synchronous_commit": "on",
        # An intent looks what is in its way after it has waited for a lock: with an earlier snapshot it would
        # not see its like, and be sent beside it.
        "default_transaction_isolation": "read committed",
    }
)
"""As ``pg_settings`` has them. Set by statements: poolers refuse them as parameters of a connection."""
HOME: Final = "(SELECT pronamespace FROM pg_proc WHERE oid = to_regproc('payment_intend'))"
"""The schema of the service's tables and laws: each law reads and writes its tables, whatever the search path says."""
AT_HOME: Final = f"""
    SELECT set_config('search_path', quote_ident(nspname), false) FROM pg_namespace
    WHERE oid = {HOME}
"""  # noqa: S608 - only text of this package
"""Whatever schemas the role has before it, such as one with an old copy of a table; in a new database it stays."""
TRACKED: Final = MappingProxyType({"application_name": "payment-service", "timezone": "UTC"})
"""Parameters of a connection, which every pooler keeps for each client."""
LOOKS: Final = 3
"""So often two connections are compared: other clients of a pooler may take a session in between."""

Connect = Callable[[], Awaitable[asyncpg.Connection]]


def setting(settings: MappingProxyType[str, str] | dict[str, str]) -> str:
    """The script that sets them for a session."""
    return "; ".join(f"SET {name} = '{value}'" for name, value in settings.items())


async def check_own(connect: Connect, name: str) -> None:
    """Check that a connection has a session of its own; ``name`` is the setting with its address.

    Two connections are open at once, so that with sessions of their own they have two backends, each always the same.

    Raises:
        UnsuitableDatabaseError: when a pooler shares sessions between transactions.
    """
    one = await connect()
    try:
        other = await connect()
        try:
            for _ in range(LOOKS):
                before = await _backend(one)
                async with other.transaction():
                    others, after = await _backend(other), await _backend(one)
                if others == before or after != before:
                    raise UnsuitableDatabaseError(
                        f"{name} leads to a pooler, such as PgBouncer in transaction mode, that shares sessions "
                        "between transactions: name PostgreSQL itself or a pooler in session mode. serve can use "
                        "such a pooler beside it, by DATABASE_URL and DATABASE_DIRECT_URL: docs/deploy.md."
                    )
        finally:
            other.terminate()
    finally:
        one.terminate()


async def _backend(connection: asyncpg.Connection) -> int:
    [row] = await connection.fetch("SELECT pg_backend_pid() AS pid")
    pid: int = row["pid"]
    return pid


async def check_shared(connect: Connect, name: str) -> None:
    """Check that shared sessions have what this service would set in its own.

    Raises:
        UnsuitableDatabaseError: when they do not; the text has the statements that set it.
    """
    connection = await connect()
    try:
        rows = await connection.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY($1)", list(SETTINGS))
        missing = dict(SETTINGS.items() - {(row["name"], row["setting"]) for row in rows})
        if missing:
            [who] = await connection.fetch(
                "SELECT quote_ident(session_user) AS role, quote_ident(current_database()) AS database"
            )
            role = f"ALTER ROLE {who['role']} IN DATABASE {who['database']}"
            lines = [f"{role} SET {one} = '{value}';" for one, value in SETTINGS.items() if one in missing]
            raise UnsuitableDatabaseError(
                f"{name} leads to shared sessions (DATABASE_DIRECT_URL is set) that lack settings of this service. Run "
                f"this in PostgreSQL, then RECONNECT in the pooler: {' '.join(lines)}"
            )
    finally:
        connection.terminate()
