"""The two writes of an operation that is done once: its intent before the call, its outcome after it.

An intent may be written although no answer came: nothing is sent then, and it is taken back. An outcome is known to
this process alone, so it is written for as long as the process lives, and when the database has lost the intent since,
both are.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import asyncpg

from payment_service.errors import DatabaseUnavailable, SendingHeld
from payment_service.idempotency import holding
from payment_service.observability.context import Origin, origin
from payment_service.observability.logs import get_logger
from payment_service.observability.sentry import tell
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
from payment_service.postgres.lines import Lines
from payment_service.providers.interface import Outcome, Unknown

INTENT_TIMEOUT_S = 1.75
"""How long the database may take to write an intent. Then the caller is told, within 2 s, that nothing was sent."""
INSERT_WITHIN: Final = 0.75
"""The share of it after which the statement itself inserts nothing any more: it commits without being asked."""
BEFORE_SENDING_S: Final = 5.0
"""How long everything before the call may take: the caller gets a true answer in time."""
_TRIES: Final = 4

Written = TypeVar("Written")
Receipt = TypeVar("Receipt")
log = get_logger(__name__)


async def run_intent(lines: Lines, statement: str, *args: Any) -> asyncpg.Record:
    """Run the statement of an intent; its last parameter is within how many seconds it inserts.

    Raises:
        SendingHeld: when it was to be inserted and nothing may be sent from this database.
    """
    try:
        async with asyncio.timeout(INTENT_TIMEOUT_S):
            intent = await lines.fetchrow(statement, *args, INSERT_WITHIN * INTENT_TIMEOUT_S)
    except asyncpg.PostgresError as error:
        if constraint_of(error) != holding.NOT_HELD:
            raise
        raise SendingHeld from error
    assert intent is not None  # noqa: S101 - a function returns its row
    return intent


async def write_intent(attempt: Callable[[], Awaitable[Written | None]], unconfirmed: Callable[[], object]) -> Written:
    """Write an intent; an attempt that returns none is made again, for what stood in its way is gone.

    ``unconfirmed`` is called when nobody knows whether it was written. What the database refuses it has rolled back:
    nothing was sent then, whatever the reason is, and the caller is told so.

    Raises:
        DatabaseUnavailable: when it could not be written, in time or at all.
    """
    try:
        async with asyncio.timeout(BEFORE_SENDING_S):
            for _ in range(_TRIES):
                if (written := await attempt()) is not None:
                    return written
    except DATABASE_ERRORS as error:
        if is_unreachable(error):
            unconfirmed()
        else:
            log.exception("intent refused by the database", law=constraint_of(error))
            tell(error)
        raise DatabaseUnavailable from error
    raise DatabaseUnavailable


async def write_outcome(
    write: Callable[[Outcome[Receipt]], Awaitable[Written]],
    outcome: Outcome[Receipt],
    *,
    restore: Callable[[], Awaitable[None]],
    refused: Callable[[str], Unknown],
) -> Written:
    """Write an outcome, over its intent, which ``restore`` writes again when the database has lost it.

    When the database refuses the outcome, what ``refused`` makes of the reason: it may have been done. That is tried
    for as long as the process lives, whatever the database says against it: nobody else knows what the provider said.
    """

    async def write_or_restore(outcome: Outcome[Receipt]) -> Written:
        try:
            return await write(outcome)
        except RowLost:
            await restore()
            return await write(outcome)

    try:
        return await retry_until_written(lambda: write_or_restore(outcome), while_unreachable_s=FOREVER)
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being written
        unknown = refused(constraint_of(error) or type(error).__name__)
        return await retry_until_written(
            lambda: write_or_restore(unknown), while_unreachable_s=FOREVER, while_refused_s=FOREVER
        )


async def restore_intent(database: Database, what: str, statement: str, *args: Any) -> None:
    """Write the intent of ``what`` again, whose call has left. What else is lost nobody knows: nothing more is sent.

    Raises:
        RowLost: when something is in its way by now, such as an equal request that was sent since.
    """
    doer = origin.set(Origin("service", origin.get().request_id))
    try:
        async with database.transaction() as session:
            await holding.hold(session, f"the database has lost {what}, which was sent")
    finally:
        origin.reset(doer)
    async with database.transaction() as session:
        await holding.allow_restoring(session)
        intent = await (await raw(session)).fetchrow(statement, *args, RETRY_S)
        if intent["obstacle"] is not None:
            raise RowLost(f"{what} was lost and cannot be written again: {intent['obstacle']}")
