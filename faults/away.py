"""The family of those who are away: no worker runs, or the database is away from a service for longer than it insists.

What was asked for is asked again: while its sender may live, when it must have died, and when the window of equal
requests is over. Nothing is done twice whoever asks, and every answer is the right one: 409 as long as the sender may
be under way, 202 beyond. Then the worker comes back, a person looks at what is left, and everything ends.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from faults import checker, people
from faults.bench import Bench
from faults.clients import Clients, Told
from faults.rig import Rig
from faults.wishes import Wish, in_mid_call, wishes
from tests.support.relay import Relay

SHORT_TIMES: Final = {
    "KASPI_DEADLINE_S": "3",
    "SENDING_LEASE_S": "5",
    "SWEEP_EVERY_S": "0.5",
    "DUPLICATE_WINDOW_S": "6",
    "LATE_EFFECT_S": "0",
    "FAULTS_INSIST": "9",
}
"""Insisting goes on when the caller is answered (after 8.5 s), as it does with the real times."""
REAL_TIMES: Final = {
    "KASPI_DEADLINE_S": "8",
    "SENDING_LEASE_S": "30",
    "SWEEP_EVERY_S": "15",
    "DUPLICATE_WINDOW_S": "60",
    "LATE_EFFECT_S": "0",
    "FAULTS_INSIST": "60",
}
"""As nobody sets them, so they are; only a person need not wait five minutes."""
KILLED: Final = {"killed_unapplied": False, "killed_applied": True}
AWAY: Final = {"database_away_unapplied": False, "database_away_applied": True}
REAL: Final = "real_times"
CASES: Final = [*KILLED, *AWAY, REAL]
_INSISTS_ON_S: Final = 3
"""The last try may begin just before the insisting ends, and takes its time."""
EACH: Final = 2
"""Clients of each kind in a run."""


async def run(bench: Bench) -> None:
    """Every case, a quarter of ``bench.runs`` times: each run is dozens of clients."""
    runs, each = (1, 1) if bench.short else (max(bench.runs // 4, 1), EACH)
    for case in bench.cases(list(KILLED)):
        for _ in range(runs):
            await _killed(bench, case, SHORT_TIMES, each, applied=KILLED[case])
    for case in bench.cases(list(AWAY)):
        for _ in range(max(runs // 2, 1)):
            await _database_away(bench, case, SHORT_TIMES, each, applied=AWAY[case])
    for case in [] if bench.short and bench.only is None else bench.cases([REAL]):
        async with asyncio.TaskGroup() as both:
            for applied in (False, True):
                both.create_task(_killed(bench, case, REAL_TIMES, each, applied=applied))
                both.create_task(_database_away(bench, case, REAL_TIMES, each, applied=applied))


async def _killed(bench: Bench, case: str, times: dict[str, str], each: int, *, applied: bool) -> None:
    """A service is killed in mid-call, and there is no worker to find what it left."""
    async with bench.another_rig(times, services=1, workers=0) as rig:
        clients = Clients(rig, bench.random_of(f"{case} {applied}"))
        asked_for = await wishes(clients, each)
        victim = await rig.serve()
        begun = time.time()
        async with in_mid_call(clients, asked_for, victim, applied=applied) as (held, asking):
            await victim.kill()
            written = max(hold.since for hold in held)
            first = await asyncio.gather(*asking)
        # So many at once may be too much for this machine: a call that ended by its deadline was not killed in it.
        asked_for = [wish for wish, told in zip(asked_for, first, strict=True) if told.status is None]
        wrong = await _ask_again(clients, asked_for, begun, written)
        await _until_old(rig.lease_s, written)
        wrong += await _ask_again(clients, asked_for, begun, written)
        wrong += await _ask_for_another(clients, asked_for)
        await _until_old(rig.seconds("DUPLICATE_WINDOW_S"), written)
        wrong += await _ask_again(clients, asked_for, begun, written)
        wrong += await _end(clients, asked_for)
        await _count(bench, rig, clients, case, asked_for, wrong)


async def _database_away(bench: Bench, case: str, times: dict[str, str], each: int, *, applied: bool) -> None:
    """One service loses the database during its calls, for longer than anybody insists; others are asked meanwhile.

    It lives, and writes down what it knows as soon as it can. What is asked for when that is written is no longer in
    doubt: without a key and beyond the window it would be a new request, so it is asked for before.
    """
    async with bench.another_rig(times, services=1, workers=0) as rig:
        relay = Relay(rig.database_url)
        await relay.start()
        rig.database_path = relay.url
        cut_off = await rig.serve()
        rig.database_path = None
        clients = Clients(rig, bench.random_of(f"{case} {applied}"))
        asked_for = await wishes(clients, each)
        begun = time.time()
        async with in_mid_call(clients, asked_for, cut_off, applied=applied) as (held, asking):
            written = max(hold.since for hold in held)
            relay.refuse(refused=True)
            for hold in held:
                hold.go.set()
            first = await asyncio.gather(*asking)
        wrong = [f"answers: {checker.who(told)} was told {told.status}" for told in first if told.status != 202]
        await _until_old(rig.lease_s, written)
        wrong += await _ask_again(clients, asked_for, begun, written)
        await _until_old(max(rig.seconds("FAULTS_INSIST") + _INSISTS_ON_S, rig.seconds("DUPLICATE_WINDOW_S")), written)
        wrong += await _ask_again(clients, asked_for, begun, written)
        relay.refuse(refused=False)
        rig.workers.append(rig.start_worker())
        try:
            await rig.nothing_in_doubt()
        except TimeoutError as error:
            wrong.append(f"written_down_in_the_end: {error}")
        wrong += [
            f"answers: {checker.who(told)} was told {told.status} {told.body} in the end"
            for told in await _ask_all(clients, [wish for wish in asked_for if wish.kind == "keyed"])
            if told.status != 200
        ]
        await _count(bench, rig, clients, case, asked_for, wrong)
        await cut_off.kill()  # the relay would wait for its lines
        await relay.stop()


async def _until_old(age_s: float, made_at: float) -> None:
    """Wait until what was made then is older than that."""
    await asyncio.sleep(max(made_at + age_s + 0.2 - time.time(), 0))


async def _ask_all(clients: Clients, asked_for: Sequence[Wish]) -> list[Told]:
    return await asyncio.gather(*(clients.ask(wish.again()) for wish in asked_for))


async def _ask_again(clients: Clients, asked_for: Sequence[Wish], begun: float, written: float) -> list[str]:
    """Ask for the same while its end is not known; what was answered wrongly."""
    wrong = []
    for told in await _ask_all(clients, asked_for):
        allowed: set[tuple[int, str | None]] = set()
        if told.at - told.seconds < written + clients.rig.lease_s:
            allowed.add((409, checker.NO_ANSWER_YET))
        if told.at > begun + clients.rig.lease_s:
            allowed.add((202, None))
        if (told.status, told.body.get("code")) not in allowed:
            age_s = told.at - written
            wrong.append(f"answers: {checker.who(told)}, {age_s:.1f} s old, was told {told.status} {told.body}")
    return wrong


async def _ask_for_another(clients: Clients, asked_for: Sequence[Wish]) -> list[str]:
    """Ask for something else for the same orders: it is refused, and its key stands for nothing."""
    wrong = []
    orders = [wish for wish in asked_for if wish.asked.order_id]
    for told in await asyncio.gather(*(clients.ask(wish.another()) for wish in orders)):
        if (told.status, told.body.get("code")) != (409, "order_already_open"):
            wrong.append(f"answers: another request for an order was told {told.status} {told.body}")
        elif await clients.rig.pool.fetchval(
            "SELECT count(*) FROM idempotency_claim WHERE idempotency_key = $1 AND operation_id IS NOT NULL",
            told.asked.key,
        ):
            wrong.append(f"answers: the key of a refused request for an order stands for a payment: {told}")
    return wrong


async def _end(clients: Clients, asked_for: Sequence[Wish]) -> list[str]:
    """The worker comes back, and a person settles the rest: with a key, everybody learns how it ended."""
    rig = clients.rig
    rig.workers.append(rig.start_worker())
    wrong: list[str] = []
    try:
        await rig.settle()
    except TimeoutError as error:
        wrong.append(f"settles: {error}")
    wrong += await people.settle_all(rig)
    keyed = [wish for wish in asked_for if wish.kind == "keyed"]
    ends = {(200, None), (409, "settled_as_failed")}
    return wrong + [
        f"answers: {checker.who(told)} was told {told.status} {told.body} in the end"
        for told in await _ask_all(clients, keyed)
        if (told.status, told.body.get("code")) not in ends
    ]


async def _count(
    bench: Bench, rig: Rig, clients: Clients, case: str, asked_for: Sequence[Wish], wrong: list[str]
) -> None:
    """Compare the records, and add a row for each kind of wish."""
    bench.tell(wrong, case)
    told = clients.taken()
    found = wrong + await bench.check(told, may_be_unknown=False, rig=rig, case=case)
    verbs: defaultdict[str, set[str | None]] = defaultdict(set)
    for wish in asked_for:
        verbs[wish.verb].add(wish.asked.external_id or wish.asked.word)
    for verb, names in verbs.items():
        of_verb = [one for one in told if (one.asked.external_id or one.asked.word) in names and one.asked.op in verb]
        unknown = sum(one.status == 202 for one in of_verb[: len(names)])
        bench.count(case, verb, len(names), of_verb, found, unknown, max(one.seconds for one in of_verb), rig=rig)
        found = []
