"""HTTP/1.1 for calls that must not be made twice: a transport of httpx's kind, for one origin.

It reports just when a request begins to leave, as httpx's own transport does: ``http11.send_request_headers.started``
of the extension ``trace``. What fails before that was not sent; what fails after it may have been. It sends nothing
twice, follows and unpacks nothing, knows no proxies, and names no address in an error.

A connection serves one call. Some are idle before their call, for ``IDLE_S`` at most: those opened ahead, so that a
payment waits neither for TCP nor for TLS, and, if wanted, those that served a call before. Each is checked just before
its request is written, and dropped if the server has ended it or sent anything on it.

If a server ends a connection while a request is on its way, the outcome of that call is unknown. So nothing is opened
ahead until the server has left a trial connection, which no call uses, open for longer than any would be idle.

A head is read to 64 kB. The body is handed on as it comes, and whoever reads it sets its limit; a reply of more than
128 kB with its head and framing is broken off. Times are in seconds.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, Final, TypeAlias

import httpx

from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import CERTIFICATE_END, HOST_CLOCK_AHEAD, labelled
from payment_service.outbound.addresses import IPAddress
from payment_service.outbound.connection import Connection, open_connection
from payment_service.outbound.lookups import LookUps, ask_system_resolver
from payment_service.outbound.reply import Reply

IDLE_S: Final = 3.0
"""The shortest limits in common use are 5 s (Go, HAProxy, Apache between requests): nothing may come near them."""
TRIAL_S: Final = 4.0
"""How long a server must leave an idle connection open before any is opened ahead."""
TRIAL_EVERY_S: Final = 60.0
LOOK_EVERY_S: Final = 600.0
"""How often the end of the host's certificate and its clock are read."""
_MAX_HEAD_BYTES: Final = 64 * 1024
_UNSENDABLE: Final = re.compile(rb"[\r\n\0]")
log = get_logger(__name__)

_Trace: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[None]]


class Transport(httpx.AsyncBaseTransport):
    """Calls to one origin. ``ahead`` connections are opened ahead of the calls, ``keep`` are kept after them."""

    def __init__(self, origin: httpx.URL, tls: ssl.SSLContext, *, ahead: int = 0, keep: int = 0) -> None:
        tls.set_alpn_protocols(["http/1.1"])
        self._tls = tls if origin.scheme == "https" else None
        self._host = origin.raw_host.decode("ascii")
        self._port = origin.port or (443 if self._tls else 80)
        self._where = _address_or_look_ups(self._host)
        self._ahead = ahead
        self._keep = keep
        self._session: ssl.SSLSession | None = None
        self._idle: list[tuple[Connection, float]] = []
        """With the loop's time until which each may be used; the newest last."""
        self._expiry: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._leaves_idle_open = False
        """Whether the server leaves idle connections open."""
        self._next_trial = 0.0
        self._next_certificate_look = self._next_clock_look = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Make one call. Heeded extensions: ``target``, ``timeout`` (to connect) and ``trace``.

        Raises:
            httpx.TransportError: when no head of a reply comes. Whether the call was made only the trace knows.
        """
        trace: _Trace = request.extensions.get("trace", _no_trace)
        timeout_s: float | None = request.extensions.get("timeout", {}).get("connect")
        target = request.extensions.get("target", request.url.raw_path)
        data = head_of(request.method, target, request.headers.raw) + await request.aread()
        connection = self._take_idle() or await self._open(timeout_s)
        reply = Reply()
        try:
            await trace("connection.connect_tcp.complete", {})
            await trace("http11.send_request_headers.started", {})
            await connection.send(data)
            await trace("http11.send_request_body.complete", {})
            self._open_ahead(timeout_s)
            while not reply.has_head:
                reply.feed(await connection.receive())
            await trace("http11.receive_response_headers.complete", {})
        except BaseException:
            connection.close()
            raise
        if self._next_clock_look <= (now := _now()):
            self._next_clock_look = now + LOOK_EVERY_S
            note_clock(self._host, reply.headers)
        stream = _Body(reply, connection, self._release)
        return httpx.Response(reply.status, headers=reply.headers, stream=stream)

    async def aclose(self) -> None:
        """Close every connection that waits for a call, and let none wait from now on."""
        self._ahead = self._keep = 0
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        self._end_idle()

    async def _open(self, timeout_s: float | None) -> Connection:
        connection = await open_connection(
            self._host, self._port, self._tls, where=self._where, session=self._session, timeout_s=timeout_s
        )
        if self._tls and self._next_certificate_look <= (now := _now()):
            self._next_certificate_look = now + LOOK_EVERY_S
            labelled(CERTIFICATE_END, self._host).set(connection.certificate_end or 0)
        return connection

    def _release(self, connection: Connection, reply: Reply) -> None:
        """Take back the connection of a call that has ended."""
        if reply.is_whole:
            self._session = connection.session
        if reply.keeps_connection and len(self._idle) < self._keep:
            self._let_wait(connection)
        else:
            connection.close()

    # --- connections that wait for a call

    def _take_idle(self) -> Connection | None:
        """The newest idle connection, if it is still good; if it is not, the others are dropped too."""
        if not self._idle:
            return None
        newest, until = self._idle.pop()
        now = _now()
        if now < until:
            if newest.is_quiet():
                return newest
            self._leaves_idle_open, self._next_trial = False, now + TRIAL_EVERY_S
        newest.close()
        self._end_idle()
        return None

    def _open_ahead(self, timeout_s: float | None) -> None:
        """Open a connection for the next call, while this one is answered."""
        if self._leaves_idle_open and len(self._idle) + len(self._opening) < self._ahead:
            work = self._open_idle(timeout_s)
        elif self._ahead and not self._leaves_idle_open and not self._opening and self._next_trial <= _now():
            work = self._try_server(timeout_s)
        else:
            return
        task = asyncio.create_task(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open_idle(self, timeout_s: float | None) -> None:
        with contextlib.suppress(Exception):  # the next call opens its own, and reports why that failed
            self._let_wait(await self._open(timeout_s))

    async def _try_server(self, timeout_s: float | None) -> None:
        """Open a connection that no call will use, and see whether the server leaves it open."""
        self._next_trial = _now() + TRIAL_EVERY_S
        with contextlib.suppress(Exception), contextlib.closing(await self._open(timeout_s)) as connection:
            await asyncio.sleep(TRIAL_S)
            self._leaves_idle_open = connection.is_quiet()
            log.info("server was tried", leaves_idle_connections=self._leaves_idle_open)

    def _let_wait(self, connection: Connection) -> None:
        until = _now() + IDLE_S
        self._idle.append((connection, until))
        self._expiry = self._expiry or asyncio.get_running_loop().call_at(until, self._end_expired)

    def _end_expired(self) -> None:
        self._expiry = None
        while self._idle and self._idle[0][1] <= _now():
            self._idle.pop(0)[0].close()
        if self._idle:
            self._expiry = asyncio.get_running_loop().call_at(self._idle[0][1], self._end_expired)

    def _end_idle(self) -> None:
        while self._idle:
            self._idle.pop()[0].close()
        if self._expiry:
            self._expiry.cancel()
            self._expiry = None


class _Body(httpx.AsyncByteStream):
    """The body of a reply as it comes."""

    def __init__(self, reply: Reply, connection: Connection, release: Callable[[Connection, Reply], None]) -> None:
        self._reply = reply
        self._connection = connection
        self._release = release
        self._is_closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not (body := self._reply.body()):
            if self._reply.is_whole:
                raise StopAsyncIteration
            self._reply.feed(await self._connection.receive())
        return body

    async def aclose(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._release(self._connection, self._reply)


def _address_or_look_ups(host: str) -> IPAddress | LookUps:
    """Where the host is. A resolver that hangs takes no thread that others need, such as to find the database."""
    try:
        return ip_address(host)
    except ValueError:
        return LookUps(ask_system_resolver)


def note_clock(host: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Set the metric of how far the host's clock is ahead of ours, by the date of a reply that has just come."""
    date = next((value for name, value in headers if name.lower() == b"date"), b"")
    with contextlib.suppress(ValueError):  # no date, or none that can be read
        # A date has whole seconds, rounded down: half a second more is the best estimate.
        ahead_s = parsedate_to_datetime(date.decode("latin-1")).timestamp() + 0.5 - time.time()
        labelled(HOST_CLOCK_AHEAD, host).set(ahead_s)


def head_of(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request as it is written.

    Raises:
        httpx.LocalProtocolError: when it would not be read as one head.
    """
    first = b"%s %s HTTP/1.1" % (method.encode("ascii"), target)
    lines = [first, *(b"%s: %s" % header for header in headers)]
    if b" " in target or any(map(_UNSENDABLE.search, lines)):
        raise httpx.LocalProtocolError("The head of the request holds a character that it must not.")
    head = b"\r\n".join((*lines, b"", b""))
    if len(head) > _MAX_HEAD_BYTES:
        raise httpx.LocalProtocolError("The head of the request is too long.")
    return head


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _no_trace(_event: str, _info: dict[str, Any]) -> None:
    """No trace is wanted."""
