"""The load: clients over kept connections, each asking again once it is answered; and what to say of the times."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import uvloop


@dataclass
class Sample:
    """What one target did, over all rounds: seconds of each answer, answers per second of each round."""

    seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    cpu_s: float = 0
    """Seconds of the processor that the target's process used: what other people's load cannot change much."""
    turned_away: int = 0
    """How many got a 503: nothing was done for them."""

    @property
    def rate(self) -> float:
        """Answers per second, the median of the rounds."""
        return median(self.rates)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of the processor for one answer."""
        return 1000 * self.cpu_s / max(1, len(self.seconds))

    def percentile(self, percent: float) -> float:
        """Milliseconds within which so many percent were answered."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def line(self, name: str) -> str:
        """One line of a table."""
        times = "".join(f"{self.percentile(percent):10.1f}" for percent in (50, 95, 99))
        return f"{name:<34}{self.rate:10.0f}{times}{self.cpu_ms:10.2f}{self.turned_away or '':>8}"

    def beside(self, other: "Sample") -> str:
        """The ratios: the figures that mean something on another machine."""
        slower, dearer = self.percentile(50) / other.percentile(50), self.cpu_ms / (other.cpu_ms or 1)
        return f"{self.rate / other.rate:.2f} of the rate, {slower:.1f} x the median time, {dearer:.1f} x the cpu"


HEADING = f"{'':<34}{'per s':>10}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}{'cpu ms':>10}{'503':>8}"


@dataclass(frozen=True)
class Target:
    """Something to ask: an address, and how to ask it the n-th time."""

    url: str
    method: str
    path: str
    key: str = ""
    body: Callable[[], str] | None = None
    status: int = 200
    pid: int = 0

    def request(self) -> bytes:
        """The next request, as bytes."""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: bench\r\n"
        head += f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        if self.body is None:
            return f"{head}\r\n".encode()
        body = self.body().encode()
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def run(target: Target, sample: Sample, *, clients: int, seconds: float) -> None:
    """One round."""
    before = _cpu_s(target.pid)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_round(target, sample, clients, seconds))
    sample.cpu_s += _cpu_s(target.pid) - before


def _cpu_s(pid: int) -> float:
    """Seconds of the processor that a process has used so far; 0 where the system does not tell."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0
    user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def _round(target: Target, sample: Sample, clients: int, seconds: float) -> None:
    began = time.perf_counter()
    counts = await asyncio.gather(*(_client(target, sample, began + seconds) for _ in range(clients)))
    sample.rates.append(sum(counts) / (time.perf_counter() - began))


async def _client(target: Target, sample: Sample, until: float) -> int:
    address = urlsplit(target.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    asked = 0
    try:
        while (began := time.perf_counter()) < until:
            try:
                await once(target, reader, writer)
            except TurnedAway:
                sample.turned_away += 1
                continue
            sample.seconds.append(time.perf_counter() - began)
            asked += 1
    finally:
        writer.close()
    return asked


class TurnedAway(Exception):
    """The service had no room."""


async def once(
    target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[dict[str, str], bytes]:
    """Ask once; the headers and the body of the answer. Anything but the expected status ends the benchmark."""
    writer.write(target.request())
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    status = int(first.split()[1])
    if status == 503:
        raise TurnedAway
    if status != target.status:
        raise RuntimeError(f"{target.path}: {first} {body[:500]!r}")
    return headers, body
