"""Ways of taking the database away: restarted at once, frozen, full of strangers' connections, without room on disk.

Each is a context: inside it the database is away, for as many seconds as the context says, and afterwards it is back.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import asyncpg

from faults.bench import Bench
from faults.rig import Rig
from payment_dev.postgres import EmbeddedPostgres
from tests.support.database import TEMPLATE
from tests.support.waiting import until

DOWN_S: Final = 3
FROZEN_S: Final = 20
FROZEN_BRIEFLY_S: Final = 4
FULL_S: Final = 5
SETTINGS: Final = {"KASPI_DEADLINE_S": "4", "SENDING_LEASE_S": "30"}
"""As in production a sender is given up only when it has had time enough to write down what it knows."""
_DISK: Final = "64m"
MAY_ALSO_BE_TOLD: Final[dict[str, set[int | None]]] = {
    "restarted": set(),
    "frozen": set(),
    # A service may be quicker than the other clients, and a page may have room for one more row; but what was sent then
    # may have to wait until it can be written. An equal refund under another key waits for it (409).
    "crowded_out": {200, 202, 409},
    "disk_full": {200, 202, 409},
}


def _postmaster(postgres: EmbeddedPostgres) -> int:
    assert postgres._running is not None
    return postgres._running.pid


@contextlib.asynccontextmanager
async def rig_for(bench: Bench, case: str) -> AsyncIterator[Rig]:
    """A rig for an outage; one whose disk can be filled has it on a small one of its own."""
    async with contextlib.AsyncExitStack() as stack:
        if case == "disk_full":
            await stack.enter_async_context(_small_disk(bench))
        yield await stack.enter_async_context(await bench.new_rig(case, SETTINGS))


# --- restarted


@contextlib.asynccontextmanager
async def restarted(bench: Bench, rig: Rig) -> AsyncIterator[float]:
    """The server is shut down in immediate mode, as a crash would do it, and starts again."""
    # The rig's server is quick and careless: it may forget commits when it crashes. Not here.
    await rig.pool.execute("ALTER ROLE postgres SET synchronous_commit = on")
    await rig.pool.execute(
        "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity"
        " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    await rig.pool.execute("CHECKPOINT")
    bench.postgres.port = int(bench.postgres.url().rpartition(":")[2].partition("/")[0])
    pid = _postmaster(bench.postgres)
    os.kill(pid, signal.SIGQUIT)

    async def gone() -> bool:
        return not _alive(pid)

    await until(gone, "the server is down", within_s=10)
    try:
        yield 1 if bench.short else DOWN_S
    finally:
        await asyncio.to_thread(bench.postgres.start)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# --- frozen


@contextlib.asynccontextmanager
async def frozen(bench: Bench, rig: Rig) -> AsyncIterator[float]:
    """Every process of the server is stopped: lines stay up, and nothing moves on them."""
    # The rig itself asks the database when a call comes: it would hold up the call.
    watchers, rig.proxy.watchers = rig.proxy.watchers, []
    stopped = list(_with_children(_postmaster(bench.postgres)))
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)

    async def all_stand_still() -> bool:
        return all(_stat(pid)[0] == "T" for pid in stopped)

    try:
        await until(all_stand_still, "the server is frozen", within_s=5)
        yield FROZEN_BRIEFLY_S if bench.short else FROZEN_S
    finally:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        rig.proxy.watchers = watchers


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(_stat(int(folder.name))[1]) == pid:
                yield int(folder.name)


def _stat(pid: int) -> list[str]:
    """What Linux tells of a process: its state, its parent, and more."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# --- crowded out


@contextlib.asynccontextmanager
async def crowded_out(_bench: Bench, rig: Rig) -> AsyncIterator[float]:
    """Other sessions take every connection that there is, those of the service too."""
    strangers: list[asyncpg.Connection] = []

    async def crowd_in() -> None:
        while True:
            asked = (asyncpg.connect(rig.database_url, timeout=10) for _ in range(20))
            came = await asyncio.gather(*asked, return_exceptions=True)
            strangers.extend(one for one in came if isinstance(one, asyncpg.Connection))
            if any(isinstance(one, asyncpg.TooManyConnectionsError) for one in came):
                return

    async def keep_crowding() -> None:
        while True:
            await crowd_in()
            await rig.pool.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'payment-service'"
            )
            await asyncio.sleep(0.05)

    await crowd_in()
    crowding = asyncio.create_task(keep_crowding())
    try:
        yield FULL_S
    finally:
        crowding.cancel()
        await asyncio.gather(crowding, return_exceptions=True)
        for one in strangers:
            one.terminate()


# --- disk full


def can_mount() -> bool:
    """Whether this user may mount a disk."""
    return sys.platform == "linux" and os.geteuid() == 0


def _disk_of(bench: Bench) -> Path:
    return bench.postgres.home / "small-disk"


@contextlib.asynccontextmanager
async def _small_disk(bench: Bench) -> AsyncIterator[None]:
    """Let the next rig's database lie on a disk of 64 MB: a new database lies where its template does."""
    disk = _disk_of(bench)
    disk.mkdir()
    owner = (bench.postgres.home / "cluster").stat()
    how = f"size={_DISK},mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    await _run("mount", "-t", "tmpfs", "-o", how, "tmpfs", str(disk))
    server = await asyncpg.connect(bench.postgres.url())
    try:
        await server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        await server.execute(f"ALTER DATABASE {TEMPLATE} SET TABLESPACE small")
        yield
        await server.execute("DROP DATABASE faults_disk_full WITH (FORCE)")
        await server.execute(f"ALTER DATABASE {TEMPLATE} SET TABLESPACE pg_default")
        await server.execute("DROP TABLESPACE small")
    finally:
        await server.close()
        await _run("umount", "-l", str(disk))
        disk.rmdir()


async def _run(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(*words)
    if await process.wait() != 0:
        raise OSError(f"{words[0]} did not work")


@contextlib.asynccontextmanager
async def disk_full(bench: Bench, _rig: Rig) -> AsyncIterator[float]:
    """Something else fills the disk of the database to the last byte."""
    ballast = _disk_of(bench) / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    try:
        yield FULL_S
    finally:
        ballast.unlink()
