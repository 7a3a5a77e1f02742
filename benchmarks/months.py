"""Tables by months: how long payments wait for the migration, and what partitions cost.

    python benchmarks/months.py migrate --before COMMIT [--rows 1000000]
    python benchmarks/months.py events --before COMMIT [--rows 1000000]
    python benchmarks/months.py create --before COMMIT
    python benchmarks/months.py deliver
    python benchmarks/months.py read [--rows 1000000]

``migrate``: an earlier commit serves over a database at its own schema, with so many rows in the record. Clients make
payments; this tree's ``migrate`` runs beside them; then this tree's ``serve`` takes over. No payment may fail.
``events``: the same with so many events, their deliveries, tries and messages, and a worker of that commit.
``create``: payments over 4, 15 and 60 partitions, beside that commit. ``deliver``: claims and results of deliveries
over as many. ``read``: pages of the record over 60 months with rows in each, beside the same rows in one partition.
"""

import argparse
import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

import asyncpg
import load
from logs import fill, questions, times
from rows import drop_indexes
from stage import Stage, stage
from targets import HEADING, Bench, Target

from payment_service.postgres.database import STATEMENT_SETTINGS
from payment_service.webhooks import delivery

CLIENTS, EVERY_S = 8, 0.02
"""Payments are made all the time, and not so many that they wait for each other."""
REPORTS = """
    SET session_replication_role = replica;
    UPDATE payment_log SET source = 'client', report_id = 'r' || id WHERE id % 10 = 0 AND actor = 'bench';
"""


EVENTS = """
    SET session_replication_role = replica;
    SET synchronous_commit = off;
    SET maintenance_work_mem = '256MB';
    INSERT INTO notify_chat (id, channel, address) VALUES ('{endpoint}', 'telegram', '-1');
    INSERT INTO event (id, type, subject, subject_id, version, shop_id, data, created_at, passed_on_at)
        SELECT uuidv7(at - now()), 'payment.paid', 'payment', uuidv7(at - now()), 2, 1001 + n % 60,
            jsonb_build_object('message', repeat(md5(n::text), 4)), at, at
        FROM generate_series(1, {rows}) AS n,
            LATERAL (SELECT now() - interval '1 minute' * (400000.0 * n / {rows})) AS made (at);
    INSERT INTO event_delivery
            (id, event_id, endpoint_id, type, subject_id, version, shop_id, state, tries, created_at, ended_at)
        SELECT uuidv7(created_at - now()), id, '{endpoint}', type, subject_id, version, shop_id, 'delivered', 1,
            created_at, created_at
        FROM event;
    INSERT INTO delivery_try (delivery_id, number, succeeded, status, answer, duration_ms, created_at)
        SELECT id, 1, true, 200, 'ok', 40, created_at FROM event_delivery;
    INSERT INTO notify_message (event_id, chat_id, language, state, tries, created_at, tried_at, sent_at)
        SELECT id, '{endpoint}', 'ru', 'sent', 1, created_at, created_at, created_at FROM event WHERE version = 2;
"""
"""Events of nine months, each delivered once and told once."""
FAMILY = ("event", "event_delivery", "delivery_try", "notify_message")
MORE = """
    SET timezone = 'UTC';
    DO $$ DECLARE leader text; of text; since timestamptz; BEGIN
        FOREACH leader IN ARRAY '{{payment_log,event}}'::text[] LOOP FOR number IN 1..{} LOOP
            since := (SELECT max(month_until(inhrelid)) FROM pg_inherits WHERE inhparent = leader::regclass);
            FOREACH of IN ARRAY kept_with(leader) LOOP
                PERFORM make_partition(of, 'more_' || number, of::regclass);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of,
                    of || '_more_' || number, month_bound(of, since), month_bound(of, since + interval '1 month'));
            END LOOP;
        END LOOP; END LOOP;
    END $$
"""
BY_MONTH = """
    SET timezone = 'UTC';
    DO $$ DECLARE
        leader text := '{leader}';
        of text;
        begins timestamptz := (SELECT min(month_until(inhrelid)) - interval '1 month' * {older} FROM pg_inherits
                               WHERE inhparent = leader::regclass);
    BEGIN FOREACH of IN ARRAY kept_with(leader) LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', of, of || '_first');
        FOR number IN 1..{older} LOOP
            PERFORM make_partition(of, 'month_' || number, of::regclass);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', of,
                of || '_month_' || number, month_bound(of, begins + interval '1 month' * (number - 1)),
                month_bound(of, begins + interval '1 month' * number));
        END LOOP;
    END LOOP; END $$
"""
"""In place of the first partition, which is empty, so many months up to its end."""
WAITING = """
    SET session_replication_role = replica;
    INSERT INTO webhook_endpoint (id, url, secret_ciphertext)
        SELECT uuidv7(), 'https://shop.example.kz/webhook', 'x' FROM generate_series(1, 10);
    INSERT INTO event (id, type, subject, subject_id, version, shop_id, data, passed_on_at)
        SELECT uuidv7(), 'payment.paid', 'payment', n, 2, 1001, '{}', now() FROM generate_series(1, 5000) AS n;
    INSERT INTO event_delivery (id, event_id, endpoint_id, type, subject_id, version, shop_id, next_try_at)
        SELECT uuidv7(), event.id, webhook_endpoint.id, 'payment.paid', subject_id, 2, 1001, now()
        FROM event, webhook_endpoint;
    RESET session_replication_role;
    ANALYZE;
"""


def main() -> None:
    """Measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("migrate", "events", "create", "deliver", "read"))
    parser.add_argument("--before", metavar="COMMIT", default="HEAD")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20, help="how long payments are made before and after")
    wanted = parser.parse_args()
    with stage(pinned=wanted.what not in {"migrate", "events"}) as on:
        if wanted.what in {"migrate", "events"}:
            migrate(on, wanted.before, wanted.rows, wanted.seconds, of_events=wanted.what == "events")
        elif wanted.what == "deliver":
            deliver(on)
        elif wanted.what == "create":
            create(on, wanted.before)
        else:
            read(on, wanted.rows)


def migrate(on: Stage, commit: str, rows: int, seconds: float, *, of_events: bool) -> None:
    """The migration beside payments."""
    with ThreadPoolExecutor() as threads:
        before, after = on.commit(commit), on.tree()
        database, upstream = on.database(before), on.upstream()
        if of_events:
            [endpoint] = json.loads(on.command(database, "webhooks", "add", "http://127.0.0.1:1025/hook", "--json"))
            asyncio.run(_fill_events(database.url, rows, endpoint["id"]))
        else:
            asyncio.run(fill(database.url, rows))
            asyncio.run(_execute(database.url, REPORTS))
        serves = [on.serve(database, upstream)]
        worker = on.worker(database, upstream) if of_events else None
        target = Target("earlier", serves, database, upstream, on.shops)
        load.run(target.ports, target.create(), clients=CLIENTS, seconds=2)

        def pay(seconds: float) -> load.Round:
            return load.run(target.ports, target.create(), clients=CLIENTS, seconds=seconds, every_s=EVERY_S)

        migrated = threading.Event()

        def pay_until_migrated() -> load.Round:
            made = load.Round()
            while not migrated.is_set():
                part = pay(5)
                made.seconds += part.seconds
                made.refused += part.refused
            return made

        _say("without migrate", pay(seconds))
        paying = threads.submit(pay_until_migrated)
        adding = threads.submit(lambda: asyncio.run(_add_events(database.url, migrated))) if of_events else None
        time.sleep(2)
        began = time.perf_counter()
        on.command(replace(database, tree=after), "migrate")
        took_s = time.perf_counter() - began
        migrated.set()
        _say("beside migrate", paying.result())
        if adding is not None:
            ms = [1000 * each for each in adding.result()]
            print(
                f"  {len(ms)} events added meanwhile: the longest waited {max(ms):.0f} ms, the median {median(ms):.1f}"
            )
        print(f"  migrate took {took_s:.1f} s; partitions: {asyncio.run(_partitions(database.url))}")
        _say("after it, the earlier serve", pay(seconds))
        serves[:] = [on.serve(replace(database, tree=after), upstream)]
        load.run(target.ports, target.create(), clients=CLIENTS, seconds=2)
        _say("after it, this tree's serve", pay(seconds))
        if worker is not None:
            worker.stop()
            print(f"  {asyncio.run(_kept(database.url))}")
        target.compare_books()


def deliver(on: Stage) -> None:
    """Claims of ten deliveries and their results, over few and many partitions of past months, by turns."""
    urls = {}
    for partitions in (4, 15, 60):
        database = on.database(on.tree())
        asyncio.run(_execute(database.url, BY_MONTH.format(leader="event", older=partitions - 3)))
        asyncio.run(_execute(database.url, WAITING))
        urls[partitions] = database.url
    print(f"{'milliseconds, median':<24}{'a claim':>10}{'a result':>10}{'the next':>10}")
    for partitions, took in asyncio.run(_deliver(urls)).items():
        print(f"{f'{partitions} partitions':<24}" + "".join(f"{1000 * median(each):>10.2f}" for each in took.values()))


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
            asyncio.run(_execute(database.url, BY_MONTH.format(leader="payment_log", older=58)))
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


async def _fill_events(url: str, rows: int, endpoint_id: str) -> None:
    """Rows by SQL; the indexes are made after them."""
    connection = await asyncpg.connect(url)
    indexes = [index for table in FAMILY for index in await drop_indexes(connection, table)]
    await connection.execute(EVENTS.format(rows=rows, endpoint=endpoint_id))
    for index in indexes:
        await connection.execute(index)
    for table in FAMILY:
        await connection.execute(f"VACUUM ANALYZE {table}")
    await connection.close()


async def _add_events(url: str, ended: threading.Event) -> list[float]:
    """Add an event every 2 ms, as a move does, until then; how long each waited."""
    connection, took = await asyncpg.connect(url), []
    add = (
        "INSERT INTO event (id, type, subject, subject_id, version, data)"
        " VALUES (uuidv7(), 'test', 'test', 'added', 1, '{}')"
    )
    while not ended.is_set():
        began = time.perf_counter()
        await connection.execute(add)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
    await connection.close()
    return took


async def _kept(url: str) -> str:
    """How many rows there are, and whether each try names the event of its delivery."""
    connection = await asyncpg.connect(url)
    counts = [f"{await connection.fetchval(f'SELECT count(*) FROM {table}')} {table}" for table in FAMILY]
    wrong = await connection.fetchval(
        "SELECT count(*) FROM delivery_try JOIN event_delivery ON id = delivery_id"
        " WHERE delivery_try.event_id <> event_delivery.event_id"
    )
    await connection.close()
    return f"{', '.join(counts)}; tries with another event: {wrong}"


async def _deliver(urls: dict[int, str]) -> dict[int, dict[str, list[float]]]:
    connections = {each: await asyncpg.connect(url, server_settings=STATEMENT_SETTINGS) for each, url in urls.items()}
    took: dict[int, dict[str, list[float]]] = {each: {"claim": [], "result": [], "next": []} for each in urls}
    for _ in range(60):
        for partitions, connection in connections.items():
            began = time.perf_counter()
            turns = await connection.fetch(delivery.CLAIM, 10, 10, 40, 60.0, 3.0)
            took[partitions]["claim"].append(time.perf_counter() - began)
            for turn in turns:
                given = turn["id"], turn["lease_end"], True, 200, None, "ok", 40, None, True, turn["event_id"]
                began = time.perf_counter()
                await connection.fetchrow(delivery.RESULT, *given)
                took[partitions]["result"].append(time.perf_counter() - began)
            began = time.perf_counter()
            await connection.fetchrow(delivery.NEXT)
            took[partitions]["next"].append(time.perf_counter() - began)
    for connection in connections.values():
        await connection.close()
    return took


async def _partitions(url: str) -> str:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text, pg_relation_size(inhrelid) FROM pg_inherits"
        " WHERE inhparent IN ('payment_log'::regclass, 'event'::regclass) AND pg_relation_size(inhrelid) > 0 ORDER BY 1"
    )
    await connection.close()
    return ", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in rows)


if __name__ == "__main__":
    main()
