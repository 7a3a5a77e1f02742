"""The path of a payment against its goals: ``make bench``. Each figure is a ratio to something that ran beside it.

``docs/performance.md`` says what each part measures and what came of it. ``--only NAME,NAME`` runs some parts,
``--quick`` takes a rough look, ``--of COMMIT`` and ``--against COMMIT`` choose what is measured beside what.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import load
import rows
import uvloop
from costs import costs
from load import percentile
from meter import Meter, endpoint, until
from pooler import pooler
from relay import Relay
from stage import CORES, Program, rss_mb, stage
from targets import HEADING, Bench, Target

UPSTREAM_S = 0.2


# --- the buyer's way: serve


def create(bench: Bench) -> None:
    """A payment, upstream instant: 16 clients and one."""
    targets = bench.three
    old = bench.against.name
    print(HEADING)
    for clients, rounds, seconds, wanted in ((16, 5, 3.0, 8), (1, 3, 3.0, 5)):
        label = f"create, {clients} client{'s' * (clients > 1)}"
        done = bench.interleave(
            targets.values(), Target.create, label=label, rounds=rounds, clients=clients, seconds=seconds
        )
        here, before, bare = done[bench.tree.name], done[old], done["bare"]
        bench.goal(f"{label}: rate / {old}", wanted, here.rate / before.rate)
        if clients == 16:
            bench.goal(f"{label}: processor / {old}", 0.1, here.cpu_ms / before.cpu_ms, at_most=True)
            bench.goal(f"{label}: rate / bare", 0.6, here.rate / bare.rate)
    for target in targets.values():
        target.compare_books()


def keyed(bench: Bench) -> None:
    """A payment with an order and an Idempotency-Key, as a shop sends it: beside the goals, for information."""
    targets = bench.three
    print(HEADING)
    bench.interleave(
        [targets[bench.tree.name], targets[bench.against.name]],
        lambda target: target.create(keyed=True),
        label="create with order and key, 16 clients",
        rounds=3,
        clients=16,
        seconds=2.5,
    )
    for target in targets.values():
        target.compare_books()


def slow(bench: Bench) -> None:
    """A payment, upstream 200 ms: how near many clients come to the ideal, and what is added to the upstream's time."""
    targets = bench.three
    for target in targets.values():
        target.delay(UPSTREAM_S)
    print(HEADING)
    for clients, wanted in ((64, 0.9), (256, 0.7)):
        label, ideal = f"create, upstream 200 ms, {clients} clients", clients / UPSTREAM_S
        done = bench.interleave(
            targets.values(), Target.create, label=label, rounds=2, clients=clients, seconds=4, over_s=UPSTREAM_S
        )
        bench.goal(f"{label}: rate / ideal", wanted, done[bench.tree.name].rate / ideal)
        print(f"    of the ideal {ideal:.0f}: " + ", ".join(f"{n} {one.rate / ideal:.0%}" for n, one in done.items()))
    for clients, wanted_p50 in ((1, 3), (16, 8)):
        label = f"added to 200 ms, {clients} client{'s' * (clients > 1)}"
        how = {"clients": clients, "seconds": 5, "over_s": UPSTREAM_S}
        upstream = targets[bench.tree.name].upstream
        direct = load.run([upstream.port], _nothing, clients=1, seconds=2)
        upstream_ms = percentile(direct.seconds, 50)
        done = bench.interleave(targets.values(), Target.create, label=label, rounds=2, **how)
        for name, one in done.items():
            print(f"    added, {name}: p50 {one.p(50) - upstream_ms:.1f} ms, p99 {one.p(99) - upstream_ms:.1f} ms")
        bench.goal(f"{label}: p50", wanted_p50, done[bench.tree.name].p(50) - upstream_ms, "ms", at_most=True)
        if clients == 16:
            bench.goal(f"{label}: p99", 25, done[bench.tree.name].p(99) - upstream_ms, "ms", at_most=True)
    for target in targets.values():
        target.delay(0)
        target.compare_books()


def _nothing() -> tuple[bytes, load.Check]:
    """Asks the upstream itself for something that takes its delay and leaves no trace in the ledger."""
    return load.request("GET", f"/status/?externalId={rows.FIRST_ID}"), lambda _status, _body: None


def trips(bench: Bench) -> None:
    """Round trips to PostgreSQL and lines of the log of one create, counted."""
    for tree in (bench.tree, bench.against):
        with Relay(bench.stage.postgres_port) as relay:
            database, upstream = bench.stage.database(tree), bench.stage.upstream()
            through = bench.stage.through(database, relay.port)
            target = Target(tree.name, [bench.stage.serve(through, upstream)], database, upstream, bench.stage.shops)
            per_create = {}
            for clients in (1, 16):
                load.run(target.ports, target.create(), clients=clients, requests=100)
                time.sleep(0.5)
                relay.seen.clear()
                time.sleep(2)
                idle = relay.seen.copy()
                relay.seen.clear()
                lines = _lines(target.programs[0])
                made = load.run(target.ports, target.create(), clients=clients, requests=200)
                seen, logged = relay.seen.copy(), _lines(target.programs[0]) - lines
                per_create[clients] = (seen.total() - idle.total() / 2 * made.lasted) / 200
                print(
                    f"  {tree.name}, {clients} client(s): {per_create[clients]:.2f} round trips, "
                    f"{logged / 200:.1f} lines of the log for one create"
                )
                if clients == 1 and tree is bench.tree:
                    for text, times in seen.most_common(30):
                        if times >= 100:
                            print(f"    {times / 200:5.2f}  {text[:110]}")
            if tree is bench.tree:
                bench.goal("round trips to PostgreSQL for one create", 2, per_create[1], "", at_most=True)
            bench.figures[f"round trips, {tree.name}"] = per_create
            target.compare_books()
            target.stop()


def _lines(program: Program) -> int:
    return program.log.read_bytes().count(b"\n")


def reads(bench: Bench) -> None:
    """The routing of a shop, and the status of a payment that has ended."""
    targets, name, old = bench.three, bench.tree.name, bench.against.name
    ended = {target.name: target.one_paid()[1] for target in targets.values()}
    shop = bench.stage.shops[0]
    config = f"/api/payment/config?shop_id={shop['shop_id']}"
    print(HEADING)
    how: dict[str, Any] = {"rounds": 3, "clients": 16, "seconds": 1.5}
    done = bench.interleave(
        targets.values(), lambda each: each.read(config, shop["organization_bin"].encode()), label="config", **how
    )
    bench.goal(f"config: rate / {old}", 6, done[name].rate / done[old].rate)
    bench.goal("config: rate / bare with authentication", 0.5, done[name].rate / done["bare"].rate)

    def status(each: Target) -> load.Ask:
        external_id = ended[each.name]
        return each.read(f"/payments/kaspi/status/{external_id}", external_id.encode(), b'"state":"paid"')

    done = bench.interleave(targets.values(), status, label="status of a paid one", **how)
    bench.goal(f"status of an ended payment: rate / {old}", 6, done[name].rate / done[old].rate)
    bench.goal(
        "status of an ended payment: rate / bare with authentication",
        0.5,
        done[name].rate / done["bare"].rate,
    )

    def row(each: Target) -> load.Ask:
        return each.read(f"/row/{ended['bare']}", ended["bare"].encode())

    [one_row] = bench.interleave([targets["bare"]], row, label="bare, with one SELECT", **how).values()
    beside = done[name].rate / one_row.rate
    print(f"    status / bare with authentication and one SELECT: {beside:.2f} of the rate")


def two(bench: Bench) -> None:
    """Two serve processes over one database, beside one over its own. Not pinned: both cores are for whoever comes."""
    tree = bench.tree
    one, pair = bench.target(tree), bench.target(tree, processes=2)
    one.name, pair.name = "one process", "two processes"
    for target in (one, pair):
        for pid in target.pids if CORES else ():
            os.sched_setaffinity(pid, CORES)
        load.run(target.ports, target.create(), clients=8, seconds=1.5)
    print(HEADING)
    done = bench.interleave([one, pair], Target.create, label="create, 32 clients", rounds=3, clients=32, seconds=3)
    bench.goal("two serve processes: rate / one", 1, done["two processes"].rate / done["one process"].rate)
    for target in (one, pair):
        target.compare_books()
        target.stop()


def health(bench: Bench) -> None:
    """Whether a process with 256 creates that hang still says how it is."""
    target = bench.target(bench.tree)
    load.run(target.ports, target.create(), clients=4, seconds=1)
    target.delay(7.5)

    async def ask() -> tuple[int, dict[str, load.Round]]:
        began = time.perf_counter()
        hanging = asyncio.create_task(
            load.drive(target.ports, target.create(may_be_unknown=True), clients=256, requests=256)
        )
        in_flight = 0
        async with httpx.AsyncClient(base_url=target.upstream.url, trust_env=False) as http:
            while in_flight < 256 and time.perf_counter() - began < 5.5:
                await asyncio.sleep(0.2)
                in_flight = (await http.get("/_counts")).json()["in_flight"]
        both = {
            path: load.drive(target.ports, target.read(path), clients=1, seconds=1.8, every_s=0.01)
            for path in ("/health", "/health/ready")
        }
        made = dict(zip(both, await asyncio.gather(*both.values()), strict=True))
        await hanging
        return in_flight, made

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        in_flight, made = runner.run(ask())
    for path, each in made.items():
        p50, p99 = percentile(each.seconds, 50), percentile(each.seconds, 99)
        print(f"  {path}, {in_flight} creates hang: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        bench.goal(f"{path} while 256 creates hang: p99", 20, p99, "ms", at_most=True)
    target.stop()


def memory(bench: Bench) -> None:
    """Memory after 100,000 creates, or as many as there is time for."""
    target = bench.target(bench.tree)
    load.run(target.ports, target.create(), clients=16, requests=500 if bench.quick else 2000)
    pid, before, warm = target.pids[0], len(target.answers.lines), rss_mb(target.pids[0])
    until = time.monotonic() + (10 if bench.quick else 100)
    while time.monotonic() < until and len(target.answers.lines) < 100_000:
        load.run(target.ports, target.create(), clients=16, seconds=5)
    made, held = len(target.answers.lines), rss_mb(pid)
    print(f"  {warm:.1f} MB after {before:,} creates, {held:.1f} MB after {made:,}")
    bench.figures["memory"] = {"creates": made, "warm_mb": warm, "mb": held}
    bench.goal(f"memory after {made:,} creates", 120, held, "MB", at_most=True)
    bench.goal(f"memory, grown from {before:,} to {made:,} creates", 5, held - warm, "MB", at_most=True)
    target.compare_books()
    target.stop()


def million(bench: Bench) -> None:
    """A payment with 1,000,000 behind it, beside an empty table."""
    tree, many = bench.tree, 100_000 if bench.quick else 1_000_000
    empty, full = bench.target(tree), bench.target(tree)
    empty.name, full.name = "empty", f"{many:,} behind"
    paid, _ = full.one_paid()
    began = time.monotonic()
    asyncio.run(rows.repeat(full.database.url, paid, many, over="365 days", due_in=None))
    print(f"  {many:,} payments in {time.monotonic() - began:.0f} s")
    for target in (empty, full):
        load.run(target.ports, target.create(), clients=8, seconds=1.5)
    print(HEADING)
    done = bench.interleave([empty, full], Target.create, label="create, 16 clients", rounds=3, clients=16, seconds=3)
    bench.goal(f"create with {many:,} payments behind it: rate / empty", 0.9, done[full.name].rate / done["empty"].rate)
    empty.compare_books()
    full.compare_books()
    empty.stop()
    full.stop()


def standin(bench: Bench) -> None:
    """The books with the real stand-in, which checks what it is asked, instead of the instant upstream."""
    stand_in, database = bench.stage.stand_in(), bench.stage.database(bench.tree)
    target = Target(bench.tree.name, [bench.stage.serve(database, stand_in)], database, stand_in, bench.stage.shops)
    for keys in (False, True):
        load.run(target.ports, target.create(keyed=keys), clients=16, requests=100 if bench.quick else 400)
    target.compare_books()
    target.stop()


# --- behind the buyer's back: worker


def reading(bench: Bench) -> None:
    """What one reading of a status takes of the worker: payments due 16 together, 20 a second, each of which waits."""
    wanted, took = 160 if bench.quick else 400, {}
    for tree in (bench.tree, bench.against):
        settings = bench.settings()
        target = bench.target(tree, **settings)
        payment_id, _ = target.one()
        target.programs[0].stop()
        worker = bench.stage.worker(target.database, target.upstream, **settings)
        meter = Meter(bench.stage, worker.pid)
        meter.settle()
        copies = {"over": "5 seconds", "due_in": "1 second", "together": 16, "every": "0.8 seconds"}
        asyncio.run(rows.repeat(target.database.url, payment_id, wanted, **copies))
        with meter.work() as used:
            until(lambda: int(target.upstream.get("/_counts")["readings"]), wanted, 60)  # noqa: B023 - used at once
            time.sleep(1)
        asked = target.upstream.get("/_readings")
        took[tree.name] = _worker_line(bench, f"reading, {tree.name}", used, asked, wanted, len(asked))
        worker.stop()
        target.upstream.stop()
    bench.goal(f"one reading by the worker: processor / {bench.against.name}", 0.1, _ratio(bench, took), at_most=True)


def webhooks(bench: Bench) -> None:
    """What one delivery of an event takes of the worker: eight endpoints, each with its shops, that answer at once."""
    wanted, took = 160 if bench.quick else 400, {}
    for tree in (bench.tree, bench.against):
        settings = bench.settings()
        target = bench.target(tree, **settings)
        for number in range(8):
            shops = [int(shop["shop_id"]) for shop in bench.stage.shops[number::8]]
            endpoint(target, f"hook{number}", ["payment.pending"], shops)
        worker = bench.stage.worker(target.database, target.upstream, **settings)
        meter = Meter(bench.stage, worker.pid)
        meter.settle()
        with meter.work() as used:
            load.run(target.ports, target.create(), clients=16, requests=wanted)
            there = until(lambda: int(target.upstream.get("/_counts")["hooks"]), wanted, 60)  # noqa: B023 - used at once
            time.sleep(1)
        hooks = target.upstream.get("/_hooks")
        told = [hook["data"]["id"] for _, hook in hooks]
        if sorted(told) != sorted(target.answers.ids):
            raise SystemExit(f"{tree.name}: {len(told)} events of {len(target.answers.ids)} payments arrived")
        took[tree.name] = _worker_line(bench, f"webhook, {tree.name}", used, hooks, wanted, there, with_postgres=False)
        target.compare_books()
        worker.stop()
        target.stop()
    bench.goal(f"one try of a webhook: processor / {bench.against.name}", 0.25, _ratio(bench, took), at_most=True)


def _worker_line(
    bench: Bench,
    label: str,
    used: dict[str, float],
    arrived: list[Any],
    wanted: int,
    there: int,
    *,
    with_postgres: bool = True,
) -> float:
    """Print a line; returns the milliseconds of the worker's processor for one."""
    times = [at for at, _ in arrived]
    pace = (len(times) - 1) / max(max(times) - min(times), 0.001)
    each, postgres = 1000 * used["cpu_s"] / there, 1000 * used["postgres_s"] / there
    also = f", PostgreSQL {postgres:.2f} ms" if with_postgres else ""
    print(f"  {label}: {there} of {wanted}, worker {each:.2f} ms of the processor{also}, {pace:.0f} a second")
    bench.figures[label] = {"cpu_ms": each, "postgres_ms": postgres, "per_s": pace, "done": there, "wanted": wanted}
    return each


def _ratio(bench: Bench, took: dict[str, float]) -> float:
    return took[bench.tree.name] / took[bench.against.name]


def told(bench: Bench) -> None:
    """How soon a shop hears of it: from the answer that a payment is paid to its webhook, five payments a second."""
    for tree in (bench.tree, bench.against):
        settings = bench.settings()
        target = bench.target(tree, **settings)
        endpoint(target, "hook", ["payment.paid"])
        worker = bench.stage.worker(target.database, target.upstream, **settings)
        Meter(bench.stage, worker.pid).settle()
        paid: dict[str, float] = {}
        for _ in range(20 if bench.quick else 60):
            paid[target.one_paid()[0]] = time.time()
            time.sleep(0.2)
        time.sleep(2)
        _told_line(bench, f"paid -> webhook, {tree.name}", target, paid)
        worker.stop()
        target.stop()


def _told_line(bench: Bench, label: str, target: Target, since: dict[str, float], planned_s: float = 0) -> float:
    """Print how long after the given times (and the planned seconds) the webhooks arrived; returns the median in ms."""
    arrived = {hook["data"]["id"]: at for at, hook in target.upstream.get("/_hooks")}
    late = [arrived[each] - at - planned_s for each, at in since.items() if each in arrived]
    missing = len(since) - len(late)
    p50, p99 = (percentile(late, percent) if late else float("inf") for percent in (50, 99))
    print(f"  {label}: p50 {p50:.0f} ms, p99 {p99:.0f} ms, {missing} of {len(since)} did not arrive")
    bench.figures[label] = {"p50_ms": p50, "p99_ms": p99, "missing": missing, "of": len(since)}
    return p50 if not missing else float("inf")


def due(bench: Bench) -> None:
    """After an outage: 20,000 payments due at once, while buyers go on paying and their shops wait to hear of it."""
    many, window = (2_000, 15) if bench.quick else (20_000, 60)
    settings = bench.settings(follow_first_s=2)
    target = bench.target(bench.tree, **settings)
    endpoint(target, "hook", ["payment.paid"])
    payment_id, _ = target.one()
    asyncio.run(rows.repeat(target.database.url, payment_id, many, over="3600 seconds", due_in="-1 second"))
    worker = bench.stage.worker(target.database, target.upstream, **settings)
    began = time.time()
    asked_now: dict[str, float] = {}
    left_alone: dict[str, float] = {}
    while time.time() - began < window and len(_read_copies(target)) < many:
        for kind in (asked_now, left_alone):
            paid_id = (target.one_paid if kind is asked_now else lambda: target.one(phone_ending="99"))()[0]
            kind[paid_id] = time.time()
        time.sleep(1)
    time.sleep(4)
    seen = _read_copies(target)
    pace = len(seen) / max(max(seen.values(), default=began) - began, 0.001)
    failed = asyncio.run(_failed_jobs(target.database.url))
    errors = sum(b'"level":"error"' in line or b'"level": "error"' in line for line in _log(worker))
    print(
        f"  {len(seen):,} of {many:,} were asked about within {time.time() - began:.0f} s, {pace:.0f} a second: "
        f"all of them would take {many / max(pace, 0.001):.0f} s; {failed} jobs failed, {errors} errors in the log"
    )
    bench.figures["due at once"] = {"many": many, "seen": len(seen), "per_s": pace, "failed": failed, "errors": errors}
    bench.goal(f"{many:,} payments due at once: asked about within {window} s", 1, len(seen) / many, "of them")
    bench.goal(f"{many:,} payments due at once: jobs that failed", 0, failed, "", at_most=True)
    for name, kind, planned_s in (("known to be paid", asked_now, 0.0), ("paid, left to the worker", left_alone, 2.0)):
        label = f"{name} meanwhile -> its webhook"
        bench.goal(f"{label}: p50", 1000, _told_line(bench, label, target, kind, planned_s), "ms", at_most=True)
    worker.stop()
    target.stop()


def _read_copies(target: Target) -> dict[int, float]:
    """When each copy was asked about for the first time."""
    first: dict[int, float] = {}
    for at, external_id in target.upstream.get("/_readings"):
        if external_id < rows.FIRST_ID + 1_000_000_000:
            first.setdefault(external_id, at)
    return first


def _log(program: Program) -> list[bytes]:
    return program.log.read_bytes().splitlines()


async def _failed_jobs(url: str) -> int:
    """How many jobs the queue gave up, in a commit that has one."""
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT to_regclass('pgqueuer') IS NULL"):
            return 0
        return int(await connection.fetchval("SELECT count(*) FROM pgqueuer WHERE status = 'failed'"))
    finally:
        await connection.close()


PARTS: dict[str, Callable[[Bench], None]] = {
    part.__name__: part
    for part in (
        create,
        keyed,
        slow,
        trips,
        reads,
        two,
        health,
        reading,
        webhooks,
        told,
        due,
        memory,
        million,
        standin,
        costs,
        pooler,
    )
}
QUICK = ("create", "slow", "trips", "reads", "reading", "webhooks")


def table(bench: Bench) -> str:
    """The goals as a table."""
    lines = ["| | goal | measured | |", "|---|---|---|---|"]
    for goal in bench.goals:
        unit = goal["unit"] and f" {goal['unit']}"
        word = "at most" if goal["at_most"] else "at least"
        mark = "met" if goal["met"] else "not met"
        lines.append(f"| {goal['text']} | {word} {goal['wanted']:g}{unit} | {goal['got']:.3g}{unit} | {mark} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument(
        "--quick", action="store_true", help=f"fewer rounds and rows, and of the parts only {', '.join(QUICK)}"
    )
    parser.add_argument("--of", default="", metavar="COMMIT", help="what to measure; the working tree if left out")
    parser.add_argument("--against", metavar="COMMIT", default="5c1105b", help="beside what (%(default)s)")
    parser.add_argument("--no-pin", action="store_true", help="leave it to the system who runs on which core")
    parser.add_argument(
        "--plant", default="", choices=["", "lost", "twice", "seller"], help="spoil the books on purpose"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file too")
    given = parser.parse_args()
    chosen = given.only.split(",") if given.only else [*(QUICK if given.quick else PARTS)]
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"there is no {', '.join(unknown)}: {', '.join(PARTS)}")
    began = time.monotonic()
    with stage(pinned=not given.no_pin) as made:
        bench = Bench(made, given.quick, given.of, given.against, given.plant)
        try:
            for name in chosen:
                at, busy = time.monotonic(), os.getloadavg()[0]
                print(f"\n== {name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
                PARTS[name](bench)
                print(f"  ({time.monotonic() - at:.0f} s; load of the machine {busy:.1f} before)", flush=True)
        finally:  # what was measured is worth its minutes, also when a later part ends the run
            print(f"\n{table(bench)}\n\n{time.monotonic() - began:.0f} s in all")
            if given.json:
                given.json.write_text(json.dumps({"goals": bench.goals, "figures": bench.figures}, indent=1))


if __name__ == "__main__":
    main()
