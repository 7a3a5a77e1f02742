"""Kills at random moments of random processes, while clients make payments, links, refunds and status requests.

The clients are good ones: whoever gets no answer, a 409 or a 503 asks again with the same key. The rig starts again
what was killed, as a supervisor would. After each round everything settles and is compared.
"""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

from faults import checker
from faults.bench import Bench
from faults.clients import PAYS_AT_ONCE, PHONES, Asked, Clients, Told

ROUNDS: Final = 25
KILLS_PER_ROUND: Final = 20
"""500 kills in all; ``--runs`` sets the kills of a round."""
REQUESTS_PER_S: Final = 20
MOST_AT_ONCE: Final = 60
"""Clients that wait for an answer; while there are so many, no new ones come."""
CASES: Final = tuple(f"round {number}" for number in range(1, ROUNDS + 1))
SLICE_KILLS: Final = 3
WHAT: Final = f"kill -9 at a random moment, under {REQUESTS_PER_S} requests/s"


async def run(bench: Bench) -> None:
    """Play the rounds."""
    kills = SLICE_KILLS if bench.short else bench.runs
    for case in bench.cases(CASES[:1] if bench.short and bench.only is None else CASES):
        await _round(bench, case, kills)


async def _round(bench: Bench, case: str, kills: int) -> None:
    crowd = Crowd(bench.clients, bench.random)
    asking = asyncio.create_task(crowd.keep_asking())
    try:
        await _kill(bench, kills)
    finally:
        asking.cancel()
        await crowd.leave()
    told = bench.clients.taken()
    found = crowd.without_an_answer()
    bench.tell(found, case)
    found += await bench.check(told, may_be_unknown=True, case=case)
    slowest = max(one.seconds for one in told if one.status is not None)
    bench.count(WHAT, "mixed", kills, told, found, bench.books.unknown, slowest)


async def _kill(bench: Bench, kills: int) -> None:
    """Kill somebody, wait a moment, start them again; now and then two at once."""
    rig, chance = bench.rig, bench.random
    done = 0
    while done < kills:
        await asyncio.sleep(chance.uniform(0.05, 0.6))
        everybody = [process for process in (*rig.services, *rig.workers) if process.alive]
        victims = chance.sample(everybody, min(chance.choice((1, 1, 1, 2)), kills - done))
        await asyncio.gather(*(victim.kill() for victim in victims))
        done += len(victims)
        await asyncio.sleep(chance.uniform(0, 0.1))
        await rig.heal()


class Crowd:
    """The clients: a new one every twentieth of a second, each with one thing to do."""

    in_order: Final = frozenset({200, 202})
    """What a good client is told in the end, when nothing but kills goes wrong."""
    refused: frozenset[str] = frozenset({"refund_exceeds_remainder"})
    """Codes with which a refund may be refused in the end all the same."""

    def __init__(self, clients: Clients, chance: random.Random) -> None:
        self._clients, self._chance = clients, chance
        self._paid: list[Told] = []
        self._at_work: set[asyncio.Task[None]] = set()
        self.last_words: list[Told] = []

    def verbs(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What a client may have to do, each as often as it is here."""
        return [self._create, self._create, self._link, self._refund, self._status]

    async def keep_asking(self) -> None:
        """Send clients until cancelled."""
        verbs = self.verbs()
        next_at = time.monotonic()
        while True:
            if len(self._at_work) < MOST_AT_ONCE:
                task = asyncio.create_task(self._chance.choice(verbs)())
                self._at_work.add(task)
                task.add_done_callback(self._at_work.discard)
            next_at += 1 / REQUESTS_PER_S
            await asyncio.sleep(max(next_at - time.monotonic(), 0))

    async def leave(self) -> None:
        """Let every client get its last answer."""
        await asyncio.gather(*self._at_work)

    def without_an_answer(self) -> list[str]:
        """Those who were told in the end what nobody is told when nothing but kills goes wrong."""
        return [
            f"answers_in_the_end: {checker.who(last)} was at last told {last.status} {last.body}"
            for last in self.last_words
            if last.status not in self.in_order
        ]

    async def _create(self) -> None:
        phone = self._chance.choice((PAYS_AT_ONCE, *PHONES[:2]))
        await self._made(await self._clients.insist(self._clients.payment(phone=phone)))

    async def _link(self) -> None:
        await self._made(await self._clients.insist(self._clients.payment("create-link")))

    async def _made(self, last: Told) -> None:
        self.last_words.append(last)
        if last.status == 200 and last.asked.phone == PAYS_AT_ONCE:
            self._paid.append(last)

    async def _refund(self) -> None:
        """One of many parts of a payment; a payment that nobody saw as paid is looked at by the service itself."""
        if not self._paid:
            return await self._create()
        paid = self._chance.choice(self._paid)
        part = self._clients.part_of(paid, (paid.asked.amount or 0) // 2_000)
        if part is None:
            return await self._create()
        last = await self._clients.insist(part)
        if last.body.get("code") not in self.refused:
            self.last_words.append(last)
        return None

    async def _status(self) -> None:
        if not self._paid:
            return await self._create()
        paid = self._chance.choice(self._paid)
        await self._clients.insist(Asked(op="status", external_id=paid.body["external_id"]))
        return None
