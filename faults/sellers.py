"""The family of sellers: what befalls one shop must not befall another.

Calls of some shops fail or hang at the proxy, for as long as the case lasts; the shops that nothing befalls go on
making payments, links and refunds and reading statuses, each within its time.
"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from faults import checker, courses
from faults.bench import Bench
from faults.clients import Asked, Clients, Op, Told
from faults.courses import applied, says
from faults.proxy import Course
from faults.rig import Rig
from faults.wishes import WAITS
from tests.support.proxy import http
from tests.support.shops import SHOPS

_SETTINGS: Final = {
    "KASPI_BREAKER_FAILURES": "10",
    "KASPI_BREAKER_PAUSE_S": "2",
    "KASPI_MAX_CALLS": "16",
    "KASPI_MAX_READINGS": "8",
    "KASPI_DEADLINE_S": "8",
    "SENDING_LEASE_S": "12",
}
"""Breaker and deadline as in production; a lane so narrow that one shop alone could fill it."""
FAILING, HEALTHY = 576631, 121038
_PAYS_WITHIN_S: Final = 5.0
"""Within so many seconds a shop that nothing befalls is answered: long before a call that hangs ends."""
_READS_WITHIN_S: Final = 9.0
"""A status that cannot be read is answered from the record, in time."""
_LASTS_S: Final = 8
_LASTS_IN_SHORT_S: Final = 4
_BEGINS_S: Final = 1
"""For so long the one fails before anybody looks at the other."""
_PARTS: Final = 2_000
"""Refunds of so many different sums are there to ask for, of 1 tenge and up: a seller in trouble asks for hundreds."""
_PAID: Final = _PARTS * (_PARTS + 1) // 2 * 100
"""All of them together, in tiyn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What befalls the calls of one shop, and how many it makes at once."""

    course: Course
    ops: tuple[Op, ...] = ("create", "create-link", "refund")
    at_once: int = 6
    pause_s: float = 0.05
    may_be_unknown: bool = True


TROUBLES: Final = {
    "answers_500": Trouble(course=says(http(500, b"oh"))),
    "applied_and_500": Trouble(course=applied(says(http(500, b"oh")))),
    "resets": Trouble(course=courses.reset),
    "refuses": Trouble(course=says(http(403, b"no")), may_be_unknown=False),
    "hangs": Trouble(course=courses.hang, at_once=40),
    "drips": Trouble(course=courses.drips, at_once=40),
    "readings_hang": Trouble(course=courses.hang, ops=("status",), at_once=24),
    "readings_answer_500": Trouble(course=says(http(500, b"oh")), ops=("status",), at_once=12),
}
CASES: Final = list(TROUBLES)


@dataclass(slots=True)
class _Sellers:
    """One shop in trouble, and one that is well."""

    rig: Rig
    clients: Clients
    paid: dict[int, Told]
    waiting: dict[int, Told]
    over: bool = False
    told: dict[int, list[Told]] = field(default_factory=lambda: {FAILING: [], HEALTHY: []})

    async def keep_asking(self, shop_id: int, ops: Sequence[Op], pause_s: float) -> None:
        """One client of a shop: one wish after the other, until it is over."""
        for number in itertools.count():
            if self.over:
                return
            self.told[shop_id].append(await self.clients.ask(self._wish(shop_id, ops[number % len(ops)])))
            await asyncio.sleep(pause_s)

    def _wish(self, shop_id: int, op: Op) -> Asked:
        if op == "status":
            return Asked(op="status", shop_id=shop_id, external_id=self.waiting[shop_id].body["external_id"])
        if op == "refund":
            part = self.clients.part_of(self.paid[shop_id], _PARTS)
            assert part is not None, "every part was refunded: the load needs more of them"
            return part
        asked = self.clients.payment(op, shop_id=shop_id)
        return replace(asked, phone=WAITS) if op == "create" else asked


async def run(bench: Bench) -> None:
    """Every trouble, a twentieth of ``bench.runs`` times, in a rig of its own."""
    lasts_s, runs = (_LASTS_IN_SHORT_S, 1) if bench.short else (_LASTS_S, max(bench.runs // 20, 1))
    for case in bench.cases(CASES):
        for _ in range(runs):
            async with bench.another_rig(_SETTINGS, services=1, workers=1) as rig:
                await _play(bench, rig, case, lasts_s)


async def _play(bench: Bench, rig: Rig, case: str, lasts_s: float) -> None:
    trouble, clients = TROUBLES[case], Clients(rig, bench.random)
    both = (FAILING, HEALTHY)
    paid = {shop_id: await clients.paid(shop_id=shop_id, amount=_PAID) for shop_id in both}
    waiting = {shop_id: await clients.insist(clients.payment(shop_id=shop_id, phone=WAITS)) for shop_id in both}
    sellers = _Sellers(rig, clients, paid, waiting)
    for op in trouble.ops:
        name = waiting[FAILING].body["external_id"] if op == "status" else f"BIN {SHOPS[FAILING]}"
        rig.proxy.plan(op, name, trouble.course, times=None)
    asking = [
        asyncio.create_task(sellers.keep_asking(FAILING, trouble.ops, trouble.pause_s)) for _ in range(trouble.at_once)
    ]
    await asyncio.sleep(_BEGINS_S)
    began = time.monotonic()
    everything: tuple[Op, ...] = ("create", "create-link", "refund", "status")
    asking += [
        asyncio.create_task(sellers.keep_asking(HEALTHY, (*everything[n:], *everything[:n]), 0.1)) for n in range(4)
    ]
    await asyncio.sleep(lasts_s - (time.monotonic() - began))
    sellers.over = True
    await asyncio.gather(*asking)
    for op in trouble.ops:
        for name in (waiting[FAILING].body["external_id"], f"BIN {SHOPS[FAILING]}"):
            rig.proxy.forget(op, name)

    wrong = _too_late(sellers.told[HEALTHY])
    bench.tell(wrong, case)
    told, unharmed = clients.taken(), frozenset({HEALTHY})
    wrong += await bench.check(told, may_be_unknown=trouble.may_be_unknown, rig=rig, case=case, unharmed=unharmed)
    for shop_id, verb, found in ((HEALTHY, "the others", wrong), (FAILING, "the one in trouble", [])):
        mine = sellers.told[shop_id]
        unknown = sum(one.status == 202 for one in mine)
        bench.count(case, verb, len(mine), mine, found, unknown, max(one.seconds for one in mine), rig=rig)


def _too_late(others: Sequence[Told]) -> list[str]:
    """Who of a shop that nothing befalls had to wait for another one's calls."""
    late = [
        told for told in others if told.seconds > (_READS_WITHIN_S if told.asked.op == "status" else _PAYS_WITHIN_S)
    ]
    return [f"alone: {checker.who(told)} waited {told.seconds:.1f} s" for told in late]
