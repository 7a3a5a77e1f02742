"""When an event is delivered again, and when it is given up. Configurable."""

from dataclasses import dataclass
from typing import Final

from payment_service.scheduling.jitter import jitter

_JITTER: Final = 1.1


@dataclass(frozen=True)
class DeliveryPlan:
    """When to try again, and when to stop. Times are seconds."""

    delays_s: tuple[float, ...] = (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    """Pauses before the second, third ... try. When the try after the last pause fails, the delivery is dead."""
    order_wait_s: float = 3
    """How long a later event of an object waits for an earlier one."""
    disable_after_s: float = 432000
    """An endpoint is switched off when it failed for so long without a success, by the last try of a delivery: how long
    ago its first failure was says little when no worker ran since, or nothing happened."""
    at_once: int = 5
    """Tries of one endpoint at the same time ..."""
    at_once_in_all: int = 40
    """... and of all endpoints, in all workers together."""

    def delay_s(self, tries: int) -> float | None:
        """The pause after this many failed tries; none when there is no other try."""
        if tries > len(self.delays_s):
            return None
        # Jitter spreads what failed together. It only adds, so that the whole plan is never shorter.
        return self.delays_s[tries - 1] * jitter(_JITTER)

    @property
    def longest_s(self) -> list[float]:
        """The longest time until the next try, after one failed try, after two ..."""
        return [delay_s * _JITTER for delay_s in self.delays_s]
