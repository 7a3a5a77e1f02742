"""The database: one engine per process, and the only place where anything is committed.

Transactions are short and hold no network call. ``transaction()`` commits before it returns, so an answer leaves only
after its row is safe.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import asyncpg
from sqlalchemy import URL, BigInteger, DateTime, FetchedValue, String, func, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, mapped_column

from payment_service.observability.logs import get_logger
from payment_service.postgres.connecting import connect_arguments
from payment_service.postgres.servers import Servers
from payment_service.postgres.sessions import AT_HOME, SETTINGS, TRACKED, check_own, check_shared, setting
from payment_service.postgres.signals import Signals, noted
from payment_service.postgres.statement_pool import NO_ANSWER, StatementPool

CONNECT_TIMEOUT_S = 1.5  # a caller learns within 2 s that the database is down
COMMAND_TIMEOUT_S = 6  # for a server that does not even say that a statement took too long
RETRY_S = 60
STATEMENT_SETTINGS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""For single statements, in sessions of our own: planned once, for planning takes longer than running them, and by
index alone. A plan may be made while a table is empty and be in use when it holds a million rows."""
FOREVER = math.inf
"""For the outcome of a money call, which no other process knows."""
_CANNOT_SERVE = ("08", "25006", "25P03", "25P04", "28", "3D000", "53", "55P03", "57", "58")
"""SQLSTATEs: connection lost, read-only, transaction took too long, no client let in, no such database, out of disk or
connections, locked, stopped or starting, files at fault."""

DATABASE_ERRORS = (DBAPIError, PoolTimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a statement may raise, through SQLAlchemy or beside it."""
Result = TypeVar("Result")
log = get_logger(__name__)

Tiyn = Annotated[int, mapped_column(BigInteger)]
Moment = Annotated[datetime, mapped_column(DateTime(timezone=True))]
Stamp = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]
# A trigger writes it at each change; RETURNING brings it back.
UpdateStamp = Annotated[
    datetime,
    mapped_column(DateTime(timezone=True), server_default=func.now(), server_onupdate=FetchedValue()),
]
BinColumn = Annotated[str, mapped_column(String(12))]
ProviderName = Annotated[str, mapped_column(String(20), server_default="kaspi")]


class Base(DeclarativeBase):
    """What every table's model inherits."""

    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - declared so by SQLAlchemy


class RowLost(LookupError):
    """A row is missing that was committed and is never deleted: the database lost it."""


class NotWrittenError(Exception):
    """The database wrote nothing and reported no error: a trigger or a rule that is not ours dropped the row."""


class Database:
    """The process's connections to PostgreSQL.

    With ``direct_url``, ``database_url`` may lead to a pooler that shares sessions between transactions, and what needs
    a session (LISTEN) goes to ``direct_url``.
    """

    def __init__(self, database_url: str, *, pool_size: int = 20, direct_url: str | None = None) -> None:
        arguments = connect_arguments(database_url)
        self._servers = Servers(arguments)
        self.is_shared = direct_url is not None
        """Whether sessions are shared with other clients: nothing can be set in them, or be prepared."""
        self._direct = (
            self._servers
            if direct_url is None
            else Servers(
                connect_arguments(direct_url, name="DATABASE_DIRECT_URL"),
                name="DATABASE_DIRECT_URL",
                beside=self._servers,
            )
        )
        self._connect_options: dict[str, Any] = {
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": COMMAND_TIMEOUT_S,
            "server_settings": {**TRACKED, **arguments.get("server_settings", {}), "timezone": "UTC"},
        }
        """Of the connections that requests and workers share."""
        if self.is_shared:
            # A statement is parsed where it runs, in one exchange: the next may run in another session.
            self._connect_options["statement_cache_size"] = 0
        of_statements = max(pool_size // 2, 1)
        self.statements = StatementPool(
            lambda: self._connect(STATEMENT_SETTINGS), of_statements, wait_s=CONNECT_TIMEOUT_S
        )
        """For single statements on the path of a payment."""
        self.engine: AsyncEngine = create_async_engine(
            URL.create("postgresql+asyncpg"),
            connect_args={
                "async_creator_fn": self._connect,
                # As above: SQLAlchemy has a cache of its own.
                "prepared_statement_cache_size": 0 if self.is_shared else 100,
            },
            pool_size=max(pool_size - of_statements, 1),
            max_overflow=0,
            pool_timeout=CONNECT_TIMEOUT_S,
            pool_pre_ping=True,
            hide_parameters=True,  # an error's text must not hold a phone number
        )
        self.engine.dialect.do_terminate = _terminate  # type: ignore[assignment] # see there
        self.engine.dialect.do_ping = _ping  # type: ignore[assignment] # see there
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self.signals = Signals(self.raw_connection)

    async def check_sessions(self) -> None:
        """Check that sessions are as this service needs them: its own, or shared ones that have its settings.

        Raises:
            UnsuitableDatabaseError: when they are not; the text says what to do.
        """
        if self.is_shared:
            await check_shared(self._connect, "DATABASE_URL")
        await check_own(
            lambda: self._direct.connect(timeout=CONNECT_TIMEOUT_S, statement_cache_size=0),
            "DATABASE_DIRECT_URL" if self.is_shared else "DATABASE_URL",
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: committed when the block ends, rolled back when it raises.

        Signals that were noted in it (``signals.after_commit``) leave when it is committed.
        """
        async with self._sessions() as session, session.begin():
            await _take(session)
            yield session
        for channel, payload in noted(session.info):
            self.signals.send(channel, payload)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session for reading: nothing that is done in it is committed."""
        async with self._sessions() as session:
            await _take(session)
            yield session

    async def raw_connection(self) -> asyncpg.Connection:
        """A connection outside the pool, for LISTEN and NOTIFY. The caller closes it."""
        return await self._direct.connect(timeout=CONNECT_TIMEOUT_S)

    async def check_servers(self) -> None:
        """Check whether another server has taken over, and switch to it. Raises nothing."""
        await self._servers.check_all(**self._connect_options)

    async def _connect(self, more: Mapping[str, str] = MappingProxyType({})) -> asyncpg.Connection:
        """A connection with the settings of the service, and more of them."""
        connection = await self._servers.connect(**self._connect_options)
        if self.is_shared:
            return connection
        try:
            # A pooler lets clients in before it has a session for them.
            await connection.execute(f"{setting({**SETTINGS, **more})}; {AT_HOME}", timeout=CONNECT_TIMEOUT_S)
        except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
            # What asyncpg raises for a connection that was cut as soon as it was open.
            connection.terminate()
            raise ConnectionResetError("the connection was lost") from error
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def close(self) -> None:
        """Give every connection back."""
        await self.signals.close()
        await self.statements.close()
        await self.engine.dispose()


async def raw(session: AsyncSession) -> asyncpg.Connection:
    """The connection of a session, for a statement inside its transaction."""
    connection = await session.connection()
    # SQLAlchemy begins at the first statement that it sees itself: one that it does not see would not be rolled back.
    await connection.exec_driver_sql("SELECT 1")
    driver_connection: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection
    return driver_connection


async def now_of(session: AsyncSession) -> datetime:
    """The transaction's time, by the database's clock."""
    return (await session.execute(select(func.now()))).scalar_one()


def _terminate(connection: Any) -> None:
    """Drop a broken connection at once. SQLAlchemy's orderly close can hang on a frozen server."""
    connection.driver_connection.terminate()


def _ping(connection: Any) -> bool:
    """Whether a connection answers, in one exchange: SQLAlchemy's own ping opens and ends a transaction around it."""
    try:
        connection.run_async(lambda driver: driver.execute("SELECT 1"))
    except NO_ANSWER:
        return False
    return True


async def _take(session: AsyncSession) -> None:
    """Take a connection that answers. A frozen server keeps its connections open and sends nothing on them."""
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await session.connection()
    except TimeoutError as error:
        raise PoolTimeoutError("no connection answered in time") from error


def is_unreachable(error: BaseException) -> bool:
    """Whether the error says that the database is down, gone or full, not that a statement was wrong."""
    # SQLAlchemy has no class of its own for most errors of the server, so the SQLSTATE decides.
    cause = error.orig if isinstance(error, DBAPIError) else error
    if (getattr(cause, "sqlstate", None) or "").startswith(_CANNOT_SERVE):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(
        error,
        PoolTimeoutError | OperationalError | InterfaceError | OSError | asyncpg.InterfaceError,
    )


def is_duplicate(error: DBAPIError) -> bool:
    """Whether the statement broke a UNIQUE constraint."""
    return bool(getattr(error.orig, "sqlstate", None) == asyncpg.UniqueViolationError.sqlstate)


def lacks_schema(error: BaseException) -> bool:
    """Whether the statement met a database without the tables, columns or functions that this code needs."""
    unknown = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)
    missing = {kind.sqlstate for kind in unknown}
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in missing


async def retry_until_written(
    action: Callable[[], Awaitable[Result]],
    *,
    while_unreachable_s: float = RETRY_S,
    while_refused_s: float | None = None,
) -> Result:
    """Run a transaction, and again while the database is away, for up to ``while_unreachable_s`` seconds.

    For writing what has already happened elsewhere. What the database refuses for another reason is tried for
    ``while_refused_s`` seconds; by default for ``RETRY_S``, but a violated constraint, or a value that it cannot hold,
    only once. The action must be idempotent: it may be the reply to its COMMIT that was lost.
    """
    begun = time.monotonic()
    pause = 0.1
    while True:
        try:
            return await action()
        except RowLost:
            raise  # what is gone, and cannot be written again, stays gone
        except Exception as error:
            log.warning("not written yet", error=type(error).__name__)
            if is_unreachable(error):
                try_for_s = while_unreachable_s
            elif while_refused_s is not None:
                try_for_s = while_refused_s
            else:
                try_for_s = RETRY_S if _may_pass(error) else 0
            if time.monotonic() - begun >= try_for_s:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, 2)


def _may_pass(error: Exception) -> bool:
    # StatementPool uses asyncpg itself, so its errors come unwrapped.
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None and not isinstance(cause, asyncpg.PostgresError):
        cause = cause.__cause__
    if cause is None:
        return isinstance(error, NotWrittenError) or (isinstance(error, DBAPIError) and constraint_of(error) is None)
    return not isinstance(cause, asyncpg.IntegrityConstraintViolationError | asyncpg.DataError)


def constraint_of(error: BaseException) -> str | None:
    """The name of the constraint (or of the rule of a trigger) that a statement violated."""
    cause: BaseException | None = error.orig if isinstance(error, DBAPIError) else error
    while cause is not None:
        name = getattr(cause, "constraint_name", None)
        if name:
            return str(name)
        cause = cause.__cause__
    return None
