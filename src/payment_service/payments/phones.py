"""How many invoices one phone may get: a faulty client must not send a buyer invoices all night.

Counts only an invoice that is about to be written down and sent: an equal request that gets an earlier answer never
comes here, and what was not sent is given back. Phones are held as keyed digests that only this process can make.
"""

import hmac
import secrets

from payment_service.errors import RateLimited
from payment_service.observability.metrics import RATE_LIMITED, labelled
from payment_service.rates import Rate, RateLimiter, take_each


class PhoneLimit:
    """The invoices that this process sent to each phone."""

    def __init__(self, *rates: Rate) -> None:
        """Without a rate there is no limit."""
        self._secret = secrets.token_bytes(32)
        self._limiters = [RateLimiter(rate) for rate in rates]

    def give_back(self, phone: str | None) -> None:
        """An invoice that was counted was not sent."""
        if phone is not None:
            for limiter, digest in self._buckets(phone):
                limiter.give_back(digest)

    def take(self, phone: str | None) -> None:
        """Count one invoice. A payment without a phone is not counted.

        Raises:
            RateLimited: when it is one too many.
        """
        if phone is not None and (exceeded := take_each(self._buckets(phone))) is not None:
            labelled(RATE_LIMITED, "phone").inc()
            raise RateLimited("phone", "Invoices to this phone", exceeded)

    def _buckets(self, phone: str) -> list[tuple[RateLimiter, bytes]]:
        digest = hmac.digest(self._secret, phone.encode(), "sha256")
        return [(limiter, digest) for limiter in self._limiters]
