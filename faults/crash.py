"""Crash points: at each of them a process dies by SIGKILL, others go on, and nothing may be lost or done twice.

Every run has a victim of its own, armed with one point. It is asked (or, a worker, given work), it dies there, and the
client asks again elsewhere with the same key, as a good client does.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from faults.bench import Bench
from faults.clients import PAYS_AT_ONCE, PAYS_LATE, Asked, Clients, Told
from faults.points import POINTS
from faults.rig import Rig
from tests.support.processes import Process
from tests.support.waiting import until

CASES: Final = POINTS
"""What ``make test`` runs."""
SETTINGS: Final = {"KASPI_DEADLINE_S": "1", "SENDING_LEASE_S": "1.8", "SWEEP_EVERY_S": "0.2"}
LANES: Final = 5
"""Points that are tried side by side, each in a rig of its own: a run is mostly waiting."""

HIDES_NOTHING: Final = frozenset({"before-tx1", "after-tx2", "before-answer"})
"""Places where everybody can tell afterwards whether the call left: nothing may stay unknown."""
_OPS: Final = {"create": "create", "link": "create-link", "refund": "refund"}


async def run(bench: Bench) -> None:
    """Try every point."""
    points = iter(bench.chosen(CASES))

    async def lane(rig: Rig) -> None:
        for point in points:
            await _try(bench, rig, point)

    async with contextlib.AsyncExitStack() as stack:
        others = 0 if bench.short else LANES - 1
        rigs = [
            bench.rig,
            *[
                await stack.enter_async_context(bench.another_rig(SETTINGS, services=1, workers=1))
                for _ in range(others)
            ],
        ]
        async with asyncio.TaskGroup() as lanes:
            for rig in rigs:
                lanes.create_task(lane(rig))


@dataclass(slots=True)
class _Lane:
    """One point, tried in one rig."""

    rig: Rig
    clients: Clients
    point: str

    @property
    def verb(self) -> str:
        return self.point.partition("/")[0]

    @property
    def place(self) -> str:
        return self.point.partition("/")[2]

    @property
    def armed(self) -> dict[str, str]:
        return {"FAULTS_CRASH": f"{self.point}:1", "FAULTS_MARK": str(self.rig.folder / "crashes")}

    async def died_there(self, victim: Process) -> list[str]:
        """Whether the victim died at the point, by SIGKILL."""
        try:
            code = await victim.ended(8)
        except TimeoutError:
            await victim.kill()
            return [f"dies_at_the_point: {victim.name} never came to {self.point}"]
        marks = self.rig.folder / "crashes"
        left = marks.read_text().splitlines() if marks.exists() else []
        if code != -signal.SIGKILL or f"{self.point} {victim.pid}" not in left:
            return [f"dies_at_the_point: {victim.name} ended with {code}, not at {self.point}"]
        return []


async def _try(bench: Bench, rig: Rig, point: str) -> None:
    """All runs of one point."""
    trial = _Lane(rig, Clients(rig, bench.random_of(point)), point)
    one_run = _money if trial.verb in _OPS else _worker
    told: list[Told] = []
    found: list[str] = []
    unknown = 0
    for _ in range(bench.runs):
        wrong = await one_run(trial)
        bench.tell(wrong, point)
        answers = trial.clients.taken()
        may_be_unknown = trial.place not in HIDES_NOTHING and trial.verb not in {"worker", "plan"}
        wrong += await bench.check(answers, may_be_unknown=may_be_unknown, rig=rig, case=point)
        found += wrong
        told += answers
        unknown += bench.books.unknown
    slowest = max((one.seconds for one in told if one.status is not None), default=0)
    bench.count(point, trial.verb, bench.runs, told, found, unknown, slowest, rig=rig)


async def _money(trial: _Lane) -> list[str]:
    """A service dies while it makes a payment, a link or a refund."""
    rig, clients = trial.rig, trial.clients
    victim = rig.start_service(**trial.armed)
    asked: Asked
    if trial.verb == "refund":
        paid, _ = await asyncio.gather(clients.paid(), victim.ready())
        asked = clients.refund_of(paid, clients.random.randrange(1, 100) * 100)
    else:
        await victim.ready()
        asked = clients.payment("create" if trial.verb == "create" else "create-link")
    last = await clients.insist(asked, first=victim)
    wrong = await trial.died_there(victim)
    heard = [told for told in clients.told if told.by == victim.name and told.status is not None]
    if heard:
        wrong.append(f"dies_at_the_point: {victim.name} answered {heard[0].status} before it died")
    expected = {200} if trial.place in HIDES_NOTHING else {200, 202}
    if last.status not in expected:
        wrong.append(f"answers_after_a_crash: {asked.op} was at last told {last.status} {last.body}")
    return wrong


async def _worker(trial: _Lane) -> list[str]:
    """A worker dies at its work; another one comes and does it."""
    rig, clients = trial.rig, trial.clients
    payment_id = ""
    async with _without_workers(rig):
        if trial.verb == "sweep":
            lost = await _lost_sender(trial, "create", clients.payment())
        elif trial.verb == "refund-sweep":
            paid = await clients.paid()
            lost = await _lost_sender(trial, "refund", clients.refund_of(paid, 5_000))
        else:
            lost = []
            phone = PAYS_LATE if trial.verb == "plan" else PAYS_AT_ONCE
            payment_id = str((await clients.insist(clients.payment(phone=phone))).body["id"])
        victim = rig.start_worker(**trial.armed)
        wrong = lost + await trial.died_there(victim)
    if payment_id:
        wrong += await _followed(rig, payment_id)
    return wrong


@contextlib.asynccontextmanager
async def _without_workers(rig: Rig) -> AsyncIterator[None]:
    """Nobody works but the victim; then new workers start."""
    for worker in rig.workers:
        await worker.stop()
    try:
        yield
    finally:
        await rig.heal()


async def _lost_sender(trial: _Lane, verb: str, asked: Asked) -> list[str]:
    """A payment or a refund whose service died after it was written down: the sweep's work."""
    before = _Lane(trial.rig, trial.clients, f"{verb}/after-tx1")
    sender = await trial.rig.serve(**before.armed)
    await trial.clients.ask(asked, sender)
    return await before.died_there(sender)


async def _followed(rig: Rig, payment_id: str) -> list[str]:
    """Whether the payment that its customer paid is known to be paid."""

    async def paid() -> bool:
        return bool(await rig.pool.fetchval("SELECT state = 'paid' FROM payment WHERE id = $1", payment_id))

    try:
        await until(paid, "followed", within_s=15)
    except TimeoutError:
        state = await rig.pool.fetchval("SELECT state FROM payment WHERE id = $1", payment_id)
        return [f"followed_to_its_end: payment {payment_id} was paid 15 s ago and is {state}"]
    return []
