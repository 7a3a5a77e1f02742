"""How long work may be due before it is late: one table for the console, ``doctor`` and the alert rules."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Lateness(StrEnum):
    """How late the oldest work of a kind is."""

    IN_TIME = "in_time"
    LATE = "late"
    TOO_LATE = "too_late"
    """An alert rule has the same limit."""


@dataclass(frozen=True, slots=True)
class LatenessLimits:
    """From how many seconds on work is late, and too late."""

    late_s: float
    too_late_s: float

    def lateness(self, waits_s: float) -> Lateness:
        """How late work is whose oldest row has been due for so many seconds."""
        if waits_s > self.too_late_s:
            return Lateness.TOO_LATE
        return Lateness.LATE if waits_s > self.late_s else Lateness.IN_TIME


_OURS: Final = LatenessLimits(60, 300)
_OF_OTHERS: Final = LatenessLimits(900, 3600)
"""Sites and message channels fail now and then, and are tried again for a day."""
LATENESS_LIMITS: Final[Mapping[str, LatenessLimits]] = MappingProxyType(
    {"readings": _OURS, "events": _OURS, "deliveries": _OF_OTHERS, "messages": _OF_OTHERS}
)
"""By the kind of work."""
