"""The transport on real sockets: whether a byte left, what is a reply, and the connections that wait for a call."""

import asyncio
import contextlib
import gc
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, Final
from unittest.mock import patch

import httpx
import pytest
import uvloop

from payment_service.outbound import transport as module
from payment_service.outbound.connection import Connection as Line
from payment_service.outbound.transport import Transport
from payment_service.providers.interface import Accepted, NotSent, StatusRead, Unknown
from payment_service.providers.kaspi import client as kaspi_client
from payment_service.providers.kaspi.client import KaspiClient, KaspiSettings
from tests.events.certificates import Authority, self_signed
from tests.providers.proxy import Connection, Course, RawProxy, answers, http, raw_proxy
from tests.providers.test_outcomes import TABLE, Does, Row, Says, cases, chunked
from tests.providers.verbs import ACCESS_TOKEN, CREATE, ID, SECRETS, VERBS, Verb, client_of

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


async def ask(one: httpx.AsyncBaseTransport, url: str, *, trace: Trace | None = None, **headers: str) -> tuple[int, bytes]:
    """Make one call and read its reply."""
    extensions = {"timeout": {"connect": 5}, **({"trace": trace} if trace else {})}
    response = await one.handle_async_request(httpx.Request("GET", url, headers=headers, extensions=extensions))
    async with contextlib.aclosing(response):
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return response.status_code, b"".join([piece async for piece in response.stream])


@contextlib.asynccontextmanager
async def calling(
    url: str, tls: ssl.SSLContext = PLAIN, **more: int
) -> AsyncIterator[Callable[..., Any]]:
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
