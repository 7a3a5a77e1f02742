"""How many webhook endpoints and chats a caller of some shops may have: each slows down every seller's events."""

from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import Caller
from payment_service.errors import InvalidInput
from payment_service.postgres.visibility import ALL_SHOPS

MAX_OF_SOME_SHOPS: Final = 20
"""How many of one kind may be on."""
_ONE_AT_A_TIME: Final = text("SELECT pg_advisory_xact_lock(hashtext(:kind || '_of_some_shops'))")


async def check_quota(
    session: AsyncSession, caller: Caller, kind: str, count: Callable[[], Awaitable[int]], refusal: InvalidInput
) -> None:
    """Refuse what was just switched on, in the caller's transaction, when it is one too many.

    ``count`` counts those of the kind that are on and that the caller may see, under a lock.

    Raises:
        InvalidInput: the ``refusal``.
    """
    if caller.shops is ALL_SHOPS:
        return
    await session.execute(_ONE_AT_A_TIME, {"kind": kind})
    if await count() > MAX_OF_SOME_SHOPS:
        raise refusal
