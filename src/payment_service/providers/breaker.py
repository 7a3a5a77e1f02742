"""A circuit breaker: a proxy that fails again and again is left alone for a while, then tried with one call. Pure.

What the breaker turns away never left this machine: for money that is *not sent*, for a reading *not read*.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """Opens after ``failures_to_open`` failures in a row (0: never), for ``pause_s`` seconds."""

    failures_to_open: int
    pause_s: float
    clock: Callable[[], float] = time.monotonic
    _failures: int = 0
    _shut_until: float | None = None
    """While the circuit is open: when the next call may try."""

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open; a single call may still pass, to try."""
        return self._shut_until is not None

    def admits(self) -> bool:
        """Whether a call may pass now. Of those that ask in a pause's last moment, only the first one does."""
        if self._shut_until is None:
            return True
        if self.clock() < self._shut_until:
            return False
        # Nobody else tries while this call is under way, and one that never comes back costs one more pause.
        self._shut_until = self.clock() + self.pause_s
        return True

    def learn(self, *, failed: bool) -> None:
        """A call that was admitted has ended."""
        if not failed:
            self._failures, self._shut_until = 0, None
            return
        self._failures += 1
        if self.failures_to_open and self._failures >= self.failures_to_open:
            self._shut_until = self.clock() + self.pause_s
