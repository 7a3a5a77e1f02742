"""The time of Kazakhstan, by which days and months of sums, lists and messages begin, wherever the server stands."""

from datetime import date, datetime, time, timedelta, timezone
from typing import Final

ALMATY: Final = timezone(timedelta(hours=5))
"""All of Kazakhstan, all year, since March 2024."""


def midnight(day: date) -> datetime:
    """When a day begins."""
    return datetime.combine(day, time(), ALMATY)


def today() -> date:
    """The present day."""
    return datetime.now(ALMATY).date()
