"""What PgBouncer costs: a payment made on PostgreSQL itself, in session mode, in transaction mode, by turns.

``docs/scaling.md`` has the figures. PgBouncer is Debian's (``apt install pgbouncer``).
"""

import asyncio
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import asyncpg
import load
from stage import Database, cpu_s, free_port
from targets import HEADING, Bench, Target

from payment_service.postgres.sessions import SETTINGS

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
SHARED = 10
"""Sessions in transaction mode; ``serve`` has 20 connections for its statements."""


@dataclass
class Pooled:
    """A service, and the pooler between it and PostgreSQL, if there is one."""

    target: Target
    pid: int | None

    @property
    def pooler_s(self) -> float:
        """Seconds of the processor that the pooler has used so far."""
        return cpu_s(self.pid) if self.pid else 0


def pooler(bench: Bench) -> None:
    """A payment through PgBouncer in session and in transaction mode, beside one without it: 1 and 16 clients."""
    if PROGRAM is None:
        print("  pgbouncer is not installed (Debian: pgbouncer): not measured")
        return
    all_three = {name: _made(bench, name) for name in ("direct", "session", "transaction")}
    targets = [one.target for one in all_three.values()]
    for target in targets:
        load.run(target.ports, target.create(), clients=8, seconds=1.5)
    print(HEADING)
    for clients, seconds in ((1, 2.5), (16, 2.5)):
        label = f"create, {clients} client{'s' * (clients > 1)}"
        before = {name: one.pooler_s for name, one in all_three.items()}
        done = bench.interleave(targets, Target.create, label=label, rounds=3, clients=clients, seconds=seconds)
        straight = done["direct"]
        for name, one in all_three.items():
            sample = done[name]
            own_ms = 1000 * (one.pooler_s - before[name]) / len(sample.seconds)
            bench.figures[f"{label}, {name}"]["pgbouncer_ms"] = own_ms
            of_all = (sample.cpu_ms + sample.postgres_ms + own_ms) / (straight.cpu_ms + straight.postgres_ms)
            print(
                f"  {label}, {name}: pgbouncer {own_ms:.2f} ms; "
                f"beside direct: serve {sample.cpu_ms / straight.cpu_ms:.2f}, "
                f"PostgreSQL {sample.postgres_ms / straight.postgres_ms:.2f}, processor of all {of_all:.2f}, "
                f"median {sample.p(50) - straight.p(50):+.1f} ms, rate {sample.rate / straight.rate:.2f}"
            )
    for target in targets:
        target.compare_books()
        target.stop()


def _made(bench: Bench, mode: str) -> Pooled:
    """A service over a database of its own: two on one database would hear each other's NOTIFY."""
    database, upstream = bench.stage.database(bench.tree), bench.stage.upstream(bench.plant)
    settings = bench.settings()
    pid, url = (None, database.url) if mode == "direct" else _pgbouncer(bench, database, mode)
    if mode == "transaction":
        settings["database_direct_url"] = database.url
    program = bench.stage.serve(replace(database, url=url), upstream, **settings)
    return Pooled(Target(mode, [program], database, upstream, bench.stage.shops), pid)


def _pgbouncer(bench: Bench, database: Database, mode: str) -> tuple[int, str]:
    """Start one before the database, as docs/deploy.md sets it up; its process, and the address through it."""
    if mode == "transaction":
        asyncio.run(_give_settings(database))
    server, port = urlsplit(database.url), free_port()
    folder = bench.stage.folder / f"pgbouncer-{mode}"
    folder.mkdir(mode=0o755)
    (folder / "userlist.txt").write_text(f'"{server.username}" "{server.password}"\n')
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "md5",
        "auth_file": folder / "userlist.txt",
        "pool_mode": mode,
        "default_pool_size": SHARED if mode == "transaction" else 40,
        **({"user": "nobody"} if os.getuid() == 0 else {}),  # it does not run as root
    }
    settings = "".join(f"{name} = {value}\n" for name, value in lines.items())
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={server.hostname} port={server.port}\n[pgbouncer]\n{settings}"
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(PROGRAM), str(folder / "pgbouncer.ini")], stdout=log, stderr=log)
    bench.stage.stack.callback(process.kill)
    time.sleep(1)
    return process.pid, database.url.replace(f":{server.port}/", f":{port}/")


async def _give_settings(database: Database) -> None:
    """Let the role have in this database what ``serve`` cannot set in sessions that it shares."""
    connection = await asyncpg.connect(database.url)
    try:
        for name, value in SETTINGS.items():
            await connection.execute(
                f"ALTER ROLE {urlsplit(database.url).username} IN DATABASE {database.name} SET {name} = '{value}'"
            )
    finally:
        await connection.close()
