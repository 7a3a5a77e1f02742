"""The load: clients over kept connections, each asking again once it is answered, every answer checked.

Bytes are parsed by hand on uvloop, so that a client takes little of the processor that it shares with what it measures.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import uvloop

Check = Callable[[int, bytes], None]
Ask = Callable[[], tuple[bytes, Check]]
"""The next request, and what looks at its answer: it raises ``Refused`` or ``WrongAnswer`` when it is not right."""


class Refused(Exception):
    """The service said that it had no room, and did nothing: counted, no mistake."""


class WrongAnswer(Exception):
    """An answer that must not be."""


@dataclass
class Round:
    """What one run gave: the seconds of each right answer, and how long the run was."""

    seconds: list[float] = field(default_factory=list)
    lasted: float = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Right answers per second."""
        return len(self.seconds) / self.lasted


def request(
    method: str, path: str, key: str = "", body: bytes | None = None, more: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """A request as bytes, with more headers where there are some."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    head += f"Authorization: Bearer {key}\r\n" if key else ""
    head += "".join(f"{name}: {value}\r\n" for name, value in more.items())
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(
        self, ask: Ask, made: Round, may_ask: Callable[[], bool], begin_after_s: float, every_s: float
    ) -> None:
        self.ask, self.made, self.may_ask = ask, made, may_ask
        self.begin_after_s, self.every_s = begin_after_s, every_s
        self.buffer = b""
        self.check: Check | None = None
        self.began = 0.0
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        asyncio.get_running_loop().call_later(self.begin_after_s, self.next)

    def next(self) -> None:
        if not self.may_ask():
            self.transport.close()
            return
        data, self.check = self.ask()
        self.began = time.perf_counter()
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lowered = head.lower()
        at = lowered.find(b"content-length:")
        if at < 0:
            self.made.wrong.append(f"an answer without Content-Length: {head[:200]!r}")
            self.transport.abort()
            return
        size = int(lowered[at + 15 :].split(b"\r\n", 1)[0])
        if len(rest) < size:
            return
        taken = time.perf_counter() - self.began
        self.buffer = rest[size:]
        assert self.check is not None
        try:
            self.check(int(head[9:12]), rest[:size])
        except Refused:
            self.made.refused += 1
        except (WrongAnswer, ValueError, KeyError, TypeError) as error:
            self.made.wrong.append(f"{error!r}: {head[:15]!r} {rest[:300]!r}")
        else:
            self.made.seconds.append(taken)
        self.check = None
        if self.every_s:
            asyncio.get_running_loop().call_later(max(0.0, self.every_s - taken), self.next)
        else:
            self.next()

    def connection_lost(self, error: Exception | None) -> None:
        if self.check is not None:
            self.made.wrong.append(f"the connection ended before the answer: {error!r}")
        if not self.ended.done():
            self.ended.set_result(None)


async def drive(
    ports: list[int],
    ask: Ask,
    *,
    clients: int,
    seconds: float = 0,
    requests: int = 0,
    over_s: float = 0,
    every_s: float = 0,
) -> Round:
    """Ask for so many seconds, or so many times; the clients are spread over the ports.

    The clients begin one after the other within ``over_s`` seconds. Each asks again as soon as it is answered, or
    ``every_s`` seconds after it asked.

    Raises:
        RuntimeError: when an answer was wrong.
    """
    made, loop = Round(), asyncio.get_running_loop()
    left = requests
    began = time.perf_counter()

    def may_ask() -> bool:
        nonlocal left
        if requests:
            left -= 1
            return left >= 0
        return time.perf_counter() - began < seconds

    connected = await asyncio.gather(
        *(
            loop.create_connection(
                partial(_Client, ask, made, may_ask, over_s * number / clients, every_s),
                "127.0.0.1",
                ports[number % len(ports)],
            )
            for number in range(clients)
        )
    )
    await asyncio.gather(*(client.ended for _, client in connected))
    made.lasted = time.perf_counter() - began
    if made.wrong:
        raise RuntimeError(f"{len(made.wrong)} wrong answers, the first: " + "\n".join(made.wrong[:3]))
    return made


def run(ports: list[int], ask: Ask, **how: Any) -> Round:
    """``drive`` from code that waits for it."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(drive(ports, ask, **how))


def percentile(seconds: list[float], percent: float) -> float:
    """Milliseconds within which so many percent were answered."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")
