"""When a call may still be made: soon after its intent was written, or never.

A process may be suspended between writing an intent and making its call: by a signal, swapped out, its machine asleep.
By then others may have made its payment unknown, and a person may have settled it as never made. So a call that would
start too late is not made, and one that is under way is cut off when the lease of its intent ends.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from payment_service.observability.logs import get_logger
from payment_service.providers.deadline import clock, sending_until
from payment_service.providers.interface import NotSent, Outcome, Unknown

Receipt = TypeVar("Receipt")
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SendingWindow:
    """Opened before an intent is written; limits when its call may begin and how long it may take. Times in seconds."""

    begin_within_s: float
    """A call begun later could outlast the lease: the lease less the call's own deadline."""
    lease_s: float
    opened: float = field(default_factory=clock)

    def is_open(self, moment: float) -> bool:
        """Whether a call may still begin at this moment of the clock."""
        return moment <= self.opened + self.begin_within_s

    async def send(self, call: Callable[[], Awaitable[Outcome[Receipt]]]) -> Outcome[Receipt]:
        """Make the one call, in time or not at all."""
        if not self.is_open(clock()):
            log.error("too late to send")
            return NotSent("too_late_to_send")
        # The loop's time first, then the clock: a pause between the two makes the deadline earlier, never later.
        now = asyncio.get_running_loop().time()
        lease_over = self.opened + self.lease_s
        try:
            # The timer cuts off a call that is on its way; the moment itself is checked as its first byte is written.
            async with asyncio.timeout_at(now + lease_over - clock()):
                with sending_until(lease_over):
                    return await call()
        except TimeoutError:
            return Unknown("lease_over")
