"""What an earlier request means for a new one, so that nothing is sent twice. Pure.

Whatever may have been sent blocks an equal request for as long as its outcome is not known, ``sending`` and ``unknown``
alike: by Idempotency-Key, by equal content, and by order. Payments and refunds look the earlier request up, under their
own locks; the database refuses a second one too (rule ``payment_like_in_flight``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NOT_SENT: Final = "not_sent"
"""The failure of what provably was not sent: it may be requested again."""
IN_FLIGHT: Final = frozenset({"sending", "unknown"})
"""States of payments and refunds alike: it may have been sent, and its outcome is not known."""


class Verdict(StrEnum):
    """What to do about a new request."""

    GO_ON = "go_on"
    """There is no obstacle: write it and send it."""
    STILL_RUNNING = "still_running"
    """The earlier one is still being sent: try again in a moment."""
    ANSWER = "answer"
    """The same request was made before: its result is the answer."""
    ORDER_OPEN = "order_open"
    """Another request for the same order is open, or its outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier payment or refund, as far as it matters here. Times in seconds."""

    state: str
    failure: str | None
    age_s: float
    """Since it was written. Below zero when the database's clock was ahead then."""
    known_s: float
    """Since its outcome became known; until then, since it was written."""


@dataclass(frozen=True)
class Rules:
    """The configurable rules. Times in seconds."""

    duplicate_window_s: int = 60
    """How long after its outcome became known an equal request without a key is still the same one; 0: not at all."""
    sending_lease_s: float = 30
    """How long a sender may take; longer than any call can."""

    def is_lease_over(self, age_s: float) -> bool:
        """Whether the sender of what is so old must have died.

        Below zero it was written while the database's clock was ahead: waiting for that time could take for ever.
        """
        return abs(age_s) > self.sending_lease_s


def decisive(candidates: Sequence[Earlier]) -> Earlier | None:
    """Which of several equal earlier requests counts: one whose outcome is not known, else the one known last.

    ``payment_intend`` chooses alike in SQL; the model and the tests compare.
    """
    left = [one for one in candidates if one.failure != NOT_SENT]
    return min(left, key=lambda one: (one.state not in IN_FLIGHT, one.known_s), default=None)


def verdict_for_equal(earlier: Earlier | None, rules: Rules, *, by_key: bool) -> Verdict:
    """What an earlier equal request means: with the same Idempotency-Key for ever, with equal content for a while."""
    if earlier is None or earlier.failure == NOT_SENT:
        return Verdict.GO_ON
    if earlier.state == "sending" and not rules.is_lease_over(earlier.age_s):
        return Verdict.STILL_RUNNING  # beyond the lease its sender must have died: the outcome is unknown
    if by_key or earlier.state in IN_FLIGHT or earlier.known_s < rules.duplicate_window_s:
        return Verdict.ANSWER
    return Verdict.GO_ON


def verdict_for_order(open_one: Earlier | None, rules: Rules, *, is_equal: bool) -> Verdict:
    """What an open payment of the same order means, whoever made it and however long ago."""
    if open_one is None:
        return Verdict.GO_ON
    return verdict_for_equal(open_one, rules, by_key=True) if is_equal else Verdict.ORDER_OPEN
