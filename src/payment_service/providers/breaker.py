"""Circuit breakers: after repeated failures no call passes for a while, then a single trial call. Pure.

A call that a breaker refuses never left this machine: for money that is *not sent*, for a reading *not read*.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

SEEN_FOR_S: Final = 60.0
"""How long a shop's last call counts as evidence about the proxy."""
SHOPS_TO_OPEN: Final = 3
_MAX_SHOPS: Final = 10_000


@dataclass(slots=True)
class Breaker:
    """Opens after ``failures_to_open`` failures in a row (0: never), for ``pause_s`` seconds."""

    failures_to_open: int
    pause_s: float
    clock: Callable[[], float] = time.monotonic
    _failures: int = 0
    _blocked_until: float | None = None
    """While the circuit is open: when the next trial call may pass."""

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open; a trial call may still pass."""
        return self._blocked_until is not None

    @property
    def is_blocking(self) -> bool:
        """Whether no call may pass now. Does not use up the trial call."""
        return self._blocked_until is not None and self.clock() < self._blocked_until

    def allows(self) -> bool:
        """Whether a call may pass now. After a pause only one may, as a trial."""
        if self._blocked_until is None:
            return True
        if self.is_blocking:
            return False
        # No other call passes while the trial is under way; a trial that never ends costs one more pause.
        self.shut(self.pause_s)
        return True

    def observe(self, *, failed: bool) -> None:
        """A call that was admitted has ended."""
        if not failed:
            self._failures, self._blocked_until = 0, None
            return
        self._failures += 1
        if self.failures_to_open and self._failures >= self.failures_to_open:
            self.shut(self.pause_s)

    def shut(self, for_s: float) -> None:
        """Open the circuit, whatever was counted."""
        self._blocked_until = self.clock() + for_s


@dataclass(slots=True)
class _Shop:
    """The recent calls of one shop."""

    breaker: Breaker
    seen_at: float = 0
    failures: int = 0
    """Since the last success of any shop."""
    failed_at: float = 0


@dataclass(slots=True)
class ShopBreakers:
    """A breaker for each shop, and one for all of them.

    A shop that fails alone is paused alone: the fault may be in its own calls. The circuit opens for all after
    ``failures_to_open`` failures without a success in between, of three shops or, when fewer were seen in the last
    minute, of all of those; never of one.
    """

    failures_to_open: int
    pause_s: float
    clock: Callable[[], float] = time.monotonic
    _all: Breaker = field(init=False)
    _shops: OrderedDict[str, _Shop] = field(init=False, default_factory=OrderedDict)
    """The shop that was seen last is at the end."""
    _failing: dict[str, _Shop] = field(init=False, default_factory=dict)
    """Those with failures since the last success of any shop, so that a success has few to reset."""

    def __post_init__(self) -> None:
        self._all = self._breaker()

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open for all."""
        return self._all.is_open

    @property
    def paused(self) -> int:
        """How many shops are paused by themselves just now."""
        return sum(shop.breaker.is_blocking for shop in self._shops.values())

    def allows(self, shop: str) -> bool:
        """Whether a call of the shop may pass now."""
        known = self._shops.get(shop)
        # A shop that is paused itself must not use up the trial call of all.
        if (known is not None and known.breaker.is_blocking) or not self._all.allows():
            return False
        return known is None or known.breaker.allows()

    def observe(self, shop: str, *, failed: bool) -> None:
        """A call of the shop that was admitted has ended."""
        now = self.clock()
        one = self._shops.setdefault(shop, _Shop(self._breaker()))
        one.seen_at = now
        self._shops.move_to_end(shop)
        if len(self._shops) > _MAX_SHOPS:
            forgotten, _ = self._shops.popitem(last=False)
            self._failing.pop(forgotten, None)
        one.breaker.observe(failed=failed)
        if not failed:
            self._succeeded()
        else:
            one.failures, one.failed_at = one.failures + 1, now
            self._failing[shop] = one
            self._failed(one, now)

    def _succeeded(self) -> None:
        """The proxy answers: earlier failures do not count any more."""
        for shop in self._failing.values():
            shop.failures = 0
        self._failing.clear()
        if self._all.is_open:
            for shop in self._shops.values():
                shop.breaker.observe(failed=False)
        self._all.observe(failed=False)

    def _failed(self, one: _Shop, now: float) -> None:
        if self._all.is_open:
            self._all.shut(self.pause_s)
            # The next trial goes to another shop, if one calls: this one may fail by itself.
            one.breaker.shut(2 * self.pause_s)
            return
        # The three shops that were seen last decide, however many there are.
        latest = islice(reversed(self._shops.values()), SHOPS_TO_OPEN)
        recent = sum(shop.seen_at > now - SEEN_FOR_S for shop in latest)
        failing = [shop for shop in self._failing.values() if shop.failed_at > now - SEEN_FOR_S]
        enough = max(recent, 2)
        if (
            self.failures_to_open
            and len(failing) >= enough
            and sum(shop.failures for shop in failing) >= self.failures_to_open
        ):
            self._all.shut(self.pause_s)

    def _breaker(self) -> Breaker:
        return Breaker(self.failures_to_open, self.pause_s, self._now)

    def _now(self) -> float:
        return self.clock()
