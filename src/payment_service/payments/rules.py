"""What is set from outside about how payments and refunds are sent and settled."""

from dataclasses import dataclass

from payment_service.idempotency.decisions import Rules
from payment_service.idempotency.sending import SendingWindow


@dataclass(frozen=True)
class PaymentRules(Rules):
    """What is set from outside. Times in seconds."""

    late_effect_s: float = 300
    """For how long a call may still take effect at the provider: nobody settles it as never made before."""
    call_deadline_s: float = 8
    """How long a call to the provider may take."""

    def sending_window(self) -> SendingWindow:
        """Open it before the intent is written."""
        return SendingWindow(self.sending_lease_s - self.call_deadline_s, self.sending_lease_s)
