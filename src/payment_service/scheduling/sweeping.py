"""How a sweep goes over what it found: each row by itself, so that one that fails does not block the others."""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.postgres.database import is_unreachable

_AWAY_AFTER: Final = 3
"""So many in a row that the database could not take, and it is away: one may be locked by somebody who hangs."""
log = get_logger(__name__)


async def for_each_isolated(
    ids: Sequence[UUID], take: Callable[[UUID], Awaitable[None]], *, alarm: metrics.Alarm
) -> int:
    """Process each by itself and raise the alarm for one that fails; returns how many succeeded.

    Raises:
        DBAPIError, OSError: when the database is away, which says nothing about any of them.
    """
    taken = failures = 0
    # In any order: what blocks one sweep must not stand in front of the next one too.
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
