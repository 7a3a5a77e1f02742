"""How late the event loop is: whatever blocks it delays every request and every job of this process."""

import asyncio
import time

from payment_service.observability.metrics import LOOP_LAG

EVERY_S = 0.25


async def measure_lag() -> None:
    """Measure how late the loop wakes a sleeper, until cancelled."""
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(EVERY_S)
        LOOP_LAG.observe(max(time.perf_counter() - begun - EVERY_S, 0))
