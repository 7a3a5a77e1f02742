"""What an earlier request means for a new one: the second promise, "never twice", as decisions. Pure.

Whatever may have left this service blocks its like for as long as its end is not known, ``sending`` and ``unknown``
both: by Idempotency-Key, by equality, and by order. Who looks the earlier request up, and under which lock, is the
business of payments and refunds; the database refuses a second one too (rule ``payment_like_in_flight``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NOT_SENT: Final = "not_sent"
"""The failure of what provably never left: it may be asked for again."""
IN_FLIGHT: Final = frozenset({"sending", "unknown"})
"""States of payments and refunds alike: it may have left, and its end is not known."""


class Verdict(StrEnum):
    """What becomes of a new request."""

    GO_ON = "go_on"
    """Nothing stands in the way: write it down and send it."""
    STILL_RUNNING = "still_running"
    """The earlier one is under way: ask again in a moment."""
    ANSWER = "answer"
    """It was asked for before: what came of it is the answer."""
    ORDER_OPEN = "order_open"
    """Another request for the same order is open, or nobody knows its end."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier payment or refund, as far as it matters here."""

    state: str
    failure: str | None
    age_s: float
    """Since it was written down."""
    known_s: float
    """Since its end became known; as long as it is not, since it was written down."""


@dataclass(frozen=True)
class Rules:
    """What is set from outside. Times in seconds."""

    duplicate_window_s: int = 60
    """For how long after its end became known an equal request without a key is the same one; 0: no longer."""
    sending_lease_s: float = 30
    """For how long a sender may take; longer than any call can."""


def decisive(candidates: Sequence[Earlier]) -> Earlier | None:
    """Which of several equal earlier requests counts: one whose end is not known, else the one known last."""
    left = [one for one in candidates if one.failure != NOT_SENT]
    return min(left, key=lambda one: (one.state not in IN_FLIGHT, one.known_s), default=None)


def verdict_for_equal(earlier: Earlier | None, rules: Rules, *, by_key: bool) -> Verdict:
    """What an equal request that came before means: by the same Idempotency-Key for good, by equality for a while."""
    if earlier is None or earlier.failure == NOT_SENT:
        return Verdict.GO_ON
    if earlier.state == "sending" and earlier.age_s <= rules.sending_lease_s:
        return Verdict.STILL_RUNNING  # beyond the lease its sender must have died: the answer is that nobody knows
    if by_key or earlier.state in IN_FLIGHT or earlier.known_s < rules.duplicate_window_s:
        return Verdict.ANSWER
    return Verdict.GO_ON


def verdict_for_order(open_one: Earlier | None, rules: Rules, *, is_equal: bool) -> Verdict:
    """What an open payment of the same order means, whoever asked for it and however long ago."""
    if open_one is None:
        return Verdict.GO_ON
    return verdict_for_equal(open_one, rules, by_key=True) if is_equal else Verdict.ORDER_OPEN
