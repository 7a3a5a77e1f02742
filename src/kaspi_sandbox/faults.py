"""Replies that misbehave on the wire. Owns the one place that reaches below ASGI, to the socket.

Each reply is an ASGI application. A reply that waits ends as soon as its caller has gone, so that hundreds may hang.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

_EXTENSION = "kaspi_sandbox"


class SandboxProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, lending its transport to the replies below."""

    def on_message_begin(self) -> None:
        """Put the transport into the scope of the request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"transport": self.transport}}

    def shutdown(self) -> None:
        """Stop without waiting for replies that were never going to come."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            self.transport.abort()
        else:
            super().shutdown()


class Hang:
    """No reply; after `seconds` the connection is dropped."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Hold the connection, then end it without a byte."""
        if not await _gone(receive, within_s=self._seconds):
            await _end(scope, receive)


class Late:
    """A proper reply that comes after `seconds`."""

    def __init__(self, body: bytes, seconds: float) -> None:
        self._response = Response(body, media_type="application/json")
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait, then answer whoever is still there."""
        if not await _gone(receive, within_s=self._seconds):
            await self._response(scope, receive, send)


class Drop:
    """The connection ends without a byte: cleanly, or with a TCP reset."""

    def __init__(self, *, reset: bool) -> None:
        self._reset = reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """End the connection."""
        if self._reset:
            # Lingering for no time at all makes the kernel send RST in place of FIN.
            sock: socket.socket = _transport(scope).get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await _end(scope, receive)


class Cut:
    """Half of a reply, then a clean end of the connection; with or without a Content-Length that promised all of it."""

    def __init__(self, body: bytes, *, promised: bool) -> None:
        self._body = body
        self._promised = promised

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Write below ASGI: uvicorn itself would never send so broken a reply."""
        transport = _transport(scope)
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        if self._promised:
            head += f"Content-Length: {len(self._body)}\r\n"
        transport.write(head.encode() + b"\r\n" + self._body[: len(self._body) // 2])
        transport.close()
        await _gone(receive, within_s=None)


class Drip:
    """A proper reply, one byte at a time, over `seconds`."""

    def __init__(self, body: bytes, seconds: float) -> None:
        self._body = body
        self._pause_s = seconds / len(body)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send until all is sent or nobody listens."""
        length = str(len(self._body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for byte in self._body[:-1]:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            if await _gone(receive, within_s=self._pause_s):
                return
        await send({"type": "http.response.body", "body": self._body[-1:]})


def _transport(scope: Scope) -> asyncio.Transport:
    extensions = cast("Mapping[str, Mapping[str, object]]", scope.get("extensions", {}))
    if _EXTENSION not in extensions:
        raise RuntimeError("This course breaks the connection itself: it needs the stand-in's own server, see run().")
    return cast("asyncio.Transport", extensions[_EXTENSION]["transport"])


async def _end(scope: Scope, receive: Receive) -> None:
    _transport(scope).abort()
    # uvicorn takes an application that returns early for a fault of its own, unless it has seen the connection go.
    await _gone(receive, within_s=None)


async def _gone(receive: Receive, *, within_s: float | None) -> bool:
    """Wait for the caller to hang up: True when it has, False when the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while (await receive())["type"] != "http.disconnect":
                pass
            return True
    return False
