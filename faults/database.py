"""The family of the database: lines cut and processes ended at each statement, a server that is away, frozen or full.

A fault of the database hides nothing from the service: what was sent was sent by a process that lives, and it insists
on writing down what came of it. So nothing may stay unknown here, and a good client is told 200 in the end.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final

from faults import outages
from faults.bench import Bench
from faults.clients import PAYS_AT_ONCE, PHONES, Asked, Clients, Told
from faults.rig import Rig
from tests.support.processes import Process
from tests.support.relay import Cut, Relay
from tests.support.waiting import until

SAYS_SO_WITHIN_S: Final = {"restarted": 2.0, "frozen": 2.0, "crowded_out": 2.0, "disk_full": 2.0}
"""How soon a service says 503."""
SERVES_AGAIN_WITHIN_S: Final = 10
CUTS: Final = {
    "killed_before": (False, True),
    "killed_after": (True, True),
    "cut_before": (False, False),
    "cut_after": (True, False),
}
"""Case -> whether the statement is carried out first, and whether the server's process ends or only the line."""
COMMIT_UNHEARD: Final = "commit_unheard"
OUTAGES: Final = {
    "restarted": outages.restarted,
    "frozen": outages.frozen,
    "crowded_out": outages.crowded_out,
    "disk_full": outages.disk_full,
}
CASES: Final = [*CUTS, COMMIT_UNHEARD, *OUTAGES]
"""What ``make test`` runs."""
_MOST_STATEMENTS: Final = 80
_TURNS: Final = 24
"""How many statements of a worker are cut, one after the other, from the moment when there is a payment to follow."""
_COMMITS: Final = 3
_BIG: Final = 1_000_000
"""Tiyn of a payment that is refunded bit by bit."""


async def run(bench: Bench) -> None:
    """Every fault of the database."""
    for case in bench.cases(CASES):
        if case == "disk_full" and not outages.can_mount():
            sys.stderr.write("disk_full is left out: only root can mount a small disk\n")
        elif case in OUTAGES:
            await _outage(bench, case)
        else:
            await _cuts(bench, case)


# --- cut at each statement


@dataclass(slots=True)
class _Lane:
    """A service, or a worker, that reaches the database through a relay of its own."""

    rig: Rig
    clients: Clients
    verb: str
    relay: Relay
    service: Process
    """Whom the clients of this lane ask."""
    paid: Told | None = None
    """What the refunds are of."""
    played: int = 0
    told: list[Told] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    async def play(self, case: str, times: int, *, step: int = 1) -> None:
        """Cut this lane's line at each of its statements (or at every ``step``-th), or at each of its commits."""
        if self.verb == "refund":
            self.paid = await self._paid()
        for _ in range(times):
            if case == COMMIT_UNHEARD:
                for commit in range(1, _COMMITS + 1):
                    self.relay.lose_next_commit(commit)
                    await self._once()
                self.relay.lose_next_commit(0)
                continue
            after, kills = CUTS[case]
            last = _TURNS if self.verb == "follow" else _MOST_STATEMENTS
            for statement in range(1, last + 1, step):
                self.relay.cut_at(Cut(statement, after=after, kill=self._kill if kills else None))
                await self._once()
                if not self.relay.is_cut:
                    break  # there is no such statement: they were all cut
            self.relay.count()

    async def _kill(self, process: int) -> None:
        """End a process of the server, and wait until it is gone."""
        await self.rig.pool.execute("SELECT pg_terminate_backend($1, 2000)", process)

    async def _once(self) -> None:
        self.played += 1
        if self.verb == "follow":
            await self._follow()
            return
        told = await self._insist(self._wish())
        if told.status != 200:
            self.wrong.append(f"answers_in_the_end: {told}")

    def _wish(self) -> Asked:
        if self.verb == "refund":
            assert self.paid is not None
            return self.clients.refund_of(self.paid, self.played * 100)
        return self.clients.payment("create" if self.verb == "create" else "create-link")

    async def _follow(self) -> None:
        made = await self._insist(self.clients.payment(phone=PAYS_AT_ONCE))

        async def paid() -> bool:
            state = await self.rig.pool.fetchval(
                "SELECT state FROM payment WHERE external_id = $1", made.body["external_id"]
            )
            return bool(state == "paid")

        try:
            await until(paid, "followed", within_s=15)
        except TimeoutError:
            self.wrong.append(f"followed_to_its_end: nobody learned that {made.body['external_id']} was paid")

    async def _paid(self) -> Told:
        made = await self._insist(self.clients.payment(phone=PAYS_AT_ONCE, amount=_BIG))
        await self._insist(Asked(op="status", external_id=made.body["external_id"]))
        return made

    async def _insist(self, asked: Asked) -> Told:
        """Ask this lane's service again and again with the same key, as a good client does."""
        give_up_at = time.monotonic() + 20
        while True:
            told = await self.clients.ask(asked, self.service)
            self.told.append(told)
            if told.status not in {None, 409, 503} or time.monotonic() > give_up_at:
                return told
            await asyncio.sleep(0.05)


async def _cuts(bench: Bench, case: str) -> None:
    times = 1 if bench.short else max(bench.runs // 10, 1)
    verbs = ["create", "refund"] if bench.short else ["create", "create-link", "refund", "follow"]
    async with _lanes(bench, case, verbs) as (rig, lanes):
        await asyncio.gather(*(lane.play(case, times, step=4 if bench.short else 1) for lane in lanes))
        found = await _check(bench, rig, lanes[0].clients, case)
        for lane in lanes:
            bench.tell(lane.wrong, case)
            slowest_s = max(told.seconds for told in lane.told)
            violations = [*lane.wrong, *(found if lane is lanes[0] else ())]
            bench.count(case, lane.verb, lane.played, lane.told, violations, 0, slowest_s, rig=rig)
        await bench.check_all(rig)


@contextlib.asynccontextmanager
async def _lanes(bench: Bench, case: str, verbs: list[str]) -> AsyncIterator[tuple[Rig, list[_Lane]]]:
    """A rig in which each verb has a service of its own (following: a worker), behind a relay of its own."""
    async with contextlib.AsyncExitStack() as stack:
        rig = await bench.new_rig(case, services=0, workers=0)
        await stack.enter_async_context(rig)
        clients = Clients(rig, bench.random)
        lanes = []
        for verb in verbs:
            relay = Relay(rig.database_url)
            await relay.start()
            stack.push_async_callback(relay.stop)
            rig.database_path = relay.url
            if verb == "follow":
                rig.workers.append(rig.start_worker())
                rig.database_path = None
            service = rig.start_service()
            rig.services.append(service)
            lanes.append(_Lane(rig, clients, verb, relay, service))
        rig.database_path = None
        if not rig.workers:
            rig.workers.append(rig.start_worker())
        await rig.heal()
        yield rig, lanes
        # The processes go first: a relay would wait for their lines.
        for process in (*rig.services, *rig.workers):
            await process.kill()


# --- away for a while


@dataclass(slots=True)
class _Load:
    """Clients who keep asking, each insisting until it is told something."""

    clients: Clients
    paid: list[Told]
    last_words: list[Told] = field(default_factory=list)
    _at_work: set[asyncio.Task[None]] = field(default_factory=set)

    async def keep_asking(self) -> None:
        """A new client every quarter of a second, until cancelled."""
        chance = self.clients.random
        while True:
            wishes = [self.clients.payment(phone=chance.choice(PHONES)), self.clients.payment("create-link")]
            wish = chance.choice([*wishes, None]) or self.clients.part_of(chance.choice(self.paid), 49)
            task = asyncio.create_task(self._insist(wish or wishes[0]))
            self._at_work.add(task)
            task.add_done_callback(self._at_work.discard)
            await asyncio.sleep(0.25)

    async def _insist(self, asked: Asked) -> None:
        """Ask every second until there is an answer: hundreds who ask without a pause would be a fault of their own."""
        give_up_at = time.monotonic() + 60
        told = await self.clients.ask(asked)
        while told.status in {None, 409, 503} and time.monotonic() < give_up_at:
            await asyncio.sleep(0.5 + self.clients.random.random())
            told = await self.clients.ask(asked)
        self.last_words.append(told)

    async def answered(self) -> None:
        """Let every client get its last answer."""
        await asyncio.gather(*self._at_work)


async def _outage(bench: Bench, case: str) -> None:
    """Take the database away under load, ask meanwhile, give it back, and see how soon all is well again."""
    async with outages.rig_for(bench, case) as rig:
        clients = Clients(rig, bench.random)
        paid = [await clients.paid(amount=_BIG) for _ in range(4)]
        load = _Load(clients, paid)
        asking = asyncio.create_task(load.keep_asking())

        async def some_answers() -> bool:
            return len(load.last_words) > 5

        await until(some_answers, "the load has begun", within_s=10)
        outage: AbstractAsyncContextManager[float] = OUTAGES[case](bench, rig)
        async with outage as lasts_s:
            probes = await _probe(clients, paid[0], lasts_s)
        again_s = await _serving_again(clients)
        asking.cancel()
        await load.answered()
        await _nothing_in_doubt(rig)

        wrong = [f"answers_in_the_end: {told}" for told in load.last_words if told.status not in {200, 202}]
        wrong += _about_probes(case, probes)
        if again_s > SERVES_AGAIN_WITHIN_S:
            wrong.append(f"serves_again: {again_s:.1f} s after the end of {case}")
        bench.tell(wrong, case)
        told = clients.taken()
        wrong += await bench.check(told, may_be_unknown=False, rig=rig, case=case)
        slowest_s = max(one.seconds for one in told if one not in probes)
        bench.count(case, "load", len(load.last_words), told, wrong, 0, slowest_s, rig=rig)
        said_so = [told for told in probes if told.status == 503]
        soon_s = max((told.seconds for told in said_so), default=0)
        bench.count(case, "503 meanwhile", len(said_so), said_so, (), 0, soon_s, rig=rig)
        bench.count(case, "serving again", 1, (), (), 0, again_s, rig=rig)
        await bench.check_all(rig)


async def _probe(clients: Clients, paid: Told, lasts_s: float) -> list[Told]:
    """Ask for everything, over and over, for so long, and wait for the answers."""
    asking: list[asyncio.Task[Told]] = []
    ends_at = time.monotonic() + lasts_s
    while time.monotonic() < ends_at:
        wishes = [
            clients.payment(),
            clients.payment("create-link"),
            clients.refund_of(paid, 5_000),  # beyond the parts of the load
            Asked(op="status", external_id=paid.body["external_id"]),
        ]
        asking += [asyncio.create_task(clients.ask(asked)) for asked in wishes]
        await asyncio.sleep(0.5)
    return await asyncio.gather(*asking)


def _about_probes(case: str, probes: list[Told]) -> list[str]:
    """What is wrong with the answers of a service without its database."""
    said_so = [told for told in probes if told.status == 503]
    wrong = [f"says_so_soon: {told}" for told in said_so if told.seconds > SAYS_SO_WITHIN_S[case]]
    wrong += [f"says_so: {told}" for told in probes if told.status not in ({503} | outages.MAY_ALSO_BE_TOLD[case])]
    if not said_so:
        wrong.append(f"says_so: nobody noticed that the database was {case}")
    return wrong


async def _serving_again(clients: Clients) -> float:
    """Seconds until every service makes a payment again."""
    started = time.monotonic()
    for service in clients.rig.services:

        async def serves(service: Process = service) -> bool:
            return (await clients.ask(clients.payment(), service)).status == 200

        with contextlib.suppress(TimeoutError):
            await until(serves, "serving again", within_s=3 * SERVES_AGAIN_WITHIN_S, every_s=0.1)
    return time.monotonic() - started


async def _nothing_in_doubt(rig: Rig) -> None:
    """Wait until what was known is written down; what remains is for the checker to see."""
    with contextlib.suppress(TimeoutError):
        await rig.nothing_in_doubt()


async def _check(bench: Bench, rig: Rig, clients: Clients, case: str) -> list[str]:
    await _nothing_in_doubt(rig)
    return await bench.check(clients.taken(), may_be_unknown=False, rig=rig, case=case)
