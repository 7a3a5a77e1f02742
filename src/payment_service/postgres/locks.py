"""Locks that payments wait for: requested briefly and repeatedly, so that nobody waits long behind another waiter."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

LOCK_MS: Final = 300
"""How long others can wait behind a waiter for such a lock."""


async def when_free(work: Callable[[], Awaitable[None]], *, for_s: float) -> None:
    """Do work whose statements wait ``LOCK_MS`` for a lock, again whenever they did not get it, for so many seconds.

    Raises:
        LockNotAvailableError: when something else held it all that time.
    """
    give_up_at = time.monotonic() + for_s
    while True:
        try:
            await work()
        except asyncpg.LockNotAvailableError:
            if time.monotonic() > give_up_at:
                raise
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - not a secret
        else:
            return
