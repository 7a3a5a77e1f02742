"""The record sealed and verified, beside a plain SELECT of the same rows: what the proof costs."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import asyncpg
from logs import fill
from stage import stage

from payment_service.audit import sealing
from payment_service.audit.checking import check_database
from payment_service.audit.sealing import AuditSeals
from payment_service.observability import logs as service_logs
from payment_service.postgres.database import Database

ROWS = 200_000
ROUNDS = 3


async def timed(action: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds that it took, and seconds of this process's processor."""
    began, used = time.perf_counter(), time.process_time()
    await action()
    return time.perf_counter() - began, time.process_time() - used


async def measure(url: str) -> None:
    await fill(url, ROWS)
    database = Database(url, pool_size=2)
    reader = await asyncpg.connect(url)
    sealing.MAX_SEALS_AT_ONCE = ROWS

    async def select() -> None:
        async with reader.transaction():
            async for _row in reader.cursor("SELECT * FROM payment_log ORDER BY id", prefetch=5000):
                pass

    async def verify() -> None:
        report = await check_database(database)
        if report.problem or report.rows < ROWS:
            raise RuntimeError("the record is not whole")

    plain = [await timed(select)]
    sealed = await timed(AuditSeals(database).seal)
    verified = []
    for _ in range(ROUNDS):
        plain.append(await timed(select))
        verified.append(await timed(verify))
    base = sorted(plain)[len(plain) // 2]
    for name, (taken, cpu) in (("plain SELECT", base), ("seal", sealed), ("verify", sorted(verified)[ROUNDS // 2])):
        print(f"{name:<14}{ROWS / taken:12,.0f} rows/s{1e6 * cpu / ROWS:8.1f} us cpu/row{taken / base[0]:8.1f} times")
    await reader.close()
    await database.close()


def main() -> None:
    service_logs.configure(readable=False, level="WARNING")
    with stage() as here:
        asyncio.run(measure(here.database(here.tree()).url))


if __name__ == "__main__":
    main()
