"""Rate limits: token buckets in memory, bounded however many names there are. Pure.

Each process counts for itself: several processes allow several times the rate.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

_IPV6_PREFIX: Final = 64
"""The smallest network that one customer gets: counted by address, each customer would have very many buckets."""


@dataclass(frozen=True, slots=True)
class Rate:
    """``quota`` at once, and as many per ``window_s`` seconds in the long run; 0 is no limit."""

    quota: int
    window_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """The rate limits of one process."""

    requests_of_key: Rate
    requests_from_address: Rate
    """Without a valid API key."""
    invoices_to_phone: tuple[Rate, ...]


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The rate is exceeded."""

    rate: Rate
    wait_s: float
    """Seconds until the next one is allowed."""


class RateLimiter:
    """A bucket per name (the generic cell rate algorithm). A name that is not held has a full bucket.

    The library ``limits`` is not used: its storage in memory walks over all names at every hit, and grows without
    bound.
    """

    def __init__(self, rate: Rate, *, max_names: int = 50_000, clock: Callable[[], float] = time.monotonic) -> None:
        """Beyond ``max_names`` the one that was seen longest ago is forgotten, and so has a full bucket again."""
        self.rate = rate
        self._max_names = max_names
        self._clock = clock
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def __len__(self) -> int:
        """How many names are held."""
        return len(self._full_at)

    def take(self, name: Hashable) -> Exceeded | None:
        """Take one from the bucket, unless it is empty."""
        if not self.rate.quota:
            return None
        now = self._clock()
        full_at = max(self._full_at.get(name, now), now) + self._interval_s
        # Tolerates rounding: a full bucket may lack a tiny part of one.
        wait_s = full_at - now - self.rate.window_s
        if wait_s > self._interval_s / 1000:
            return Exceeded(self.rate, wait_s)
        self._full_at[name] = full_at
        self._full_at.move_to_end(name)
        self._forget(now)
        return None

    def give_back(self, name: Hashable) -> None:
        """Undo one ``take``."""
        if name in self._full_at:
            self._full_at[name] -= self._interval_s

    @property
    def _interval_s(self) -> float:
        return self.rate.window_s / self.rate.quota

    def _forget(self, now: float) -> None:
        """Drop the oldest names: those with a full bucket, and any while there are too many."""
        while self._full_at:
            name, full_at = next(iter(self._full_at.items()))
            if full_at > now and len(self._full_at) <= self._max_names:
                return
            del self._full_at[name]


def take_each(buckets: Sequence[tuple[RateLimiter, Hashable]]) -> Exceeded | None:
    """Take one from each bucket, or from none if one is empty; returns what that one says."""
    for number, (limiter, name) in enumerate(buckets):
        if (exceeded := limiter.take(name)) is not None:
            for earlier, its_name in buckets[:number]:
                earlier.give_back(its_name)
            return exceeded
    return None


def network_of(host: str) -> str:
    """The key by which requests are counted: an IPv4 address, or the IPv6 network of one customer.

    ``host`` is what uvicorn's FORWARDED_ALLOW_IPS makes of the connection.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return host[:100]
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ip_network((int(address), _IPV6_PREFIX), strict=False))
    return str(address)
