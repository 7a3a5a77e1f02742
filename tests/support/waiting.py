"""Waiting for a fact instead of for time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Fact = TypeVar("Fact")


async def until(
    ask: Callable[[], Awaitable[Fact | None]], what: str = "the fact", *, within_s: float = 20, every_s: float = 0.03
) -> Fact:
    """Ask until the answer is not empty, and return it.

    Raises:
        TimeoutError: naming what did not come.
    """
    give_up_at = time.monotonic() + within_s
    while not (answer := await ask()):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(every_s)
    return answer
