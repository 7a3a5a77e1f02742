"""Readings of a status that many ask for at once: one call to the provider answers all who ask within a second.

Shares what the provider said, and nothing else: whether a caller may see the payment is asked before, each time.
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
        """Where the payment stands, as the provider says or said a moment ago; and when it was asked (monotonic)."""
        if not self._shared_for_s:
            return await _read(provider, external_id)
        key = (id(provider), external_id)
        reading = self._readings.get(key)
        if reading is None:
            reading = asyncio.create_task(_read(provider, external_id))
            self._readings[key] = reading
            reading.add_done_callback(lambda _: self._forget_soon(key))
        # Whoever hangs up does not end it for the others.
        return await asyncio.shield(reading)

    def _forget_soon(self, key: tuple[int, str]) -> None:
        asyncio.get_running_loop().call_later(self._shared_for_s, self._readings.pop, key, None)


async def _read(provider: Provider, external_id: str) -> tuple[Reading, float]:
    asked_at = time.monotonic()
    return await provider.read_status(external_id), asked_at
