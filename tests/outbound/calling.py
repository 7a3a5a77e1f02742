"""A caller over the transport and a server of raw sockets, for the tests beside this."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from payment_service.outbound.transport import Transport
from tests.support.certificates import Authority
from tests.support.proxy import Connection, Course, RawProxy, http, raw_proxy

OK: Final = b"HTTP/1.1 200 OK\r\n"
HELLO: Final = http(200, b"hello")
ANYBODY: Final = ssl.create_default_context()


@dataclass
class Trace:
    """What the transport told of a call; ``stop_at`` is where it never comes back."""

    stop_at: str = ""
    events: list[str] = field(default_factory=list)

    async def __call__(self, event: str, _info: dict[str, Any]) -> None:
        self.events.append(event)
        if event == self.stop_at:
            await asyncio.Event().wait()

    @property
    def begun(self) -> bool:
        return "http11.send_request_headers.started" in self.events


@dataclass
class Caller:
    """Makes calls to a server over one transport."""

    server: RawProxy
    transport: Transport
    url: str

    async def __call__(self, trace: Trace | None = None, timeout_s: float = 5, path: str = "/") -> bytes:
        """Make one call; the body of its reply."""
        extensions = {"timeout": {"connect": timeout_s}, "target": path.encode(), "trace": trace or Trace()}
        request = httpx.Request("GET", self.url, extensions=extensions)
        response = await self.transport.handle_async_request(request)
        async with contextlib.aclosing(response):
            assert isinstance(response.stream, httpx.AsyncByteStream)
            return b"".join([piece async for piece in response.stream])


@contextlib.asynccontextmanager
async def calling(
    course: Course, authority: Authority | None = None, *, trusts: bool = True, **more: int
) -> AsyncIterator[Caller]:
    """A caller of a server with this course, over TLS if there is an authority. One that ``trusts`` it has tried it."""
    tls = authority.server("localhost") if authority else None
    async with raw_proxy(course, tls=tls) as server:
        url = f"https://localhost:{server.port}" if tls else server.url
        one = Transport(httpx.URL(url), authority.believed() if authority else ANYBODY, **more)
        if trusts:
            one._leaves_idle_open = True
        try:
            yield Caller(server, one, url)
        finally:
            await one.aclose()
            assert (one._idle, one._expiry, one._opening) == ([], None, set())


async def waiting(one: httpx.AsyncBaseTransport, number: int = 1) -> None:
    """Until so many connections wait for a call."""
    assert isinstance(one, Transport)
    await until(lambda: len(one._idle) == number and not one._opening)


async def met(server: RawProxy, connections: int) -> None:
    """The server has as many connections. It may accept one later than its caller has it."""
    await until(lambda: server.connections >= connections)
    assert server.connections == connections


async def some_turns() -> None:
    """In which the server's side ends or says what it is about to. Not a time: the loop may be late."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.001)


def each_in_turn(*courses: Course) -> Course:
    """The first connection lives the first course, and so on; the last one is for all that follow."""
    left = list(courses)

    async def course(connection: Connection) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(connection)

    return course


def once(reply: bytes) -> Course:
    async def course(connection: Connection) -> None:
        if await connection.hear():
            await connection.say(reply)

    return course


@contextlib.contextmanager
def full_listener(address: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[str, int]]:
    """The address of a listener whose queue is full: whoever connects there is not answered."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(4):
            one = sockets.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield listener.getsockname()


def sockets_to(port: int) -> int:
    """How many sockets this process has open to a port, whatever else goes on in it."""
    own = set()
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            own.add(str(file.readlink()))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    return sum(int(line[2].rpartition(":")[2], 16) == port and f"socket:[{line[9]}]" in own for line in lines)
