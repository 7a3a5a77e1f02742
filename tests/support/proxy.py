"""A proxy of raw sockets: it records every connection and request, and then does whatever a test tells it to."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True, slots=True)
class Request:
    """What reached the proxy."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Connection:
    """One connection, as the proxy sees it."""

    proxy: "RawProxy"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hear(self) -> bool:
        """Read one request and record it; False when the client is gone."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, _ = first.split(" ")
        parts = urlsplit(target)
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        query = parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True) if parts.query else []
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        self.proxy.requests.append(Request(method, parts.path, query, headers, body))
        self.proxy.heard.set()
        return True

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def hang(self) -> None:
        """Wait until the client hangs up."""
        await self.reader.read()

    def reset(self) -> None:
        """Send a TCP reset instead of an orderly end."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Course: TypeAlias = Callable[[Connection], Awaitable[None]]


def http(status: int, body: bytes, *headers: str) -> bytes:
    """A whole HTTP reply."""
    lines = (f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


def answers(reply: bytes) -> Course:
    """Answer every request of the connection so."""

    async def course(connection: Connection) -> None:
        while await connection.hear():
            await connection.say(reply)

    return course


@dataclass(slots=True)
class RawProxy:
    """Listens on this machine and lives its course on every connection."""

    course: Course
    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def begin(self, course: Course) -> None:
        """Forget what came before and live this course from now on."""
        self.course, self.connections = course, 0
        self.requests.clear()
        self.heard.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            try:
                await self.course(Connection(self, reader, writer))
            finally:
                writer.close()
                await writer.wait_closed()

    async def settle(self) -> None:
        """Wait until every connection has come to its end."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), 10)

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def raw_proxy(
    course: Course, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawProxy]:
    """A proxy that lives this course until the block ends."""
    proxy = RawProxy(course)
    server = await asyncio.start_server(proxy.accept, host, port, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await server.wait_closed()
        proxy.stop()
        await proxy.settle()
