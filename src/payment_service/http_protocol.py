"""The server's side of an HTTP/1.1 connection: uvicorn's, with limits that it does not have with httptools.

Limited are the bytes of a head, of chunk extensions and of trailers; the time to send a head and a body; how long a
request may wait unread while this process is suspended; the time to read an answer; the pipelined requests; the
connections. Every refusal is a problem document. It is never sent while an earlier request is still in progress: the
caller would take it for the result of that payment.
"""

import asyncio
import contextlib
import resource
import socket
import struct
from enum import StrEnum
from typing import Any, ClassVar, Final, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from payment_service.api import problems
from payment_service.api.middleware import ALWAYS_SERVED, MAX_BODY_BYTES, MAX_HEADER_BYTES
from payment_service.errors import TooManyConnections
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import CONNECTIONS_REFUSED

MAX_CONNECTIONS: Final = 2000
_FILES_FOR_OTHERS: Final = 500
"""Open files that are no client's: the database, the provider, webhooks, logs."""
_PIECE_BYTES: Final = 4 * 1024
"""How much the parser gets at a time, since it does not say where in it a head ended."""
_MAX_MESSAGE_BYTES: Final = 16 * MAX_BODY_BYTES
"""Of a body, framing included, whether or not anybody reads it: 413 was answered long before."""
_MAX_AHEAD: Final = 16
"""Requests that one connection may send before the first is answered. Hardly any client sends one."""
_WAITED_S: Final = 1.0
"""How long a connection is idle before it may be closed when there are too many."""
_LAST_DATA_RECEIVED: Final = struct.Struct("=52xI")
"""Of Linux's ``struct tcp_info``: how long ago the last bytes came in from the network, in milliseconds."""
log = get_logger(__name__)


class _Phase(StrEnum):
    """What the client is to send next."""

    HEAD = "head"
    BODY = "body"
    NOTHING = "nothing"
    """The request is complete; another one may come or not."""


class _HeadWithBody:
    """The transport of one answer. Its head waits for the body that follows at once, and both leave in one write."""

    __slots__ = ("_cycle", "_head", "_loop", "_transport")

    def __init__(self, cycle: RequestResponseCycle, loop: asyncio.AbstractEventLoop) -> None:
        self._cycle, self._loop, self._transport = cycle, loop, cycle.transport
        self._head: bytes | None = b""
        """Empty before the head, none when it has left."""

    def write(self, data: bytes) -> None:
        """Write a piece. The first of the answer waits for the next, until the loop goes on to something else."""
        if self._head is None or not self._cycle.response_started:
            self._transport.write(data)
        elif self._head:
            self._transport.write(self._head + data)
            self._head = None
        else:
            self._head = data
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close the connection after what was written."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed or closing."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = None


class BoundedProtocol(HttpToolsProtocol):
    """One connection. ``limit_concurrency`` of uvicorn's configuration is how many there may be."""

    head_s: ClassVar[float] = 10
    body_s: ClassVar[float] = 10
    read_s: ClassVar[float] = 30
    """How long a client may leave an answer unread."""
    stopping_s: ClassVar[float] = 3
    """How long a stopping process keeps an idle connection open; docs/deploy.md has balancers close theirs before."""
    unread_s: ClassVar[float] = 10
    """How long a request may have waited to be read by this process: as long as clients wait for an answer."""
    linger_s: ClassVar[float] = 2
    """How long to keep reading after a refusal: closing at once could reset the connection before it is read."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._max_connections = config.limit_concurrency or MAX_CONNECTIONS
        self.limit_concurrency = None  # uvicorn's own answer is no problem, and leaves /health out
        self._phase = _Phase.HEAD
        self._messages = 0
        self._message_bytes = 0
        self._unused_bytes = 0
        """Bytes since a head or a piece of a body was complete: nothing else limits what the parser collects."""
        self._used = False
        self._drops_input = False
        """Input is dropped; requests that were complete before are still answered."""
        self._has_body = False
        self._socket: Any = None
        self._active: RequestResponseCycle | None = None
        self._watched: tuple[_Phase, int] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self.waiting_since: float | None = None
        """Since when it waits for a request, by the loop's clock; none while one is served."""

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's own
        """Accept a connection, making room for it if needed, or refuse it."""
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        self.waiting_since = self.loop.time()
        if len(self.connections) > self._max_connections:
            self._make_room()
        if len(self.connections) > self._max_connections * 1.1:
            CONNECTIONS_REFUSED.labels(reason="too_many").inc()
            transport.write(_on_the_wire(problems.of_error(TooManyConnections())))
            self._stop_reading()
            transport.close()
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines, and let the request that is being answered know."""
        super().connection_lost(exc)
        if self._active is not None:  # uvicorn notifies only the last one that came
            self._active.disconnected = True
            self._active.message_event.set()
        for timer in (self._deadline, self._abort_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Feed the parser piece by piece, as long as it accepts what came."""
        for start in range(0, len(data), _PIECE_BYTES):
            if self._drops_input or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            self._used = False
            super().data_received(piece)
            self._message_bytes += len(piece)
            self._unused_bytes = 0 if self._used else self._unused_bytes + len(piece)
            if not self._used and self._phase is _Phase.NOTHING:
                self._phase = _Phase.HEAD
            self._check_bytes()
        self._watch()

    def pause_writing(self) -> None:
        """The client does not read its answer."""
        super().pause_writing()
        self._abort_timer = self._abort_timer or self.loop.call_later(self.read_s, self._abort_unread)

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._abort_timer is not None and not self.transport.is_closing():
            self._abort_timer.cancel()
            self._abort_timer = None

    def shutdown(self) -> None:
        """Close when the request under way has been answered, or after a while when there is none.

        If an idle connection were closed at once, that could reset a request that a balancer sends just then, and the
        balancer could not tell whether a payment was sent. A request that comes meanwhile is answered with 503, and the
        connection closes.
        """
        if self._active is None or self._active.response_complete:
            self.loop.call_later(self.stopping_s, super().shutdown)
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, and do not wait for a client that reads nothing."""
        super().timeout_keep_alive_handler()
        self._abort_later(self.read_s)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._active = cycle
        cycle.transport = cast("asyncio.Transport", _HeadWithBody(cycle, self.loop))
        super()._start_asgi_task(cycle, app)

    # --- callbacks of the parser

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._messages += 1
        self._message_bytes = 0
        self._has_body = False

    def on_headers_complete(self) -> None:
        """Its head is whole: let the app answer, unless it comes too late or there are too many connections."""
        self._used = True
        self._phase = _Phase.BODY
        self.waiting_since = None
        path = self.url.partition(b"?")[0].decode("latin-1")
        if self._waited_too_long():
            self.app = _too_late
        elif len(self.connections) > self._max_connections and path not in ALWAYS_SERVED:
            self.app = _too_many
        else:
            self.app = cast("ASGI3Application", self.config.loaded_app)
        super().on_headers_complete()
        # A trailer is no header: with a list of its own it cannot become an API key or an Idempotency-Key.
        self.headers = []

    def on_body(self, body: bytes) -> None:
        """A piece of the body came."""
        self._used = self._has_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete. A body whose end came too late is refused, so that the app does nothing."""
        self._used = True
        if self._has_body and self._waited_too_long():
            self._refuse("unread", _unread_problem())
            return
        self._phase = _Phase.NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was handed over to the transport."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later(self.read_s)
        elif self._active is None or self._active.response_complete:
            self.waiting_since = self.loop.time()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse what is not HTTP."""
        detail = "What was sent is not an HTTP request that can be understood."
        self._refuse("not_http", problems.problem(400, "bad_request", "Bad request", detail))

    def _unsupported_upgrade_warning(self) -> None:
        """Serve a request for another protocol as plain HTTP, and read nothing after it."""
        self._stop_reading()

    # --- limits

    def _check_bytes(self) -> None:
        if self._unused_bytes > MAX_HEADER_BYTES:
            detail = "The headers are longer than 16 kB together."
            self._refuse("long_head", problems.problem(431, "headers_too_large", "Headers too large", detail))
        elif self._message_bytes > _MAX_MESSAGE_BYTES:
            detail = "The body is longer than 64 kB."
            self._refuse("long_body", problems.problem(413, "body_too_large", "Body too large", detail))
        elif len(self.pipeline) > _MAX_AHEAD:
            self._refuse("too_many_ahead")

    def _waited_too_long(self) -> bool:
        """Whether the last bytes have waited to be read for so long that the client has given up.

        No timer shows it: a process that was suspended reads what has come before it runs its timers.
        """
        with contextlib.suppress(OSError, AttributeError, struct.error):  # other systems do not say
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
            [since_ms] = _LAST_DATA_RECEIVED.unpack(info)
            return bool(since_ms > self.unread_s * 1000)
        return False

    def _watch(self) -> None:
        """Set the deadline for what the client is to send next, from when it was first due."""
        due = None if self._phase is _Phase.NOTHING else (self._phase, self._messages)
        if self._drops_input or due == self._watched:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._watched, self._deadline = due, None
        if due is not None:
            within_s = self.head_s if self._phase is _Phase.HEAD else self.body_s
            self._deadline = self.loop.call_later(within_s, self._too_slow)

    def _too_slow(self) -> None:
        if self.flow.read_paused:  # it is we who do not read: an earlier request is being worked on
            self._watched = None
            self._watch()
        elif self._phase is _Phase.HEAD and not self._unused_bytes:
            self._refuse("silent")
        else:
            detail = f"The {self._phase} of the request was not whole in time."
            self._refuse(f"slow_{self._phase}", problems.problem(408, "request_timeout", "Request timeout", detail))

    def _abort_unread(self) -> None:
        CONNECTIONS_REFUSED.labels(reason="answer_unread").inc()
        self.transport.abort()

    def _make_room(self) -> None:
        """Close a tenth of the connections: those that have been idle for longest."""
        now = self.loop.time()
        waiting = [
            (one.waiting_since, id(one), one)
            for one in cast("set[BoundedProtocol]", self.connections)
            if one.waiting_since is not None and one.waiting_since + _WAITED_S < now
        ]
        for _, _, one in sorted(waiting)[: max(self._max_connections // 10, 1)]:
            CONNECTIONS_REFUSED.labels(reason="made_room").inc()
            self.connections.discard(one)
            one.transport.abort()

    # --- refusals

    def _refuse(self, reason: str, answer: Response | None = None) -> None:
        """Read no more from this connection, and send the reason unless it could be taken for another answer."""
        if self._drops_input:
            return
        CONNECTIONS_REFUSED.labels(reason=reason).inc()
        self._stop_reading()
        active = self._active
        has_its_answer = active is None or active.response_complete
        if active is not None and not has_its_answer:
            if self._phase is not _Phase.BODY or active is not self.cycle or active.response_started:
                return  # that request has not ended yet; after its answer the connection closes
            active.disconnected, active.waiting_for_100_continue = True, False
            active.message_event.set()
        # A body that still comes when its request has been answered is not answered again.
        if answer is None or (has_its_answer and self._phase is _Phase.BODY):
            self.transport.close()
        else:
            self.transport.write(_on_the_wire(answer))
            self.transport.write_eof()
        self._abort_later(self.linger_s)

    def _stop_reading(self) -> None:
        """Drop further input and pipelined requests; the request that is being answered is the last."""
        self._drops_input = True
        self.waiting_since = None
        self.pipeline.clear()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._active is not None:
            self._active.keep_alive = False

    def _abort_later(self, seconds: float) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(seconds, self.transport.abort)


def connections_allowed() -> int:
    """How many connections this process has files for, once it has asked for as many files as it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_CONNECTIONS + MAX_CONNECTIONS // 10 + _FILES_FOR_OTHERS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MAX_CONNECTIONS
    return max((soft - _FILES_FOR_OTHERS) * 10 // 11, 50)


async def _too_late(scope: Scope, receive: Receive, send: Send) -> None:
    """The app, when a request has waited for this process for too long."""
    CONNECTIONS_REFUSED.labels(reason="unread").inc()
    await _last(_unread_problem())(scope, receive, send)


def _unread_problem() -> Response:
    detail = "The request waited here for longer than anybody waits for an answer. Nothing was done."
    return problems.problem(408, "request_timeout", "Request timeout", detail)


async def _too_many(scope: Scope, receive: Receive, send: Send) -> None:
    """The app, when there are too many connections."""
    await _last(problems.of_error(TooManyConnections()))(scope, receive, send)


def _last(answer: Response) -> Response:
    """The answer, marked as the last one of its connection."""
    answer.headers["Connection"] = "close"
    return answer


def _on_the_wire(answer: Response) -> bytes:
    """The bytes of an answer that is written without an app. The connection ends with it."""
    lines = [b"%s: %s\r\n" % (name, value) for name, value in answer.raw_headers]
    return b"".join([STATUS_LINE[answer.status_code], *lines, b"connection: close\r\n\r\n", bytes(answer.body)])
