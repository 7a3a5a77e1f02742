"""Limits how many invoices one phone gets, so that a faulty client cannot flood a buyer.

Only an invoice that is about to be written and sent counts: a replayed request does not, and what was not sent is given
back. Phones are held as digests, keyed with a secret of this process.
"""

import hmac
import secrets

from payment_service.errors import RateLimited
from payment_service.observability.metrics import RATE_LIMITED, labelled
from payment_service.rates import Rate, RateLimiter, take_each


class PhoneLimit:
    """Counts the invoices that this process sent to each phone."""

    def __init__(self, *rates: Rate) -> None:
        """Without a rate there is no limit."""
        self._secret = secrets.token_bytes(32)
        self._limiters = [RateLimiter(rate) for rate in rates]

    def give_back(self, phone: str | None) -> None:
        """Undo the count of an invoice that was not sent."""
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
