"""The record is partitioned by month while payments are made: how long the longest of them waited.

    python benchmarks/months.py --before COMMIT [--rows 1000000]

An earlier commit serves over a database at its own schema, with so many rows in the record. Clients make payments; this
tree's ``migrate`` runs beside them; then this tree's ``serve`` takes over. No payment may fail.
"""

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import asyncpg
import load
from logs import fill
from stage import stage
from targets import Target

CLIENTS, EVERY_S = 8, 0.02
"""Payments are made all the time, and not so many that they wait for each other."""
REPORTS = """
    SET session_replication_role = replica;
    UPDATE payment_log SET source = 'client', report_id = 'r' || id WHERE id % 10 = 0 AND actor = 'bench';
"""


def main() -> None:
    """Measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20, help="how long payments are made before and after")
    wanted = parser.parse_args()
    with stage(pinned=False) as on, ThreadPoolExecutor() as threads:
        before, after = on.commit(wanted.before), on.tree()
        database, upstream = on.database(before), on.upstream()
        asyncio.run(fill(database.url, wanted.rows))
        asyncio.run(_execute(database.url, REPORTS))
        serves = [on.serve(database, upstream)]
        target = Target("earlier", serves, database, upstream, on.shops)
        load.run(target.ports, target.create(), clients=CLIENTS, seconds=2)

        def pay(seconds: float) -> load.Round:
            return load.run(target.ports, target.create(), clients=CLIENTS, seconds=seconds, every_s=EVERY_S)

        _say("without migrate", pay(wanted.seconds))
        paying = threads.submit(pay, 2 * wanted.seconds)
        time.sleep(2)
        began = time.perf_counter()
        on.command(replace(database, tree=after), "migrate")
        took_s = time.perf_counter() - began
        _say("beside migrate", paying.result())
        print(f"  migrate took {took_s:.1f} s; partitions: {asyncio.run(_partitions(database.url))}")
        _say("after it, the earlier serve", pay(wanted.seconds))
        serves[:] = [on.serve(replace(database, tree=after), upstream)]
        _say("after it, this tree's serve", pay(wanted.seconds))
        target.compare_books()


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
