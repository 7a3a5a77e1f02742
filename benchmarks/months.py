"""The record by months: how long payments wait for the migration, and what partitions cost.

    python benchmarks/months.py migrate --before COMMIT [--rows 1000000]
    python benchmarks/months.py create --before COMMIT
    python benchmarks/months.py read [--rows 1000000]

``migrate``: an earlier commit serves over a database at its own schema, with so many rows in the record. Clients make
payments; this tree's ``migrate`` runs beside them; then this tree's ``serve`` takes over. No payment may fail.
``create``: payments over 4, 15 and 60 partitions, beside that commit. ``read``: pages of the record over 60 months with
rows in each, beside the same rows in one partition.
"""

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import asyncpg
import load
from logs import fill, questions, times
from stage import Stage, stage
from targets import HEADING, Bench, Target

CLIENTS, EVERY_S = 8, 0.02
"""Payments are made all the time, and not so many that they wait for each other."""
REPORTS = """
    SET session_replication_role = replica;
    UPDATE payment_log SET source = 'client', report_id = 'r' || id WHERE id % 10 = 0 AND actor = 'bench';
"""


MORE = """
    SET timezone = 'UTC';
    DO $$ BEGIN FOR number IN 1..{} LOOP
        PERFORM make_log_partition('more_' || number);
        EXECUTE format('ALTER TABLE payment_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', 'more_' || number,
            log_months_until(), log_months_until() + interval '1 month');
    END LOOP; END $$
"""
BY_MONTH = """
    SET timezone = 'UTC';
    ALTER TABLE payment_log DETACH PARTITION payment_log_first;
    DO $$ DECLARE
        begins timestamptz := (SELECT min(log_until(inhrelid)) - interval '59 months' FROM pg_inherits
                               WHERE inhparent = 'payment_log'::regclass);
    BEGIN FOR number IN REVERSE 57..0 LOOP
        PERFORM make_log_partition('month_' || number);
        EXECUTE format('ALTER TABLE payment_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', 'month_' || number,
            begins + make_interval(months => 57 - number), begins + make_interval(months => 58 - number));
    END LOOP; END $$
"""


def main() -> None:
    """Measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("migrate", "create", "read"))
    parser.add_argument("--before", metavar="COMMIT", default="HEAD")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20, help="how long payments are made before and after")
    wanted = parser.parse_args()
    with stage(pinned=wanted.what != "migrate") as on:
        if wanted.what == "migrate":
            migrate(on, wanted.before, wanted.rows, wanted.seconds)
        elif wanted.what == "create":
            create(on, wanted.before)
        else:
            read(on, wanted.rows)


def migrate(on: Stage, commit: str, rows: int, seconds: float) -> None:
    """The migration beside payments."""
    with ThreadPoolExecutor() as threads:
        before, after = on.commit(commit), on.tree()
        database, upstream = on.database(before), on.upstream()
        asyncio.run(fill(database.url, rows))
        asyncio.run(_execute(database.url, REPORTS))
        serves = [on.serve(database, upstream)]
        target = Target("earlier", serves, database, upstream, on.shops)
        load.run(target.ports, target.create(), clients=CLIENTS, seconds=2)

        def pay(seconds: float) -> load.Round:
            return load.run(target.ports, target.create(), clients=CLIENTS, seconds=seconds, every_s=EVERY_S)

        _say("without migrate", pay(seconds))
        paying = threads.submit(pay, 2 * seconds)
        time.sleep(2)
        began = time.perf_counter()
        on.command(replace(database, tree=after), "migrate")
        took_s = time.perf_counter() - began
        _say("beside migrate", paying.result())
        print(f"  migrate took {took_s:.1f} s; partitions: {asyncio.run(_partitions(database.url))}")
        _say("after it, the earlier serve", pay(seconds))
        serves[:] = [on.serve(replace(database, tree=after), upstream)]
        load.run(target.ports, target.create(), clients=CLIENTS, seconds=2)
        _say("after it, this tree's serve", pay(seconds))
        target.compare_books()


def create(on: Stage, commit: str) -> None:
    """Payments over few and many partitions, by turns."""
    bench = Bench(on, quick=False, measured="", compared=commit, plant="")
    targets = [bench.target(bench.against)]
    for partitions in (4, 15, 60):
        target = bench.target(bench.tree)
        target.name = f"{partitions} partitions"
        asyncio.run(_execute(target.database.url, MORE.format(partitions - 4)))
        targets.append(target)
    for target in targets:
        load.run(target.ports, target.create(), clients=4, seconds=2)
    print(HEADING)
    bench.interleave(targets, Target.create, label="create", rounds=8, clients=4, seconds=2.5)


def read(on: Stage, rows: int) -> None:
    """Pages of the record over 60 partitions and over one with the same rows."""
    services, keys, upstream = {}, {}, on.upstream()
    for partitions in (4, 60):
        database = on.database(on.tree())
        if partitions == 60:
            asyncio.run(_execute(database.url, BY_MONTH))
        asyncio.run(fill(database.url, rows, days=1700))
        services[partitions], keys[partitions] = on.serve(database, upstream), database.key
    print(f"{'':<34}{'4 partitions':>14}{'60 partitions':>15}{'ratio':>8}")
    for name, query in questions(rows).items():
        few, many = times(services, keys, dict.fromkeys(services, query)).values()
        print(f"{name:<34}{few:>11.1f} ms{many:>12.1f} ms{many / few:>8.2f}")


def _say(what: str, made: load.Round) -> None:
    print(
        f"  {what:<30}{len(made.seconds):>7} payments, {made.refused} refused,"
        f" p50 {load.percentile(made.seconds, 50):.1f} ms, the longest {1000 * max(made.seconds):.0f} ms"
    )


async def _execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()


async def _partitions(url: str) -> str:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text, pg_relation_size(inhrelid) FROM pg_inherits"
        " WHERE inhparent = 'payment_log'::regclass ORDER BY 1"
    )
    await connection.close()
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in rows)


if __name__ == "__main__":
    main()
