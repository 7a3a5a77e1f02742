"""What a worker uses for its work, without what it uses when nothing is to be done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from stage import Stage, cpu_s
from targets import Target


@dataclass
class Meter:
    """What a process and PostgreSQL use, without what they use when nothing is to be done."""

    stage: Stage
    pid: int
    idle: tuple[float, float] = (0, 0)
    """Seconds of the processor in a second: of the process, of PostgreSQL."""

    def settle(self) -> None:
        """Wait until the process has started, and learn what is used when nothing is to be done."""
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            before = cpu_s(self.pid)
            time.sleep(1)
            if before and cpu_s(self.pid) - before < 0.1:
                break
        self._rest(4)

    def _rest(self, seconds: float) -> None:
        began, before = time.monotonic(), self._now()
        time.sleep(seconds)
        taken = time.monotonic() - began
        own, postgres = self._now()
        self.idle = ((own - before[0]) / taken, (postgres - before[1]) / taken)

    def _now(self) -> tuple[float, float]:
        return cpu_s(self.pid), self.stage.postgres_cpu_s()

    @contextmanager
    def work(self) -> Iterator[dict[str, float]]:
        """While in the block; what was used stands in the dictionary afterwards."""
        used: dict[str, float] = {}
        began, before = time.monotonic(), self._now()
        yield used
        own, postgres = self._now()
        used["seconds"] = time.monotonic() - began
        used["cpu_s"] = own - before[0] - used["seconds"] * self.idle[0]
        used["postgres_s"] = postgres - before[1] - used["seconds"] * self.idle[1]


def until(so_many: Callable[[], int], wanted: int, seconds: float) -> int:
    """Wait until there are as many; returns how many there are."""
    give_up_at = time.monotonic() + seconds
    while (there := so_many()) < wanted and time.monotonic() < give_up_at:
        time.sleep(0.05)
    return there


def endpoint(target: Target, path: str, events: list[str], shops: list[int] | None = None) -> None:
    """Let the upstream be told of these events."""
    body = {"url": f"{target.upstream.url}/{path}", "events": events, "shops": shops}
    headers = {"Authorization": f"Bearer {target.database.key}"}
    url = f"{target.programs[0].url}/admin/webhooks"
    httpx.post(url, json=body, headers=headers, trust_env=False).raise_for_status()
