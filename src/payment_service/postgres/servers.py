"""The servers that an address names, of which one takes writes. The one that answered last is tried first.

A server that does not answer at all takes the whole timeout of a connection, so a server goes to the end of the list
until it has answered: the next attempt begins with another.

Two servers may take writes at once: a replica was promoted and nobody stopped the old primary, or an address leads
somewhere else from one moment to the next. A process has connections to one of them only, the one with the newer
timeline. Otherwise it could send what the other server already has, and keep routes in memory whose
changes a listener on the old server never receives.

A server never loses what was on its disk. One that lacks a row of the audit log which this process has seen there was
restored from a backup or a snapshot: sending is held.
"""

from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakSet

import asyncpg

from payment_service.observability.logs import get_logger
from payment_service.postgres.connecting import (
    WRITABLE,
    ReadOnlyServerError,
    ReplacedServerError,
    UnguardedSessionError,
    UnsuitableDatabaseError,
    check_encoding,
)

_WHICH: Final = """
    SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
        (SELECT oid FROM pg_database WHERE datname = current_database()) AS database,
        ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer AS timeline,
        (pg_current_wal_flush_lsn() - '0/0')::bigint AS flushed,
        current_setting('session_replication_role') AS role
"""
_LAST_ROW: Final = "SELECT coalesce(max(id), 0) FROM payment_log"
"""It reads every partition, so it runs only when the servers are checked, and in doubt."""
_HOLD: Final = """
    SELECT one_at_a_time('sending hold');
    SELECT hold_sending('the database has forgotten what it had on its disk')
"""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Which:
    """Which database of which server a connection leads to."""

    system: int
    database: int
    timeline: int
    """Changes when a replica is promoted: the newer one has taken over."""

    def replaces(self, other: "_Which") -> bool:
        return (self.system, self.database) == (other.system, other.database) and self.timeline > other.timeline


@dataclass(slots=True)
class Current:
    """The database that this process uses, and its connections."""

    which: _Which | None = None
    flushed: int = 0
    """Where its write-ahead log ended on the disk; after a crash it may end a little before, without any commit."""
    last_row: int = 0
    """The newest seen row of the audit log. Rows are only added, and none is visible before it is on the disk."""
    connections: WeakSet[asyncpg.Connection] = field(default_factory=WeakSet)

    def takes(self, connection: asyncpg.Connection, which: _Which, *, may_differ: bool) -> bool:
        """Take a new connection, and end those that lead elsewhere; false when it is the new one that does."""
        current = self.which
        if current is not None and which != current:
            if current.replaces(which) or not (may_differ or which.replaces(current)):
                return False
            log.error("another database server", timeline=which.timeline, before=current.timeline)
            for other in list(self.connections):
                other.terminate()
            self.flushed = self.last_row = 0
        self.which = which
        self.connections.add(connection)
        return True


class Servers:
    """Where connections are made. ``arguments`` as ``connect_arguments`` gives them."""

    def __init__(
        self, arguments: dict[str, Any], *, name: str = "DATABASE_URL", beside: "Servers | None" = None
    ) -> None:
        """``name`` is the setting that they come from, and ``beside`` are those whose database they must have too."""
        self._name = name
        self._arguments = arguments
        if arguments.get("target_session_attrs") not in WRITABLE:
            # A replica may lack a route or a key that was changed, and has no LISTEN that would report it.
            self._arguments = {**arguments, "target_session_attrs": "read-write"}
        host, port = arguments["host"], arguments["port"]
        self._servers = list(zip(host, port, strict=True)) if isinstance(host, list) else [(host, port)]
        self.current: Current = beside.current if beside else Current()
        self._leads = beside is None

    async def connect(self, **more: Any) -> asyncpg.Connection:
        """A connection that was checked before anybody uses it; ``more`` for asyncpg.

        Raises:
            OSError, asyncpg.PostgresError: when none of them takes writes: the error of the last one.
            UnsuitableDatabaseError: when the database must not be used.
        """
        left = list(self._servers)
        while True:
            server = left.pop(0)
            self._servers.remove(server)
            self._servers.append(server)
            try:
                connection = await self._connect(server, more)
            except UnsuitableDatabaseError:
                raise
            except Exception:
                if not left:
                    raise
                continue
            self._servers.remove(server)
            self._servers.insert(0, server)
            return connection

    async def check_all(self, **more: Any) -> None:
        """Connect to each server, and switch to one that has replaced the one in use. Raises nothing."""
        for server in list(self._servers):
            before = self.current.which
            try:
                connection = await self._connect(server, more)
                try:
                    self.current.last_row = await _last_row(connection, more.get("timeout"))
                finally:
                    connection.terminate()
            except Exception as error:  # noqa: BLE001 - a replica, mostly; connect() reports the error
                log.debug("server not used", error=type(error).__name__)
                continue
            if self.current.which != before:
                self._servers.remove(server)
                self._servers.insert(0, server)

    async def _connect(self, server: tuple[str, int], more: dict[str, Any]) -> asyncpg.Connection:
        host, port = server
        try:
            connection: asyncpg.Connection = await asyncpg.connect(
                **{**self._arguments, **more, "host": host, "port": port}
            )
        except asyncpg.TargetServerAttributeNotMatched as error:
            raise ReadOnlyServerError("the server takes no writes") from error
        except asyncpg.InternalClientError as error:
            raise ConnectionResetError("the connection was lost") from error
        try:
            check_encoding(connection)
            await self._admit(connection, more.get("timeout"))
        except BaseException as error:
            connection.terminate()
            match error:
                case asyncpg.ObjectNotInPrerequisiteStateError():
                    # A pooler may report what a server was before, and a replica writes no log.
                    raise ReadOnlyServerError("the server takes no writes") from error
                case asyncpg.InterfaceError() | asyncpg.InternalClientError():
                    # What asyncpg raises for a connection that was cut as soon as it was open.
                    raise ConnectionResetError("the connection was lost") from error
                case _:
                    raise
        return connection

    async def _admit(self, connection: asyncpg.Connection, timeout_s: float | None) -> None:
        """Find out which server it is; hold sending if it has lost rows.

        Raises:
            ReplacedServerError: when this process uses another server, or another database.
            UnguardedSessionError: when no trigger would fire.
        """
        current = self.current
        before, flushed, last_row = current.which, current.flushed, current.last_row  # others may see more meanwhile
        found = dict(await connection.fetchrow(_WHICH, timeout=timeout_s))
        ends, role = found.pop("flushed"), found.pop("role")
        if role != "origin":
            raise UnguardedSessionError(
                f"session_replication_role is {role}, so that no trigger fires and nothing guards the record: RESET it "
                f"for the role of {self._name}, the database and the server."
            )
        which = _Which(**found)
        if which == before and ends < flushed and (has := await _last_row(connection, timeout_s)) < last_row:
            log.error("the database has forgotten", last_row=has, seen=last_row)
            await connection.execute(_HOLD, timeout=timeout_s)
        if not current.takes(connection, which, may_differ=self._leads):
            raise ReplacedServerError(
                f"{self._name} leads to another database than DATABASE_URL, or to a server that was replaced: "
                "stop the old one, or correct the address."
            )
        current.flushed = ends


async def _last_row(connection: asyncpg.Connection, timeout_s: float | None) -> int:
    try:
        found: int = await connection.fetchval(_LAST_ROW, timeout=timeout_s)
    except asyncpg.UndefinedTableError:  # not migrated yet
        return 0
    return found
