"""What is set from outside about how payments and refunds are sent and settled."""

from dataclasses import dataclass

from payment_service.idempotency.decisions import Rules


@dataclass(frozen=True)
class PaymentRules(Rules):
    """What is set from outside. Times in seconds."""

    late_effect_s: float = 300
    """For how long a call may still take effect at the provider: nobody settles it as never made before."""
    call_deadline_s: float = 8
    """How long a call to the provider may take."""

    @property
    def begin_within_s(self) -> float:
        """How long after the intent its call may still begin: a later one could outlast the lease."""
        return self.sending_lease_s - self.call_deadline_s
