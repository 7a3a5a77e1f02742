"""A small HTTP/1.1 server for stand-ins: one request on each connection, answered by a function."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    certificate_of: str
    """The common name in the caller's certificate; empty without one."""

    @property
    def said(self) -> dict[str, Any]:
        """The body, or the query of a request without one."""
        return json.loads(self.body) if self.body else dict(self.query)


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    wait_s: float = 0
    """How long until it is sent."""
    drop: bool = False
    """Close the connection without a byte instead."""


def as_json(body: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())


Respond = Callable[[Request], Awaitable[Answer]]


@contextlib.asynccontextmanager
async def served(respond: Respond, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on a free loopback port; yields the address."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        try:
            answer = await respond(await _read(reader, writer))
            await asyncio.sleep(answer.wait_s)
            if not answer.drop:
                lines = [f"HTTP/1.1 {answer.status} Said", "Connection: close", f"Content-Type: {answer.content_type}"]
                lines += [
                    f"Content-Length: {len(answer.body)}",
                    *(f"{name}: {value}" for name, value in answer.headers),
                ]
                writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller hung up
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    method, target, _version = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    certificate = writer.get_extra_info("peercert") or {}
    names = {name: value for part in certificate.get("subject", ()) for name, value in part}
    parts = urlsplit(target)
    return Request(method, parts.path, dict(parse_qsl(parts.query)), headers, body, names.get("commonName", ""))
