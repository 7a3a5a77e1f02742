"""The configurable rules for sending and settling payments and refunds."""

from dataclasses import dataclass
from typing import Final

from payment_service.idempotency.decisions import Rules

LONGEST_LEASE_S: Final = 120
"""No process has a longer lease, and none lets people settle as never made earlier: so that it holds between processes
with different settings, too. A call leaves within the lease of the process that makes it."""


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
