"""Every process is replaced while clients ask without pause, through nginx as docs/deploy.md configures it.

Clients create, refund, read and wait; calls are under way at every moment. Beside the laws of the checker: whoever
asks on is answered in the end; no 5xx but problems that say that nothing was sent; nginx itself answers in the place of
a process only while nobody listens at its address, and then it has sent nothing; it sends no payment a second time.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from faults import checker
from faults.balancer import DEFAULT, OFF, Nginx, Passed
from faults.bench import Bench
from faults.clients import Asked, Clients, Told
from faults.kills import Crowd
from faults.proxy import Call
from faults.rig import Rig
from tests.support.processes import Process

_SETTINGS: Final = {"KASPI_DEADLINE_S": "6", "SENDING_LEASE_S": "10"}
"""Patient, so that a busy machine leaves little unknown."""
NOT_SENT: Final = frozenset({"draining", "not_sent", "database_unavailable", "too_many_connections", "no_room_to_wait"})
"""Codes of 5xx which say that nothing was sent."""
_FAIL_TIMEOUT_S: Final = 2.0
"""As docs/deploy.md sets it: for so long nginx leaves a process out that did not listen."""
_SLOWEST_S: Final = 0.8
"""Calls take up to so long, so that some are under way whenever a process is told to end."""
_READERS: Final = 6
"""Clients who read without pause: nginx uses its kept connections at every moment, and opens new ones."""
_NOBODYS: Final = "00000000-0000-4000-8000-000000000000"


@dataclass(slots=True)
class _Play:
    """A rig behind nginx."""

    rig: Rig
    nginx: Nginx
    places: range
    """Which of the services, and of the workers, are replaced."""

    @property
    def ports(self) -> list[int]:
        """Where the services listen."""
        return [service.port for service in self.rig.services]

    async def replace_worker(self, place: int, end: Callable[[Process], Awaitable[object]]) -> None:
        """End a worker and start another."""
        await end(self.rig.workers[place])
        self.rig.workers[place] = self.rig.start_worker()

    async def replace_in_place(self, place: int, end: Callable[[Process], Awaitable[object]]) -> None:
        """End a service and start another at the same address; nginx is told nothing."""
        old = self.rig.services[place]
        await end(old)
        self.rig.services[place] = await self.rig.start_service(old.port).ready(within_s=60)
        await asyncio.sleep(1.5 * _FAIL_TIMEOUT_S)  # else both may be left out at once

    async def take_out(self, place: int) -> None:
        """Start a service at another address, let nginx ask it in the place of an old one, then end that."""
        old = self.rig.services[place]
        self.rig.services[place] = await self.rig.start_service().ready(within_s=60)
        await self.nginx.reload(self.ports)
        await _in_order(old)


async def _in_order(process: Process) -> None:
    code = await process.stop()
    assert code == 0, f"{process.name} ended with {code}"


async def taken_out(play: _Play) -> None:
    """As docs/deploy.md says: nginx is reloaded first, and its old workers have ended before SIGTERM."""
    for place in play.places:
        await play.take_out(place)
    for place in play.places:
        await play.replace_worker(place, _in_order)


async def left_in(play: _Play) -> None:
    """SIGTERM, and the next process at the same address; nginx is told nothing."""
    for place in play.places:
        await play.replace_in_place(place, _in_order)
    for place in play.places:
        await play.replace_worker(place, _in_order)


async def killed(play: _Play) -> None:
    """SIGKILL, and the next process at the same address; nginx is told nothing."""
    for place in play.places:
        await play.replace_in_place(place, Process.kill)
    for place in play.places:
        await play.replace_worker(place, Process.kill)


_PLAYS: Final[dict[str, tuple[Callable[[_Play], Awaitable[None]], str]]] = {
    "taken out": (taken_out, OFF),
    "left in": (left_in, OFF),
    "left in, default of nginx": (left_in, DEFAULT),
    "killed": (killed, OFF),
    "killed, default of nginx": (killed, DEFAULT),
}
"""What is done, and after what nginx asks another process."""
CASES: Final = tuple(_PLAYS)
SLICE: Final = CASES[:1]


async def run(bench: Bench) -> None:
    """Every case, a quarter of ``bench.runs`` times."""
    runs = 1 if bench.short else max(bench.runs // 4, 1)
    async with bench.another_rig(_SETTINGS, workers=1 if bench.short else 2) as rig:
        for case in bench.cases(SLICE if bench.short and bench.only is None else CASES):
            for number in range(runs):
                await _play(bench, rig, case, number)


async def _play(bench: Bench, rig: Rig, case: str, number: int) -> None:
    action, repeats = _PLAYS[case]
    folder = rig.folder / f"nginx-{CASES.index(case)}-{number}"
    ports, places = [service.port for service in rig.services], range(1 if bench.short else len(rig.services))
    async with Nginx(folder, ports, repeats=repeats) as nginx, _slow_calls(rig, bench.random):
        clients = Clients(rig, bench.random, through=nginx)
        crowd = _Crowd(clients, bench.random)
        asking = [asyncio.create_task(crowd.keep_asking())]
        asking += [asyncio.create_task(crowd.keep_reading()) for _ in range(0 if bench.short else _READERS)]
        try:
            await asyncio.sleep(1)
            await action(_Play(rig, nginx, places))
            await asyncio.sleep(0.5)
        finally:
            for task in asking:
                task.cancel()
            await crowd.leave()
        passed = nginx.taken()
    told = clients.taken()
    found = crowd.without_an_answer() + _answers(told, passed, case)
    bench.tell(found, case)
    found += await bench.check(told, may_be_unknown=True, rig=rig, case=case)
    slowest = max(one.seconds for one in told if one.status is not None)
    bench.count(case, "mixed", 2 * len(places), told, found, bench.books.unknown, slowest, rig=rig)


def _answers(told: list[Told], passed: list[Passed], case: str) -> list[str]:
    """What no client may be told, and what nginx may not do."""
    action, repeats = _PLAYS[case]
    listens_always = action is taken_out
    found = _cut_short(told) if action is not killed else []
    found += [
        f"only_what_was_not_sent_is_refused: {checker.who(one)} was told {one.status} {one.body}"
        for one in told
        if (one.status or 0) >= 500 and not one.unanswered and one.body.get("code") not in NOT_SENT
    ]
    found += [
        f"answered: {checker.who(one)} by nginx: {one.error}"
        for one in told
        # A process that is killed between the head and the body of its answer leaves nginx nothing to answer with.
        if one.status is None and not (action is killed and "without sending complete message body" in one.error)
    ]
    for one in passed:
        if one.repeated_after_sending and (repeats == OFF or one.what.startswith("POST ")):
            found.append(f"never_again: nginx repeated {one}")
        if one.status in {502, 504}:
            sent = any(attempt.sent for attempt in one.attempts)
            if action is not killed and (sent or listens_always or repeats != OFF):
                found.append(f"orderly_end: nginx answered in the place of a process: {one}")
    if listens_always:
        found += [
            f"taken_out: {checker.who(one)} was told {one.body}" for one in told if one.body.get("code") == "draining"
        ]
    return found


def _cut_short(told: list[Told]) -> list[str]:
    """Whose outcome is not known although its call may not have had its time. After that time the machine was slow."""
    begun: dict[str, float] = {}
    found = []
    for one in sorted(told, key=lambda one: one.at - one.seconds):
        if (key := one.asked.key) is None:
            continue
        first = begun.setdefault(key, one.at - one.seconds)
        if one.status == 202 and one.at - first < float(_SETTINGS["KASPI_DEADLINE_S"]):
            found.append(f"cut_short: {checker.who(one)} was told 202 after {one.at - first:.1f} s")
    return found


@contextlib.asynccontextmanager
async def _slow_calls(rig: Rig, chance: random.Random) -> AsyncIterator[None]:
    """Let every call that moves money take a while at the wire."""

    async def slowly(call: Call) -> bool:
        await asyncio.sleep(chance.uniform(0, _SLOWEST_S))
        await call.say((await call.apply()).whole)
        return False

    verbs = ("create", "create-link", "refund")
    for verb in verbs:
        rig.proxy.plan(verb, "", slowly, times=None)
    try:
        yield
    finally:
        for verb in verbs:
            rig.proxy.forget(verb, "")


class _Crowd(Crowd):
    """Clients of whom some wait for a payment to change."""

    refused = Crowd.refused | {"payment_not_paid"}
    """On a slow machine the service may learn late that a payment is paid."""

    def verbs(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What a client may have to do."""
        return [*super().verbs(), self._wait]

    async def keep_reading(self) -> None:
        """Look for a payment that nobody made, again and again, until cancelled."""
        while True:
            told = await self._clients.ask(Asked(op="status", waits_for=_NOBODYS))
            await asyncio.sleep(3 * told.seconds)  # a slow machine has other things to do

    async def _wait(self) -> None:
        if not self.last_words:
            return await self._create()
        payment_id = str(self._chance.choice(self.last_words).body.get("id"))
        await self._clients.insist(Asked(op="status", waits_for=payment_id))
        return None
