"""Shared status readings: one call to the provider serves every request of the same second.

Only the provider's answer is shared: whether a caller may see the payment is checked before, each time.
"""

import asyncio
import time
from typing import Final

from payment_service.providers.interface import Provider, Reading

SHARED_FOR_S: Final = 1.0


class SharedReadings:
    """The readings of this process that are under way or have just ended."""

    def __init__(self, shared_for_s: float = SHARED_FOR_S) -> None:
        """0 seconds means that nothing is shared."""
        self._shared_for_s = shared_for_s
        self._readings: dict[tuple[int, str], asyncio.Task[tuple[Reading, float]]] = {}

    async def read(self, provider: Provider, external_id: str) -> tuple[Reading, float]:
        """The reading, made now or a moment ago, and when the provider was asked (monotonic clock)."""
        if not self._shared_for_s:
            return await _read(provider, external_id)
        key = (id(provider), external_id)
        reading = self._readings.get(key)
        if reading is None:
            reading = asyncio.create_task(_read(provider, external_id))
            self._readings[key] = reading
            reading.add_done_callback(lambda _: self._forget_soon(key))
        # A caller that is cancelled must not cancel it for the others.
        return await asyncio.shield(reading)

    def _forget_soon(self, key: tuple[int, str]) -> None:
        asyncio.get_running_loop().call_later(self._shared_for_s, self._readings.pop, key, None)


async def _read(provider: Provider, external_id: str) -> tuple[Reading, float]:
    asked_at = time.monotonic()
    return await provider.read_status(external_id), asked_at
