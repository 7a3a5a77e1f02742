"""The transport on real sockets: whether a byte left, what is a reply, and the connections that wait for a call."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import httpx

from payment_service.outbound.transport import Transport
from tests.providers.proxy import http

OK: Final = b"HTTP/1.1 200 OK\r\n"
HELLO: Final = http(200, b"hello")
SETTINGS: Final = {"deadline_s": 10.0, "connect_timeout_s": 5.0, "breaker_failures": 0}
PLAIN: Final = ssl.create_default_context()


class Trace:
    """What the transport told of a call."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def __call__(self, event: str, _info: dict[str, Any]) -> None:
        self.events.append(event.rpartition(".")[0].rpartition(".")[2] + "." + event.rpartition(".")[2])

    @property
    def begun(self) -> bool:
        return "send_request_headers.started" in self.events


async def ask(
    one: httpx.AsyncBaseTransport, url: str, *, trace: Trace | None = None, **headers: str
) -> tuple[int, bytes]:
    """Make one call and read its reply."""
    extensions = {"timeout": {"connect": 5}, **({"trace": trace} if trace else {})}
    response = await one.handle_async_request(httpx.Request("GET", url, headers=headers, extensions=extensions))
    async with contextlib.aclosing(response):
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return response.status_code, b"".join([piece async for piece in response.stream])


@contextlib.asynccontextmanager
async def calling(url: str, tls: ssl.SSLContext = PLAIN, **more: int) -> AsyncIterator[Callable[..., Any]]:
    """Calls over one transport; a connection or a task that it leaves behind fails the test."""
    before = asyncio.all_tasks()
    one = Transport(httpx.URL(url), tls, **more)
    try:
        yield lambda **rest: ask(one, url, **rest)
    finally:
        await one.aclose()
        assert one._idle == []
        assert one._expiry is None
        assert {task for task in asyncio.all_tasks() - before if task.get_name().startswith("Transport")} == set()
