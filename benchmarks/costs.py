"""What a payment costs from its beginning to its end: processor time of each program, and write-ahead log (WAL).

At three sizes of the database. The steps are measured one by one, the worker standing still (SIGSTOP) while buyers pay;
then whole payments, everybody at work, beside what the steps of the empty database say that they cost.
``docs/scaling.md`` has the model that is made of it.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import asyncpg
import load
import rows
from meter import Meter, endpoint, until
from stage import Program, cpu_s
from targets import Bench, Target

SIZES = (0, 100_000, 1_000_000)
PAYMENTS = 1_000


@dataclass
class Cost:
    """Of one: milliseconds of the processor, bytes of WAL, rows and pages in it."""

    serve_ms: float = 0
    worker_ms: float = 0
    postgres_ms: float = 0
    wal: float = 0
    images: float = 0
    """Of whole pages, 8 kB each: the first change of a page after a checkpoint writes all of it."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def line(self, name: str) -> str:
        """One line of the table."""
        return (
            f"  {name:<42}{self.serve_ms:9.2f}{self.worker_ms:9.2f}{self.postgres_ms:9.2f}{self.wal:10,.0f}"
            f"{self.images:9.2f}"
        )


HEADING = f"  {'for each':<42}{'serve ms':>9}{'worker ms':>9}{'pg ms':>9}{'WAL bytes':>10}{'of pages':>9}"


@dataclass
class Stand:
    """A service with its worker, over a database with so many payments in it."""

    bench: Bench
    target: Target
    worker: Program
    meter: Meter
    idle_wal: float = 0
    """Bytes of WAL in a second when nothing is to be done."""
    steps: dict[str, Cost] = field(default_factory=dict)

    def sql(self, statement: str) -> asyncpg.Record:
        """Run one statement and return its first row."""

        async def run() -> asyncpg.Record:
            connection = await asyncpg.connect(self.target.database.url)
            try:
                return await connection.fetchrow(statement)
            finally:
                await connection.close()

        return asyncio.run(run())

    def wal(self) -> tuple[float, float]:
        """Bytes of WAL, and images of pages, since the server began."""
        row = self.sql("SELECT pg_current_wal_insert_lsn() - '0/0' AS bytes, wal_fpi FROM pg_stat_wal")
        return float(row["bytes"]), float(row["wal_fpi"])

    @contextmanager
    def measured(self, name: str, of: int = PAYMENTS) -> Iterator[None]:
        """Note what is used in the block, for one of so many."""
        serve, (wal, images) = cpu_s(self.target.pids[0]), self.wal()
        with self.meter.work() as used:
            yield
        after, images_after = self.wal()
        self.steps[name] = Cost(
            1000 * (cpu_s(self.target.pids[0]) - serve) / of,
            1000 * used["cpu_s"] / of,
            1000 * used["postgres_s"] / of,
            (after - wal - used["seconds"] * self.idle_wal) / of,
            (images_after - images) / of,
        )

    def pay(self, *, paid: bool) -> None:
        """So many payments, of buyers who pay at once or never."""
        ending = "99" if paid else "10"
        load.run(self.target.ports, self.target.create(phone_ending=ending), clients=8, requests=PAYMENTS)

    @contextmanager
    def worker_stands_still(self) -> Iterator[None]:
        """Stop the worker as it is; it goes on afterwards."""
        os.kill(self.worker.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.worker.pid, signal.SIGCONT)

    def told(self, wanted: int) -> None:
        """Wait until so many webhooks more have arrived, and a moment for what follows them."""
        self._until("hooks", wanted)

    def read(self, wanted: int) -> None:
        """Wait until so many readings were made in all."""
        self._until("readings", wanted)

    def due(self) -> None:
        """Make the last payments due."""
        self.sql(
            "WITH due AS (UPDATE payment SET next_check_at = now() WHERE id IN (SELECT id FROM payment "
            f"WHERE state = 'pending' ORDER BY created_at DESC LIMIT {PAYMENTS}) RETURNING id) SELECT count(*) FROM due"
        )

    def _until(self, what: str, wanted: int) -> None:
        there = until(lambda: int(self.target.upstream.get("/_counts")[what]), wanted, 120)
        if there < wanted:
            raise SystemExit(f"{there} of {wanted} {what} came")
        time.sleep(1)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _stand(bench: Bench, size: int) -> Stand:
    settings = bench.settings()
    target = bench.target(bench.tree, **settings)
    if size:
        paid, _ = target.one_paid()
        began = time.monotonic()
        asyncio.run(rows.repeat(target.database.url, paid, size, over="365 days", due_in=None))
        print(f"  {size:,} payments in {time.monotonic() - began:.0f} s")
    for number in range(8):
        shops = [int(shop["shop_id"]) for shop in bench.stage.shops[number::8]]
        endpoint(target, f"hook{number}", ["payment.pending", "payment.paid"], shops)
    worker = bench.stage.worker(target.database, target.upstream, **settings)
    for setting in ("checkpoint_timeout = '1h'", "max_wal_size = '20GB'"):  # when they come is said here
        asyncio.run(_execute(target.database.url, f"ALTER SYSTEM SET {setting}"))
    asyncio.run(_execute(target.database.url, "SELECT pg_reload_conf()"))
    stand = Stand(bench, target, worker, Meter(bench.stage, worker.pid))
    stand.pay(paid=False)
    stand.told(PAYMENTS)
    began, (wal, _) = time.monotonic(), stand.wal()
    stand.meter.settle()
    stand.idle_wal = (stand.wal()[0] - wal) / (time.monotonic() - began)
    return stand


def _steps(stand: Stand) -> None:
    hooks, readings = PAYMENTS, 0
    with stand.worker_stands_still():
        stand.sql("CHECKPOINT")
        with stand.measured("a payment is made, after a checkpoint"):
            stand.pay(paid=False)
    hooks += PAYMENTS
    stand.told(hooks)
    with stand.worker_stands_still(), stand.measured("a payment is made"):
        stand.pay(paid=False)
    hooks += PAYMENTS
    stand.told(hooks)
    # Not after the payments but beside them: a worker that takes many at once has less to do for each.
    hooks += PAYMENTS
    with stand.measured("a payment is made, and its webhook"):
        stand.pay(paid=False)
        stand.told(hooks)
    stand.steps["a webhook"] = stand.steps["a payment is made, and its webhook"] - stand.steps["a payment is made"]
    readings += PAYMENTS
    with stand.worker_stands_still():
        stand.due()
    with stand.measured("a status is read, nothing new"):
        stand.read(readings)
    stand.pay(paid=True)
    hooks += PAYMENTS
    stand.told(hooks)
    hooks, readings = hooks + PAYMENTS, readings + PAYMENTS
    with stand.worker_stands_still():
        stand.due()
    with stand.measured("a status is read: paid; its webhook"):
        stand.read(readings)
        stand.told(hooks)


def _whole(stand: Stand) -> Cost:
    """Payments with everybody at work: made, told, read, paid, told."""
    counts = stand.target.upstream.get("/_counts")
    with stand.measured("whole payments"):
        stand.pay(paid=True)
        stand.told(counts["hooks"] + PAYMENTS)
        with stand.worker_stands_still():
            stand.due()
        stand.read(counts["readings"] + PAYMENTS)
        stand.told(counts["hooks"] + 2 * PAYMENTS)
    return stand.steps["whole payments"]


def costs(bench: Bench) -> None:
    """What a payment costs, step by step, with 0, 100,000 and 1,000,000 payments behind it."""
    foretold: Cost | None = None
    for size in SIZES[:2] if bench.quick else SIZES:
        stand = _stand(bench, size)
        _steps(stand)
        steps = stand.steps
        foretold = foretold or (
            steps["a payment is made"] + steps["a webhook"] + steps["a status is read: paid; its webhook"]
        )
        whole = _whole(stand)
        print(f"  {size:,} payments behind it; idle: WAL {stand.idle_wal:,.0f} bytes a second")
        print(HEADING)
        for name, cost in steps.items():
            print(cost.line(name))
        print(foretold.line("whole, as the empty database foretells"))
        for what in ("serve_ms", "worker_ms", "postgres_ms", "wal"):
            error = getattr(whole, what) / getattr(foretold, what) - 1
            print(f"    {what}: {error:+.0%} of what was foretold")
        held = stand.sql(
            "SELECT pg_database_size(current_database()) AS bytes, (SELECT count(*) FROM payment) AS payments"
        )
        print(f"  {held['bytes'] / 1e6:,.0f} MB hold {held['payments']:,} payments")
        bench.figures[f"costs, {size:,} behind"] = {
            **{name: vars(cost) for name, cost in steps.items()},
            "foretold": vars(foretold),
            "bytes": held["bytes"],
            "payments": held["payments"],
        }
        stand.target.compare_books()
        stand.worker.stop()
        stand.target.stop()
