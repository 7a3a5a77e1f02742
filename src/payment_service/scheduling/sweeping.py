"""How a sweep goes over what it found: each row by itself, so that one that fails does not block the others."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.postgres.database import is_unreachable

_AWAY_AFTER: Final = 3
"""How many failures in a row mean that the database is away: one row may just be locked by a client that hangs."""
log = get_logger(__name__)


async def for_each_isolated(
    ids: Sequence[UUID], take: Callable[[UUID], Awaitable[None]], *, alarm: metrics.Alarm
) -> int:
    """Process each by itself, with an alarm for each that fails; returns how many succeeded.

    Raises:
        DBAPIError, OSError: when the database is away, which says nothing about any of them.
    """
    taken = failures = 0
    # In random order, so that a row that blocks one sweep does not block the next as well.
    for one in random.sample(ids, len(ids)):
        try:
            await take(one)
        except Exception as error:
            failures = failures + 1 if is_unreachable(error) else 0
            if failures == _AWAY_AFTER:
                raise
            subject, _, _ = alarm.partition("_")  # of whose rows the sweep is: payment or refund
            metrics.alarm(log, alarm, **{f"{subject}_id": str(one)}, error=type(error).__name__)
        else:
            taken, failures = taken + 1, 0
    return taken
