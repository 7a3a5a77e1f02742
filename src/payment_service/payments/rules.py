"""The configurable rules for sending and settling payments and refunds."""

from dataclasses import dataclass
from typing import Final

from payment_service.idempotency.decisions import Rules

LONGEST_LEASE_S: Final = 120
"""The longest lease that a process may have, and the least ``late_effect_s``: so that nothing is settled as never made
while another process, with other settings, may still send it."""


@dataclass(frozen=True)
class PaymentRules(Rules):
    """The configurable rules. Times in seconds."""

    late_effect_s: float = 300
    """How long a call may still take effect at the provider; until then it cannot be settled as never made."""
    call_deadline_s: float = 8
    """How long a call to the provider may take."""

    @property
    def begin_within_s(self) -> float:
        """How long after the intent its call may still begin: a later one could outlast the lease."""
        return self.sending_lease_s - self.call_deadline_s
