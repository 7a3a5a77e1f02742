"""Thousands of events to a receiver that fails half of its calls and is killed twice: none is lost, versions end right.

``python -m faults.flood [EVENTS]`` (10,000; ``make events``) runs over a throw-away PostgreSQL with two workers;
``make test`` runs a short slice of it.
"""

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.services import open_services
from payment_service.settings import Settings
from tests.support import receiver
from tests.support.database import Server, start_postgres
from tests.support.processes import Process, clean_environment, free_port
from tests.support.rig import Rig
from tests.support.shops import ENCRYPTION_KEY
from tests.support.waiting import until

LIFE = (EventType.PAYMENT_PENDING, EventType.PAYMENT_UNKNOWN, EventType.PAYMENT_PAID, EventType.REFUND_SUCCEEDED)
FAILS = 0.5
KILLS = 2
# Half of the calls fail, so most events need a few tries: close together, and enough for the times of the kills.
PROMPT = {
    "WEBHOOK_DELAYS_S": ",".join(["0.2", "0.5"] + ["1"] * 40),
    "WEBHOOK_ORDER_WAIT_S": "1",
    "LOG_LEVEL": "WARNING",
}


@dataclass
class Report:
    """What came of a flood."""

    events: int
    tries: int
    calls: int
    seconds: float
    late: int
    """Events that came after a later one of their object."""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.events} events, {self.tries} tries, {self.calls} taken, {self.calls - self.events} of them again, "
            f"{self.late} after a later version, {self.seconds:.1f} s\n"
            + ("\n".join(self.problems) or "each delivered at least once, none lost, versions end right")
        )


async def flood(folder: Path, database_url: str, events: int, *, workers: int = 2) -> Report:
    """Send so many events to a receiver that fails half of its calls and is killed twice."""
    started = time.monotonic()
    async with Rig(folder, database_url) as rig:
        receiving = Receiving(folder / "receiver", free_port())
        await receiving.start()
        try:
            made = rig.run("webhooks", "add", f"http://127.0.0.1:{receiving.port}/flood", "--json")
            [endpoint] = json.loads(made.stdout)
            rig.secrets.add(endpoint["secret"])
            receiver.keep_secret(receiving.folder, "/flood", endpoint["secret"])
            for _ in range(workers):
                rig.start_worker(**PROMPT)
            written = asyncio.create_task(write(database_url, events))
            for kill in range(1, KILLS + 1):
                share = events * kill // (KILLS + 1)
                await until(reached(receiving.count, share), f"{share} events are taken", within_s=60 + events / 5)
                await receiving.die_and_come_back()
            last_versions = await written
            sql = await asyncpg.connect(database_url)
            try:
                await until(lambda: settled(sql, events), "every delivery has ended", within_s=120 + events / 5)
                return await compared(sql, receiving.folder, last_versions, time.monotonic() - started)
            finally:
                await sql.close()
        finally:
            await receiving.program.stop(signal.SIGKILL)


class Receiving:
    """The receiver's process, which is killed and comes back on the same port."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.folder, self.port, self._lives = folder, port, 0

    async def start(self) -> None:
        self._lives += 1
        words = ["tests.support.receiver", str(self.port), str(self.folder), str(FAILS)]
        environment = clean_environment(self.folder)
        name = f"receiver-{self._lives}"
        self.program = Process(words, environment=environment, folder=self.folder, name=name, port=self.port)
        await self.program.ready("/")

    async def die_and_come_back(self) -> None:
        await self.program.stop(signal.SIGKILL)
        await self.start()

    def count(self) -> int:
        return len({line["webhook_id"] for line in receiver.taken(self.folder)})


def reached(count: Callable[[], int], share: int) -> Any:
    """Whether so many were counted."""

    async def there() -> bool:
        return count() >= share

    return there


async def write(database_url: str, events: int) -> dict[str, int]:
    """Write the lives of so many objects as they would be lived, side by side; the last version of each."""
    settings = Settings(
        _env_file=None,
        database_url=database_url,
        production_api_url="http://127.0.0.1:1",
        kaspi_access_token="none",
        encryption_keys=ENCRYPTION_KEY,
    )
    subjects: list[UUID] = [new_id() for _ in range(-(-events // len(LIFE)))]
    moves = [(subject, version) for version in range(1, len(LIFE) + 1) for subject in subjects][:events]
    async with open_services(settings) as services:
        for start in range(0, len(moves), 50):
            async with services.database.transaction() as session:
                for subject, version in moves[start : start + 50]:
                    data = {"id": str(subject), "amount": 100}
                    outbox.write(session, LIFE[version - 1], subject, version=version, shop_id=121038, data=data)
    last: dict[str, int] = {}
    for subject, version in moves:
        last[str(subject)] = version
    return last


async def settled(sql: asyncpg.Connection, events: int) -> bool:
    """Whether every event has a delivery and none of them waits."""
    query = "SELECT count(*), count(*) FILTER (WHERE state = 'waiting') FROM event_delivery"
    deliveries, waiting = await sql.fetchrow(query)
    return bool(deliveries == events and waiting == 0)


async def compared(sql: asyncpg.Connection, folder: Path, last_versions: dict[str, int], seconds: float) -> Report:
    """Hold what the receiver took against what was written."""
    lines = receiver.taken(folder)
    written = {str(row["id"]) for row in await sql.fetch("SELECT id FROM event WHERE subject <> 'endpoint'")}
    took = Counter(line.get("webhook_id") for line in lines)
    versions: dict[str, int] = {}
    late = 0
    for line in lines:
        subject = line["data"]["id"]
        late += line["version"] < versions.get(subject, 0)
        versions[subject] = max(versions.get(subject, 0), line["version"])
    states = Counter(row["state"] for row in await sql.fetch("SELECT state FROM event_delivery"))
    tries = await sql.fetchval("SELECT count(*) FROM delivery_try")
    report = Report(len(written), tries, len(lines), seconds, late)
    if set(took) != written:
        report.problems.append(f"lost: {len(written - set(took))}, foreign: {len(set(took) - written)}")
    if versions != last_versions:
        report.problems.append("some object does not end at its last version")
    if set(states) != {"delivered"}:
        report.problems.append(f"deliveries ended as {dict(states)}")
    if tries < 1.5 * len(written):
        report.problems.append(f"only {tries} tries: the receiver did not fail half of its calls")
    return report


def main() -> None:
    """Run a long one."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="payment-service-events-") as name:
        postgres = start_postgres(Path(name) / "postgres")
        try:
            url = asyncio.run(Server(postgres.url()).make("events"))
            folder = Path(name) / "rig"
            folder.mkdir()
            report = asyncio.run(flood(folder, url, events))
        finally:
            postgres.remove()
    sys.stdout.write(f"{report}\n")
    sys.exit(bool(report.problems))


if __name__ == "__main__":
    main()
