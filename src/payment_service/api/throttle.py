"""Rate limits: counted per API key, and per address for those who present no valid key.

Decided before the database is used. A key counts as valid if it was when the process started, and once this process has
accepted it; any other key is counted by address. So a flood of invented keys neither reaches the database nor fills the
memory, and a valid key is not blocked by other requests from its address.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from payment_service.errors import RateLimited
from payment_service.observability.metrics import RATE_LIMITED, labelled
from payment_service.rates import Rate, RateLimiter, network_of
from payment_service.settings import Settings

_KNOWN_KEYS: Final = 10_000
_DEVELOPMENT: Final = "development"
"""The key of every caller on a server without authentication."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """An admitted request, and what it was counted by."""

    address: str | None
    """None when it was counted by key."""
    key: str | None


class Throttle:
    """Counts the requests of one process."""

    def __init__(self, per_key: Rate, per_address: Rate, *, no_authentication: bool = False) -> None:
        self._keys = RateLimiter(per_key)
        self._addresses = RateLimiter(per_address)
        self._no_authentication = no_authentication
        self._known: OrderedDict[str, None] = OrderedDict()

    def remember_keys(self, digests: Iterable[str]) -> None:
        """Count these keys by themselves from now on; each is given as its SHA-256 in hex."""
        for digest in digests:
            self._known[digest] = None
            self._known.move_to_end(digest)
            if len(self._known) > _KNOWN_KEYS:
                self._known.popitem(last=False)

    def admit(self, presented: str | None, client: tuple[str, int] | None) -> Ticket:
        """Count a request, by the key that it presents and where it comes from.

        Raises:
            RateLimited: when it is one too many.
        """
        key = _DEVELOPMENT if self._no_authentication else presented and hashlib.sha256(presented.encode()).hexdigest()
        if key is not None and (self._no_authentication or key in self._known):
            if (exceeded := self._keys.take(key)) is not None:
                labelled(RATE_LIMITED, "key").inc()
                raise RateLimited("key", "Requests with this API key", exceeded)
            return Ticket(None, key)
        address = network_of(client[0] if client else "")
        if (exceeded := self._addresses.take(address)) is not None:
            labelled(RATE_LIMITED, "address").inc()
            raise RateLimited("address", "Requests without a valid API key from this address", exceeded)
        return Ticket(address, key)

    def observe(self, ticket: Ticket, *, verified: bool, refused: bool) -> None:
        """Take the result of a request: whether its key or signature was verified, or refused."""
        if verified and ticket.address is not None:
            self._addresses.give_back(ticket.address)
        if ticket.key is None:
            return
        if verified:
            self.remember_keys([ticket.key])
        elif refused:
            self._known.pop(ticket.key, None)


def throttle_of(settings: Settings) -> Throttle:
    """The limits that the settings name; none when they switch limits off."""
    rates = settings.rates
    return Throttle(rates.requests_of_key, rates.requests_from_address, no_authentication=settings.dev_no_auth)
