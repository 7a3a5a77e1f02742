"""Write 1 of an operation that is done once: its intent, before the call.

The write may succeed although its reply was lost: nothing is sent then, and the operation fails as not sent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg

from payment_service.errors import DatabaseUnavailable, SendingHeld
from payment_service.idempotency import holding
from payment_service.observability.context import Origin, origin
from payment_service.observability.logs import get_logger
from payment_service.observability.sentry import report
from payment_service.postgres.database import (
    DATABASE_ERRORS,
    FOREVER,
    RETRY_S,
    Database,
    RowLost,
    constraint_of,
    is_unreachable,
    raw,
    retry_until_written,
)
from payment_service.postgres.statement_pool import StatementPool
from payment_service.providers.interface import NotSent
from payment_service.scheduling.jitter import jitter
from payment_service.scheduling.operations import InFlight

INTENT_TIMEOUT_S = 1.75
"""How long the database may take to write an intent. Then the caller is answered, within 2 s, that nothing was sent."""
INSERT_WITHIN: Final = 0.75
"""The share of it after which the statement inserts nothing any more: it commits whether or not anybody waits."""
BEFORE_SENDING_S: Final = 5.0
"""How long everything before the call may take, so that the caller is answered in time."""
UNCONFIRMED: Final = NotSent("intent_not_confirmed")
"""The outcome of an operation whose intent may have been written although no reply came."""
_PAUSE_S: Final = 0.005
_LONGEST_PAUSE_S: Final = 0.2

Written = TypeVar("Written")
log = get_logger(__name__)


async def run_intent(statements: StatementPool, statement: str, *args: Any, may_insert: bool = True) -> asyncpg.Record:
    """Run the statement of an intent; its last parameter is within how many seconds it inserts.

    Where nothing may be inserted these are over before it begins: what would be is the obstacle ``too_late``.

    Raises:
        SendingHeld: when it was to be inserted and nothing may be sent from this database.
    """
    try:
        within_s = INTENT_TIMEOUT_S
        insert_within_s = INSERT_WITHIN * within_s if may_insert else -1.0
        intent = await statements.fetchrow(statement, *args, insert_within_s, within_s=within_s)
    except asyncpg.PostgresError as error:
        if constraint_of(error) != holding.NOT_HELD:
            raise
        raise SendingHeld from error
    assert intent is not None  # noqa: S101 - a function returns its row
    return intent


async def write_intent(
    attempt: Callable[[], Awaitable[Written | None]], *, fail: Callable[[], Awaitable[None]], inflight: InFlight
) -> Written:
    """Write an intent. An attempt that returns none is repeated while there is time: its obstacle is gone.

    When it is not known whether the intent was written, ``fail`` fails it, for nothing was sent: in the background, for
    as long as the process lives. A refused intent was rolled back: nothing was sent, and the caller gets that answer.

    Raises:
        DatabaseUnavailable: when it could not be written, in time or at all.
    """
    try:
        async with asyncio.timeout(BEFORE_SENDING_S):
            pause_s = _PAUSE_S
            while (written := await attempt()) is None:
                await asyncio.sleep(pause_s * jitter(2))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            return written
    except DATABASE_ERRORS as error:
        if is_unreachable(error):
            inflight.begin(retry_until_written(fail, while_unreachable_s=FOREVER))
        else:
            log.exception("intent refused by the database", law=constraint_of(error))
            report(error)
        raise DatabaseUnavailable from error


async def restore_intent(database: Database, what: str, statement: str, *args: Any) -> None:
    """Write the lost intent of a call that was made again, and hold sending: nobody knows what else was lost.

    Raises:
        RowLost: when something is in its way by now, such as an equal request that was sent since.
    """
    previous = origin.set(Origin("service", origin.get().request_id))
    try:
        async with database.transaction() as session:
            await holding.hold(session, f"the database has lost {what}, which was sent")
    finally:
        origin.reset(previous)
    async with database.transaction() as session:
        await holding.allow_restoring(session)
        intent = await (await raw(session)).fetchrow(statement, *args, RETRY_S)
        if intent["obstacle"] is not None:
            raise RowLost(f"{what} was lost and cannot be written again: {intent['obstacle']}")
