"""The family of what stands still: a process stopped in the middle of its work, and a row that cannot be settled.

A stopped process (SIGSTOP, a machine that sleeps, a frozen container) goes on when others have long given up its call:
then it must not send any more. And one row that a sweep cannot take must not keep back any other.
"""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Final

from faults import checker, people
from faults.bench import Bench
from faults.clients import Asked, Clients, Told
from faults.rig import Rig
from faults.wishes import Wish, in_mid_call, wishes
from tests.support.processes import Process
from tests.support.waiting import until

_SETTINGS: Final = {
    "KASPI_DEADLINE_S": "1",
    "SENDING_LEASE_S": "2",
    "SWEEP_EVERY_S": "0.4",
    "LATE_EFFECT_S": "0",
}
STOPPED_BEFORE_IT_LEFT: Final = (
    "create/after-tx1",
    "link/after-tx1",
    "refund/after-tx1",
    "create/connected",
    "refund/connected",
)
STOPPED_WHEN_IT_HAD_LEFT: Final = (
    "create/request-left",
    "refund/request-left",
    "create/before-tx2",
    "refund/before-tx2",
)
SETTLED: Final = ", settled meanwhile"
PAUSED: Final = [
    point + more for point in (*STOPPED_BEFORE_IT_LEFT, *STOPPED_WHEN_IT_HAD_LEFT) for more in ("", SETTLED)
]
_OPS: Final = {"create": "create", "link": "create-link", "refund": "refund"}
_SOON_S: Final = 0.5
"""A call that a process still makes when it goes on has reached the stand-in after so long."""


async def run(bench: Bench) -> None:
    """Every case, a tenth of ``bench.runs`` times."""
    runs = 1 if bench.short else max(bench.runs // 10, 1)
    if paused := bench.chosen(PAUSED):
        async with bench.another_rig(_SETTINGS, services=1, workers=1) as rig:
            for case in bench.cases(paused):
                clients = Clients(rig, bench.random)
                for _ in range(runs):
                    await _paused(bench, clients, case)
    for case in bench.cases(list(BAD_ROWS)):
        for _ in range(runs):
            await _bad_row(bench, case)


# --- a process that stands still


async def _paused(bench: Bench, clients: Clients, case: str) -> None:
    """A service stops at a point, others give its call up, a person may settle it as never made, and it goes on."""
    rig = clients.rig
    point, _, settled = case.partition(",")
    marks = rig.folder / "crashes"
    sleeper = await rig.serve(FAULTS_PAUSE=f"{point}:1", FAULTS_MARK=str(marks))
    asked = await _wish(clients, point)
    before = len(rig.entries())
    first = asyncio.create_task(clients.ask(asked, sleeper))
    wrong: list[str] = []
    try:
        await until(lambda: _stopped(sleeper), f"{sleeper.name} stops at {point}", within_s=10)
        await until(lambda: _given_up(rig, asked), "the sweep gives up the call", within_s=10)
        if settled:
            wrong += await people.settle_all(rig)
        sleeper.signal(signal.SIGCONT)
        told = await first
        await asyncio.sleep(_SOON_S)
        if point in STOPPED_BEFORE_IT_LEFT and any(_is_of(entry, asked) for entry in rig.entries()[before:]):
            wrong.append(f"stopped_too_long: {checker.who(told)} was sent by {sleeper.name} after its lease")
        last = await clients.insist(asked, rig.services[0])
        if last.status not in {200, 202} and last.body.get("code") != "settled_as_failed":
            wrong.append(f"answers: {checker.who(last)} was told {last.status} {last.body} in the end")
    except TimeoutError as error:
        wrong.append(f"stops_at_the_point: {error}")
    finally:
        await sleeper.kill()
        await asyncio.gather(first, return_exceptions=True)
    await _count(bench, rig, clients, case, point.partition("/")[0], 1, wrong)


async def _wish(clients: Clients, point: str) -> Asked:
    op = _OPS[point.partition("/")[0]]
    if op == "refund":
        return clients.refund_of(await clients.paid(), 5_000)
    return clients.payment("create" if op == "create" else "create-link")


async def _stopped(process: Process) -> bool:
    marks = process.log.parent / "crashes"
    return marks.exists() and str(process.pid) in marks.read_text().split()


async def _given_up(rig: Rig, asked: Asked) -> bool:
    if asked.op == "refund":
        query = "SELECT refund.state FROM refund JOIN payment ON payment.id = payment_id WHERE payment.external_id = $1"
    else:
        query = "SELECT state FROM payment WHERE message = $1"
    return bool(await rig.pool.fetchval(query, asked.external_id or asked.word) == "unknown")


def _is_of(entry: dict[str, object], asked: Asked) -> bool:
    if asked.op == "refund":
        return entry["op"] == "refund" and entry["external_id"] == asked.external_id
    return str(entry["message"]).rpartition(" #")[0] == asked.word


# --- a row that cannot be settled


def _refusing(how: str) -> dict[str, str]:
    """A law of this throw-away database that only one payment and one refund meet, at their next move."""
    return {
        table: f"""
            CREATE FUNCTION planted_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {how} RETURN NEW; END $$;
            CREATE TRIGGER planted_{table} BEFORE UPDATE ON {table}
            FOR EACH ROW WHEN (OLD.id = '%s' AND NEW.state <> OLD.state) EXECUTE FUNCTION planted_{table}()
        """
        for table in ("payment", "refund")
    }


@contextlib.asynccontextmanager
async def _law(rig: Rig, bad: dict[str, str], how: str) -> AsyncIterator[None]:
    for table, statement in _refusing(how).items():
        await rig.pool.execute(statement % bad[table])
    try:
        yield
    finally:
        for table in bad:
            await rig.pool.execute(f"DROP FUNCTION planted_{table}() CASCADE")


def _breaks_a_law(rig: Rig, bad: dict[str, str]) -> AbstractAsyncContextManager[None]:
    return _law(rig, bad, "PERFORM break_law('nobody_foresaw_this', 'no');")


def _breaks_a_type(rig: Rig, bad: dict[str, str]) -> AbstractAsyncContextManager[None]:
    return _law(rig, bad, "PERFORM 'x'::integer;")


@contextlib.asynccontextmanager
async def _is_locked(rig: Rig, bad: dict[str, str]) -> AsyncIterator[None]:
    """Somebody who hangs holds the rows."""
    async with rig.pool.acquire() as sql, sql.transaction():
        for table, row in bad.items():
            await sql.execute(f"SELECT FROM {table} WHERE id = '{row}' FOR UPDATE")
        yield


BAD_ROWS: Final = {"row_breaks_a_law": _breaks_a_law, "row_breaks_a_type": _breaks_a_type, "row_is_locked": _is_locked}
CASES: Final = [*PAUSED, *BAD_ROWS]
_SWEPT_WITHIN_S: Final = 15
"""The others are settled within so long; one that waits for a lock may take three seconds of each sweep."""


async def _bad_row(bench: Bench, case: str) -> None:
    """The oldest payment and refund of a dead process cannot be settled: all the others are, and people are called."""
    async with bench.another_rig(_SETTINGS, services=1, workers=0) as rig:
        clients = Clients(rig, bench.random)
        asked_for = [wish for wish in await wishes(clients, 2) if wish.kind == "keyed"]
        await _left_by_a_dead_process(rig, clients, asked_for)
        bad = {
            table: str(
                await rig.pool.fetchval(f"SELECT id FROM {table} WHERE state = 'sending' ORDER BY created_at, id")
            )
            for table in ("payment", "refund")
        }
        wrong: list[str] = []
        async with BAD_ROWS[case](rig, bad):
            rig.workers.append(rig.start_worker())

            async def others_are_settled() -> bool:
                left = await rig.pool.fetch(
                    "SELECT id FROM payment WHERE state = 'sending'"
                    " UNION ALL SELECT id FROM refund WHERE state = 'sending'"
                )
                return {str(row["id"]) for row in left} <= set(bad.values())

            try:
                await until(others_are_settled, "all but the bad rows are settled", within_s=_SWEPT_WITHIN_S)
            except TimeoutError as error:
                wrong.append(f"sweeps_the_others: {error}")
            await asyncio.sleep(2 * rig.seconds("SWEEP_EVERY_S"))
            if case != "row_is_locked":
                wrong += await _alarms(rig, bad)
        try:
            await rig.settle()
        except TimeoutError as error:
            wrong.append(f"settles: {error}")
        wrong += await people.settle_all(rig)
        await _count(bench, rig, clients, case, "sweep", len(asked_for), wrong)


async def _left_by_a_dead_process(rig: Rig, clients: Clients, asked_for: list[Wish]) -> None:
    """Killed in mid-call; what it left is beyond its lease."""
    victim = await rig.serve()
    async with in_mid_call(clients, asked_for, victim, applied=True):
        await victim.kill()
    await asyncio.sleep(rig.lease_s)


async def _alarms(rig: Rig, bad: dict[str, str]) -> list[str]:
    """People are called for each bad row: a line of the worker's log that is an error and names it."""

    async def told() -> bool:
        lines = [json.loads(line) for line in rig.workers[0].written.splitlines() if line.startswith("{")]
        errors = [str(line) for line in lines if line.get("level") == "error"]
        return all(any(row in line for line in errors) for row in bad.values())

    try:
        await until(told, "an alarm for each row that cannot be settled", within_s=10)
    except TimeoutError as error:
        return [f"calls_for_people: {error}"]
    return []


async def _count(bench: Bench, rig: Rig, clients: Clients, case: str, verb: str, runs: int, wrong: list[str]) -> None:
    bench.tell(wrong, case)
    told: list[Told] = clients.taken()
    found = wrong + await bench.check(told, may_be_unknown=verb != "sweep", rig=rig, case=case)
    slowest_s = max((one.seconds for one in told if one.status is not None), default=0)
    bench.count(case, verb, runs, told, found, bench.books.unknown, slowest_s, rig=rig)
