"""When the status of a payment is read next. Configurable."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the settings hold this plan, and every command reads the settings
    from payment_service.payments.lifecycle import FollowState

_LAST_TRIES_S: Final = 86400
"""How long after the end of the plan a failed reading is still retried, and for how long at least: age alone says
nothing, since no worker may have run."""


@dataclass(frozen=True)
class FollowPlan:
    """When the status of a payment is read. Times in seconds."""

    first_s: float = 5
    fast_s: float = 15
    fast_for_s: float = 600
    slow_s: float = 180
    follow_for_s: float = 86400
    confirm_s: float = 30
    tails_s: tuple[float, ...] = (3600, 86400)
    """How long after a payment failed its status is read again: it may have been paid late."""

    def next_check(self, now: "FollowState") -> float | None:
        """Seconds until the next reading; none when the payment is not followed any more."""
        if now.is_open:
            # Since its last move: what a person found open after a weekend is followed from then on.
            over = now.in_state_s > self.follow_for_s and not now.takes_another_reading
            too_late = now.in_state_s > self.follow_for_s + _LAST_TRIES_S
            planned: float | None = self._while_open(now)
        elif now.may_be_paid_late:
            planned = next((tail - now.in_state_s for tail in self.tails_s if tail > now.in_state_s), None)
            over = planned is None
            too_late = now.in_state_s > max(self.tails_s, default=0) + _LAST_TRIES_S
        else:
            return None
        if now.unread:
            return None if too_late and now.unread * self.slow_s > _LAST_TRIES_S else self.pause(now.unread)
        return None if over else planned

    def longest_s(self, *, is_open: bool) -> float:
        """The longest time until the next reading under any plan, including jitter."""
        pauses = (self.first_s, self.fast_s, self.slow_s, self.confirm_s, *(() if is_open else self.tails_s))
        return 1.5 * max(pauses)

    def pause(self, unread: int) -> float:
        """How long to wait after so many failed readings in a row: twice as long each time."""
        return min(self.first_s * 2.0 ** min(unread - 1, 30), self.slow_s)

    def _while_open(self, now: "FollowState") -> float:
        if now.is_due_at_once:
            return 0
        if now.error_seen:
            return self.confirm_s
        if now.status_is_final:
            return self.first_s  # soon, but not at once: the reading may keep failing
        age_s = abs(now.age_s)  # below zero a clock that was ahead wrote it, and it is no new payment
        if age_s < self.first_s:
            return self.first_s
        return self.fast_s if age_s < self.fast_for_s else self.slow_s
