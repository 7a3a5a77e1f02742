"""Hours of traffic in minutes, under faults at random: memory stays flat, nothing is left behind, all records agree.

``python -m faults.soak [--minutes 20] [--seed N]`` (``make soak``). Clients ask twenty times a second, which is what
seven sellers ask in four hours done in twenty minutes. Meanwhile replies are lost and spoilt, the proxy refuses,
processes are killed and ended, connections to the database are cut, and the database crashes. One service and one
worker live through all of it; they are the ones that are measured.
"""

import argparse
import asyncio
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from faults import courses, outages
from faults.bench import Bench
from faults.flood import Receiving
from faults.kills import Crowd
from faults.rig import OBSERVER
from tests.support import receiver
from tests.support.processes import Process, free_port
from tests.support.waiting import until

ROUND_S: Final = 45.0
"""After so long everything settles, and what happened since is compared."""
SAMPLE_S: Final = 2.0
SETTLED_S: Final = 20.0
"""So long may webhooks take to arrive, when nothing fails any more but a share of their calls."""
SETTINGS: Final = {
    # Longer than the rig's own: a machine that is busy for a second is no fault of the provider.
    "KASPI_DEADLINE_S": "4",
    "SENDING_LEASE_S": "6",
    "WEBHOOK_DELAYS_S": ",".join(["0.2", "0.5"] + ["1"] * 120),
    "WEBHOOK_ORDER_WAIT_S": "1",
    "WEBHOOKS_STAY_HERE": "true",
    "FAULTS_TASKS": "tasks",
}
SPOILT: Final = (
    courses.close,
    courses.reset,
    courses.hang,
    courses.drips,
    courses.applied(courses.reset),
    courses.applied(courses.close),
    courses.applied(courses.hang),
    courses.remade(courses.half_headers),
    courses.remade(courses.half_promised),
    courses.remade(courses.bad_json),
    courses.says(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
)
FLAT: Final = 1.05
"""Memory of the last third may be so many times that of the second, and a megabyte more."""
WARM_MIN: Final = 10
"""In a run that is shorter, in minutes, pools and caches still fill."""


@dataclass
class Stayer:
    """A process that lives through it all."""

    name: str
    process: Process
    folder: Path
    samples: list[tuple[float, float, int]] = field(default_factory=list)
    """When, megabytes of memory, open files and sockets."""
    at_rest: list[tuple[int, int]] = field(default_factory=list)
    """Open files and tasks each time that everything had settled."""

    def sample(self) -> None:
        """Look at it now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        self.samples.append((time.monotonic(), int(found[1]) / 1024, self._files()))

    def _files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def rest(self) -> None:
        """Count what is open and what runs, while nothing is to be done."""
        file = self.folder / f"tasks.{self.process.pid}"
        file.unlink(missing_ok=True)
        self.process.signal(signal.SIGUSR2)

        async def told() -> bool:
            return file.exists() and file.read_text().endswith("\n")

        await until(told, f"{self.name} says how many tasks it has")
        self.at_rest.append((self._files(), int(file.read_text())))

    def problems(self, minutes: float) -> list[str]:
        """What has grown."""
        found = []
        _, second, third = self.thirds()
        if minutes >= WARM_MIN and third > second * FLAT + 1:
            found.append(f"memory_is_flat: {self.name} grew from {second:.1f} to {third:.1f} MB in its last third")
        (files, tasks), (files_left, tasks_left) = self.at_rest[0], self.at_rest[-1]
        if files_left > files + 3:
            found.append(f"nothing_is_left_open: {self.name} had {files} files and sockets open, and has {files_left}")
        if tasks_left > tasks + 3:
            found.append(f"no_task_is_left: {self.name} had {tasks} tasks, and has {tasks_left}")
        return found

    def thirds(self) -> list[float]:
        """The median memory in each third of the run, in megabytes."""
        size = max(len(self.samples) // 3, 1)
        thirds = [self.samples[third * size : (third + 1) * size] or self.samples[-1:] for third in range(3)]
        return [median(mb for _, mb, _ in third) for third in thirds]


@dataclass
class Soak:
    """One run."""

    bench: Bench
    minutes: float
    done: Counter[str] = field(default_factory=Counter)
    """How often each fault was."""
    problems: list[str] = field(default_factory=list)

    async def run(self) -> None:
        """Play rounds until the time is over, and compare all that came of it."""
        rig = self.bench.rig
        self.stayers = [
            Stayer(name, process, rig.folder)
            for name, process in (("serve", rig.services[0]), ("worker", rig.workers[0]))
        ]
        receiving = Receiving(rig.folder / "receiver", free_port())
        await receiving.start()
        sampling = asyncio.create_task(self._sample())
        # Who asks the database as each call comes waits when that is away, and the reply would be late.
        rig.proxy.watchers.clear()
        try:
            await self._listen_for_events(receiving)
            end = time.monotonic() + 60 * self.minutes
            number = 0
            while (left := end - time.monotonic()) > 0:
                number += 1
                await self._round(f"round {number}", min(ROUND_S, left))
            self.problems += await self._webhooks(receiving)
        finally:
            sampling.cancel()
            await receiving.program.stop(signal.SIGKILL)
        for stayer in self.stayers:
            self.problems += stayer.problems(self.minutes)
        self.bench.tell(self.problems, "")

    async def _sample(self) -> None:
        while True:
            for stayer in self.stayers:
                stayer.sample()
            await asyncio.sleep(SAMPLE_S)

    async def _listen_for_events(self, receiving: Receiving) -> None:
        rig = self.bench.rig
        made = await asyncio.to_thread(rig.run, "webhooks", "add", f"http://127.0.0.1:{receiving.port}/soak", "--json")
        assert made.returncode == 0, made.stderr
        [endpoint] = json.loads(made.stdout)
        rig.secrets.add(endpoint["secret"])
        receiver.keep_secret(receiving.folder, "/soak", endpoint["secret"])

    # --- a round

    async def _round(self, case: str, seconds: float) -> None:
        bench = self.bench
        bench.random = bench.clients.random = bench.random_of(case)
        crowd = Crowd(bench.clients, bench.random)
        asking = asyncio.create_task(crowd.keep_asking())
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await asyncio.sleep(bench.random.uniform(0.2, 2))
                await self._break(bench.random)
        finally:
            asking.cancel()
            for op in ("create", "create-link", "refund", "status"):
                bench.rig.proxy.forget(op, "")
            await crowd.leave()
        told = bench.clients.taken()
        found = await bench.check(told, may_be_unknown=True, case=case)
        answered = [one.seconds for one in told if one.status is not None]
        bench.count(case, "mixed", 1, told, found, bench.books.unknown, max(answered, default=0))
        await asyncio.sleep(2)  # what was opened ahead ends, as do answers that nobody waits for
        for stayer in self.stayers:
            await stayer.rest()

    async def _break(self, chance: random.Random) -> None:
        faults: list[tuple[int, Callable[[random.Random], Awaitable[None]]]] = [
            (12, self._spoil),
            (3, self._refuse),
            (3, self._kill),
            (2, self._end),
            (3, self._cut),
            (1, self._crash),
        ]
        [fault] = chance.choices([one for _, one in faults], [weight for weight, _ in faults])
        self.done[fault.__name__.strip("_")] += 1
        await fault(chance)

    async def _spoil(self, chance: random.Random) -> None:
        """The next replies of one kind are lost or spoilt."""
        op = chance.choice(("create", "create-link", "refund", "status"))
        self.bench.rig.proxy.plan(op, "", chance.choice(SPOILT), times=chance.randint(1, 4))

    async def _refuse(self, chance: random.Random) -> None:
        """The proxy is not there, or resets whoever comes."""
        proxy = self.bench.rig.proxy
        async with chance.choice((proxy.shut, proxy.refuse_all))():
            await asyncio.sleep(chance.uniform(0.2, 1.5))

    async def _kill(self, chance: random.Random) -> None:
        await self._other(chance).kill()
        await self.bench.rig.heal()

    async def _end(self, chance: random.Random) -> None:
        await self._other(chance).stop()
        await self.bench.rig.heal()

    def _other(self, chance: random.Random) -> Process:
        rig = self.bench.rig
        return chance.choice([*rig.services[1:], *rig.workers[1:]])

    async def _cut(self, _chance: random.Random) -> None:
        """Every connection of a service or a worker to the database is cut."""
        await self.bench.rig.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> $1",
            OBSERVER,
        )

    async def _crash(self, chance: random.Random) -> None:
        """The database is down for a moment, as after a crash."""
        async with outages.restarted(self.bench, self.bench.rig):
            await asyncio.sleep(chance.uniform(0, 1))

    # --- the end

    async def _webhooks(self, receiving: Receiving) -> list[str]:
        """Every event arrived, and what arrived was written so: row by row."""
        rig = self.bench.rig
        waiting = "SELECT (SELECT count(*) FROM event_delivery WHERE state = 'waiting') + (SELECT count(*) FROM event"
        waiting += " WHERE passed_on_at IS NULL)"

        async def all_told() -> bool:
            return not await rig.pool.fetchval(waiting)

        # What is pending goes on being read, and may be paid meanwhile.
        await until(all_told, "every webhook arrives", within_s=SETTLED_S + 60 * self.minutes / 10)
        took = {line["webhook_id"]: line["data"] for line in receiver.taken(receiving.folder) if "data" in line}
        rows = await rig.pool.fetch(
            "SELECT event.id, data FROM event JOIN event_delivery ON event_id = event.id WHERE state = 'delivered'"
        )
        written = {str(row["id"]): json.loads(row["data"]) for row in rows}
        self.webhooks = len(written)
        ended = await rig.pool.fetchval("SELECT count(*) FROM event_delivery WHERE state NOT IN ('delivered')")
        wrong = [f"{which} {took.get(which)}" for which in took.keys() ^ written.keys()]
        wrong += [f"{which} {took[which]}" for which in took.keys() & written.keys() if took[which] != written[which]]
        found = [f"webhooks_are_the_events: {line}" for line in wrong[:5]]
        return found + ([f"webhooks_are_the_events: {ended} were not delivered"] if ended else [])

    def report(self) -> str:
        """What was done, and how the processes are."""
        lines = [f"faults: {', '.join(f'{name} {times}' for name, times in self.done.most_common())}"]
        for stayer in self.stayers:
            thirds = ", ".join(f"{mb:.1f}" for mb in stayer.thirds())
            (files, tasks), (files_left, tasks_left) = stayer.at_rest[0], stayer.at_rest[-1]
            lines.append(
                f"{stayer.name}: memory in thirds {thirds} MB; at rest {files}, at last {files_left} files and sockets,"
                f" {tasks} and {tasks_left} tasks"
            )
        applied = sum(row.applied for row in self.bench.rows)
        lines.append(f"{applied} calls took effect, {self.webhooks} webhooks, {len(self.bench.violations)} violations")
        return "\n".join(lines)


async def soak(minutes: float, seed: int) -> Soak:
    """Run one; its violations are in its bench."""
    async with Bench("soak", seed, settings=SETTINGS) as bench:
        one = Soak(bench, minutes)
        await one.run()
    return one


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, help="replay the chance of an earlier run")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    sys.stderr.write(f"seed {seed}\n")
    one = asyncio.run(soak(options.minutes, seed))
    sys.stdout.write(f"{one.report()}\nseed {seed}, {options.minutes:g} minutes\n")
    return 1 if one.bench.violations else 0


if __name__ == "__main__":
    sys.exit(main())
