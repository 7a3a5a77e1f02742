"""The family of the slow proxy: an answer that comes later than clients wait, and equal requests meanwhile.

A window of equal requests must not end before the call does: a service refuses to start with one that could. With the
window off, and with the shortest that is allowed, what may have left still blocks its like.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from faults import checker
from faults.bench import Bench
from faults.clients import Clients, Told
from faults.rig import Rig
from faults.wishes import Wish, in_mid_call, wishes
from tests.support.processes import Process

_SETTINGS: Final = {
    "KASPI_DEADLINE_S": "3",
    "SENDING_LEASE_S": "5",
    "SWEEP_EVERY_S": "1",
    "DUPLICATE_WINDOW_S": "6",
    "LATE_EFFECT_S": "0",
}
"""The window is the shortest that there may be: lease and sweep together."""
_SLOW_S: Final = 2.2
"""Within the deadline, and longer than the window of a second."""
_BEYOND_S: Final = 3.6
"""Later than the deadline, within the lease."""
EACH: Final = 2


@dataclass(slots=True)
class _Play:
    """Clients who ask one service for the same again and again while their calls are under way."""

    clients: Clients
    service: Process
    asked_for: list[Wish]
    applied: bool
    wrong: list[str] = field(default_factory=list)

    async def slow_for(self, seconds: float, asked_again_at: Sequence[float]) -> list[Told]:
        """Hold every call for so long, and ask for the same at these moments; the answers to those who asked first."""
        async with in_mid_call(self.clients, self.asked_for, self.service, applied=self.applied) as (held, asking):
            begun = min(hold.since for hold in held)
            ends = begun if seconds < self.clients.rig.seconds("KASPI_DEADLINE_S") else max(hold.since for hold in held)
            for moment in asked_again_at:
                await asyncio.sleep(max(begun + moment - time.time(), 0))
                await self.ask_again({(409, checker.NO_ANSWER_YET)} if moment < seconds else {(202, None)})
            await asyncio.sleep(max(ends + seconds - time.time(), 0))
            for hold in held:
                hold.go.set()
            return await asyncio.gather(*asking)

    async def ask_again(self, allowed: set[tuple[int, str | None]]) -> None:
        """Ask for the same once more."""
        for told in await asyncio.gather(*(self.clients.ask(wish.again(), self.service) for wish in self.asked_for)):
            self.expect(told, allowed)

    def expect(self, told: Told, allowed: set[tuple[int, str | None]]) -> None:
        """Write down an answer that nobody may be told."""
        if (told.status, told.body.get("code")) not in allowed:
            self.wrong.append(f"answers: {checker.who(told)} was told {told.status} {told.body}")


async def window_shorter_than_a_call(play: _Play) -> None:
    """A window of a second: refused at the start, or harmless all the same."""
    rig = play.clients.rig
    hasty = rig.start_service(DUPLICATE_WINDOW_S="1")
    try:
        play.service = await hasty.ready()
    except RuntimeError:
        if "DUPLICATE_WINDOW_S" not in hasty.written:
            play.wrong.append(f"refused_at_start: {hasty.written[-500:]}")
        return
    await play.slow_for(_SLOW_S, (1.4,))
    await hasty.kill()


async def no_window(play: _Play) -> None:
    """The window is off: a call under way still blocks its like."""
    rig = play.clients.rig
    play.service = await rig.serve(DUPLICATE_WINDOW_S="0")
    for told in await play.slow_for(_SLOW_S, (0.2, 1.4)):
        play.expect(told, {(200, None)})
    await play.service.kill()


async def no_window_unknown(play: _Play) -> None:
    """The window is off, and the call's end is not known: it blocks its like until somebody says."""
    rig = play.clients.rig
    play.service = await rig.serve(DUPLICATE_WINDOW_S="0")
    await _unknown(play)
    await play.service.kill()


async def least_window(play: _Play) -> None:
    """The shortest window: whoever asks again within it is told of the one payment."""
    for told in await play.slow_for(_SLOW_S, (0.2, 1.4)):
        play.expect(told, {(200, None)})
    await play.ask_again({(200, None)})


async def least_window_unknown(play: _Play) -> None:
    """The shortest window, and a proxy that answers later than anybody waits: equal requests after the window too."""
    await _unknown(play)


async def _unknown(play: _Play) -> None:
    begun = time.time()
    for told in await play.slow_for(_BEYOND_S, (0.5,)):
        play.expect(told, {(202, None)})
    await play.ask_again({(202, None)})
    await asyncio.sleep(max(begun + play.clients.rig.seconds("DUPLICATE_WINDOW_S") + 0.5 - time.time(), 0))
    await play.ask_again({(202, None)})


_PLAYS: Final[dict[str, Callable[[_Play], Awaitable[None]]]] = {
    play.__name__: play
    for play in (window_shorter_than_a_call, no_window, no_window_unknown, least_window, least_window_unknown)
}
CASES: Final = list(_PLAYS)
_MAY_BE_UNKNOWN: Final = frozenset({no_window_unknown.__name__, least_window_unknown.__name__})


async def run(bench: Bench) -> None:
    """Every case, an eighth of ``bench.runs`` times: each run is dozens of clients."""
    runs, each = (1, 1) if bench.short else (max(bench.runs // 8, 1), EACH)
    async with bench.another_rig(_SETTINGS, services=1, workers=1) as rig:
        for case in bench.cases(CASES):
            for number in range(runs):
                await _play(bench, rig, case, each, applied=bool(number % 2))


async def _play(bench: Bench, rig: Rig, case: str, each: int, *, applied: bool) -> None:
    clients = Clients(rig, bench.random)
    play = _Play(clients, rig.services[0], await wishes(clients, each), applied)
    await _PLAYS[case](play)
    bench.tell(play.wrong, case)
    told = clients.taken()
    found = await bench.check(told, may_be_unknown=case in _MAY_BE_UNKNOWN, rig=rig, case=case)
    slowest_s = max(one.seconds for one in told)
    bench.count(case, "all", len(play.asked_for), told, [*play.wrong, *found], bench.books.unknown, slowest_s, rig=rig)
