"""Valentine's Day with a slow provider, simulated: when callers hear 503, and how much nobody knows for how long.

    .venv/bin/python benchmarks/valentine.py                    # seven sellers
    .venv/bin/python benchmarks/valentine.py --sellers 700 --payments 300000 --serves 4
    .venv/bin/python benchmarks/valentine.py --check            # the same model beside one real service, two minutes
    .venv/bin/python benchmarks/valentine.py --check --sellers 200

The circuit breakers and the defaults are the service's own; waiting for a core, for a connection and for a place among
the calls is modelled from what ``--only costs`` measured (docs/scaling.md). Not modelled: networks, callers who ask
again, readings and webhooks, which other processes and other calls do.
"""

import argparse
import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Final

from payment_service.postgres.database import CONNECT_TIMEOUT_S
from payment_service.providers.breaker import ShopBreakers
from payment_service.providers.kaspi.client import _SHARE_WAIT_S as SHARE_WAIT_S
from payment_service.providers.kaspi.client import _SHARES as SHARES
from payment_service.providers.kaspi.settings import KaspiSettings

HOURS: Final = (1, 1, 1, 1, 1, 1, 2, 5, 12, 18, 20, 20, 18, 16, 14, 14, 16, 18, 16, 10, 6, 4, 2, 1)
"""How the day's payments fall on its hours: flowers are bought in the morning and on the way home."""
SLOW: Final = ((0, 0.2), (10, 0.2), (11, 2), (12, 6), (13, 8), (14, 6), (15, 1), (16, 0.2), (24, 0.2))
"""By the hour, the median of what a call to the provider takes, in seconds; straight lines between."""


@dataclass(frozen=True)
class World:
    """What is simulated."""

    sellers: int = 7
    serves: int = 1
    settings: KaspiSettings = field(default_factory=lambda: KaspiSettings(url="", access_token=""))
    pool: int = 20
    serve_ms: float = 3.6
    """Of a core that a create keeps busy, for each ``serve``; and of PostgreSQL, with so many cores."""
    postgres_ms: float = 2.4
    postgres_cores: int = 2
    spread: float = 0.5
    """Of the provider's time: sigma of its logarithm; 0 is always the median."""
    settled_per_hour: float = 120
    """Unknown payments that people look up in the cabinet, beginning ``late_effect_s`` after each was sent."""
    late_effect_s: float = 300


@dataclass
class Serve:
    """One process: its breakers, its calls under way, and who waits for a place."""

    world: World
    clock: Callable[[], float]
    busy_until: float = 0
    free: int = 0
    waiting: deque["Call"] = field(default_factory=deque)
    held: Counter[int] = field(default_factory=Counter)
    queues: defaultdict[int, deque["Call"]] = field(default_factory=lambda: defaultdict(deque))
    """Of a shop that holds all of its share."""

    def __post_init__(self) -> None:
        settings = self.world.settings
        self.free, self.share = settings.max_calls, max(settings.max_calls // SHARES, 1)
        self.breakers = ShopBreakers(settings.breaker_failures, settings.breaker_pause_s, self.clock)


@dataclass(eq=False)
class Call:
    """One create."""

    asked_at: float
    seller: int
    serve: Serve
    began_at: float = 0
    is_over: bool = False


class Simulation:
    """Events in the order of their time. ``latency`` is the provider's median at a moment, in seconds."""

    def __init__(self, world: World, latency: Callable[[float], float], seed: int) -> None:
        self.world, self.latency, self.now = world, latency, 0.0
        self.chance = random.Random(seed)
        self.serves = [Serve(world, lambda: self.now) for _ in range(world.serves)]
        self.postgres = [0.0] * world.postgres_cores
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.told: list[tuple[float, str]] = []
        """Of each answered create, when it was asked for, and what was told: ``made``, ``unknown``, or why not."""

    def at(self, moment: float, what: Callable[[], None]) -> None:
        """Let something happen then."""
        heapq.heappush(self.events, (moment, next(self.numbers), what))

    def run(self, arrivals: Iterator[tuple[float, int]]) -> None:
        """Arrivals: when, and for which seller; in the order of their time."""
        self._next(arrivals)
        while self.events:
            self.now, _, what = heapq.heappop(self.events)
            what()

    def _next(self, arrivals: Iterator[tuple[float, int]]) -> None:
        if (arrival := next(arrivals, None)) is not None:
            self.at(arrival[0], lambda: (self._arrive(arrival[1]), self._next(arrivals))[-1])

    def _arrive(self, seller: int) -> None:
        call = Call(self.now, seller, self.chance.choice(self.serves))
        # The process's core first, then a core of PostgreSQL; a connection is waited for no longer than this.
        serve = call.serve
        serve.busy_until = max(serve.busy_until, self.now) + self.world.serve_ms / 1000
        core = min(range(len(self.postgres)), key=self.postgres.__getitem__)
        begins = max(self.postgres[core], serve.busy_until)
        if begins - self.now > CONNECT_TIMEOUT_S:
            self._tell(call, "no_connection")
            return
        self.postgres[core] = begins + self.world.postgres_ms / 1000
        self.at(self.postgres[core], lambda: self._ask_for_share(call))

    def _ask_for_share(self, call: Call) -> None:
        serve, call.began_at = call.serve, self.now
        if serve.held[call.seller] < serve.share:
            serve.held[call.seller] += 1
            self._ask_for_place(call)
            return
        serve.queues[call.seller].append(call)

        def give_up() -> None:
            if call in serve.queues[call.seller]:
                serve.queues[call.seller].remove(call)
                self._tell(call, "shop_busy")

        self.at(self.now + SHARE_WAIT_S, give_up)

    def _ask_for_place(self, call: Call) -> None:
        serve = call.serve
        if not serve.breakers.allows(str(call.seller)):
            self._leave(call, "circuit_open", held=False)
        elif serve.free:
            serve.free -= 1
            self._send(call)
        else:
            serve.waiting.append(call)
            self.at(call.began_at + self.world.settings.deadline_s, lambda: self._too_late(call))

    def _too_late(self, call: Call) -> None:
        if call in call.serve.waiting:
            call.serve.waiting.remove(call)
            call.serve.breakers.observe(str(call.seller), failed=True)  # as the service does
            self._leave(call, "no_place", held=False)

    def _send(self, call: Call) -> None:
        takes = self.latency(self.now) * self.chance.lognormvariate(0, self.world.spread)
        deadline = call.began_at + self.world.settings.deadline_s
        in_time = self.now + takes < deadline

        def answered() -> None:
            call.serve.breakers.observe(str(call.seller), failed=not in_time)
            self._leave(call, "made" if in_time else "unknown", held=True)

        self.at(min(self.now + takes, deadline), answered)

    def _leave(self, call: Call, what: str, *, held: bool) -> None:
        """The call ends; who waited longest for its place, and for the share of its shop, has it."""
        serve, seller = call.serve, call.seller
        self._tell(call, what)
        if held:
            serve.free += 1
            if serve.waiting:
                serve.free -= 1
                self._send(serve.waiting.popleft())
        if serve.queues[seller]:
            self._ask_for_place(serve.queues[seller].popleft())
        else:
            serve.held[seller] -= 1

    def _tell(self, call: Call, what: str) -> None:
        self.told.append((call.asked_at, what))


def day(world: World, payments: int, seed: int) -> Iterator[tuple[float, int]]:
    """A day's arrivals. Sellers are as popular as one over their rank."""
    chance = random.Random(seed)
    weights = [1 / (1 + rank) for rank in range(world.sellers)]
    moments = chance.choices(range(24), HOURS, k=payments)
    sellers = chance.choices(range(world.sellers), weights, k=payments)
    yield from sorted(zip((3600 * (hour + chance.random()) for hour in moments), sellers, strict=True))


def slow(now: float) -> float:
    """The provider's median at a second of the day."""
    hour = now / 3600
    for (before, low), (after, high) in pairwise(SLOW):
        if before <= hour < after:
            return low + (high - low) * (hour - before) / (after - before)
    return SLOW[-1][1]


def unknown_for(world: World, moments: list[float]) -> list[float]:
    """How long each unknown payment stays so, in seconds: people settle one after the other, the oldest first."""
    free_at, waits = 0.0, []
    for moment in moments:
        free_at = max(free_at, moment + world.late_effect_s) + 3600 / world.settled_per_hour
        waits.append(free_at - moment)
    return waits


def report(simulation: Simulation) -> None:
    """By the hour: what callers were told."""
    kinds = ("made", "unknown", "shop_busy", "circuit_open", "no_place", "no_connection")
    by_hour: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for moment, what in simulation.told:
        by_hour[int(moment // 3600)][what] += 1
    print("hour  provider s " + "".join(f"{kind:>14}" for kind in kinds) + "     503")
    for hour, told in sorted(by_hour.items()):
        refused = sum(told[kind] for kind in kinds[2:])
        figures = "".join(f"{told[kind]:>14,}" for kind in kinds)
        print(f"{hour:>4}  {slow(3600 * hour + 1800):>10.1f} {figures}{refused / told.total():>8.1%}")
    total = Counter(what for _, what in simulation.told)
    print("all              " + "".join(f"{total[kind]:>14,}" for kind in kinds))
    waits = sorted(unknown_for(simulation.world, sorted(at for at, what in simulation.told if what == "unknown")))
    if waits:
        middle, longest = waits[len(waits) // 2] / 60, waits[-1] / 60
        print(f"{len(waits):,} unknown, settled by people: half of them within {middle:.0f} min, all in {longest:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sellers", type=int, default=7)
    parser.add_argument("--payments", type=int, default=7_000, help="in the day")
    parser.add_argument("--serves", type=int, default=1)
    parser.add_argument("--max-calls", type=int, default=KaspiSettings.max_calls, help="KASPI_MAX_CALLS")
    parser.add_argument("--no-breaker", action="store_true", help="KASPI_BREAKER_FAILURES=0")
    parser.add_argument("--postgres-cores", type=int, default=2)
    parser.add_argument("--settled-per-hour", type=float, default=120, help="unknown payments that people look up")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--check", action="store_true", help="beside one real service, for a minute")
    given = parser.parse_args()
    if given.check:
        from valentine_check import check  # noqa: PLC0415 - it starts a PostgreSQL

        check(given.seed, given.sellers)
        return
    failures = 0 if given.no_breaker else KaspiSettings.breaker_failures
    settings = KaspiSettings(url="", access_token="", max_calls=given.max_calls, breaker_failures=failures)
    world = World(
        given.sellers,
        given.serves,
        settings,
        postgres_cores=given.postgres_cores,
        settled_per_hour=given.settled_per_hour,
    )
    simulation = Simulation(world, slow, given.seed)
    simulation.run(day(world, given.payments, given.seed))
    report(simulation)


if __name__ == "__main__":
    main()
