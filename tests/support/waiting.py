"""Waiting for a fact instead of for time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Fact = TypeVar("Fact")


async def until(ask: Callable[[], Awaitable[Fact]], *, seconds: float = 20) -> Fact:
    """Ask until the answer is true; that answer. Fails when it has not come after so many seconds."""
    async with asyncio.timeout(seconds):
        while True:
            if answer := await ask():
                return answer
            await asyncio.sleep(0.01)
