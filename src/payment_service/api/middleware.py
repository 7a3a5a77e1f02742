"""The one ASGI middleware: gives every request its id, limits, log line and metrics."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from fastapi.middleware.cors import CORSMiddleware
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payment_service.api import problems
from payment_service.api.credentials import presented_key
from payment_service.api.refused import RefusedCallers
from payment_service.api.throttle import Throttle, Ticket
from payment_service.errors import Draining
from payment_service.observability import logs
from payment_service.observability.context import Origin, origin
from payment_service.observability.metrics import HTTP_SECONDS, labelled
from payment_service.observability.tracing import record_span

MAX_BODY_BYTES: Final = 64 * 1024
"""Counted here and not by FastAPI, whose limit answers in plain text and passes through us as an error."""
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_QUERY_BYTES: Final = 4 * 1024
_TOO_LARGE: Final = "The body is longer than 64 kB."
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_WHITESPACE: Final = b" \t"  # optional whitespace around a field value (RFC 9110, section 5.5)
ANONYMOUS: Final = "anonymous"
ALWAYS_SERVED: Final = frozenset({"/health", "/api/health", "/health/ready", "/metrics"})

log = logs.get_logger(__name__)


@dataclass(slots=True)
class Drain:
    """Whether this process is stopping."""

    begun: bool = False


class RequestMiddleware:
    """Normalises requests, limits them, and turns every error into a problem.

    A path with a trailing slash is served as the path without it. A redirect instead would name ``http://`` behind a
    balancer that ends TLS, and repeat the query, with phone and amount, in the clear.
    """

    def __init__(self, routes: ASGIApp, drain: Drain, cors: Mapping[str, Any] | None = None) -> None:
        """``cors`` are the settings of Starlette's CORSMiddleware; without them no other origin may read answers."""
        self._routes = routes
        self._drain = drain
        self._refused = RefusedCallers()
        # Outermost, so that a page of another origin may read every answer, problems too.
        self._outermost: ASGIApp = CORSMiddleware(self._serve, **cors) if cors else self._serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._routes(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"
        scope["headers"] = [(name, value.strip(_WHITESPACE)) for name, value in scope["headers"]]
        await self._outermost(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        headers = dict(reversed(scope["headers"]))  # of a header that is given twice, the first
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid4().hex
        origin.set(Origin(ANONYMOUS, request_id))
        logs.begin(request_id=request_id)
        state = scope.setdefault("state", {})
        state["started"] = asyncio.get_running_loop().time()
        state["key"] = presented_key(headers)
        throttle: Throttle = scope["app"].state.throttle
        ticket: Ticket | None = None
        status: int | None = None
        body_bytes = 0
        is_whole = not headers.keys() & {b"content-length", b"transfer-encoding"}

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if ticket is not None:
                    verified = origin.get().actor != ANONYMOUS or "verified" in state
                    throttle.observe(ticket, verified=verified, refused=status == 401)
                message["headers"] = self._completed(message["headers"], request_id)
            await send(message)

        async def receive_limited() -> Message:
            nonlocal body_bytes, is_whole
            message = await receive()
            body_bytes += len(message.get("body", b""))
            if body_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            is_whole = not message.get("more_body")
            return message

        # A copy: the server must still see a HEAD, or it would wait for the announced body.
        served = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        send_all = _without_body(send_with_id) if served is not scope else send_with_id
        try:
            if (refusal := self._refusal(scope, headers)) is not None:
                await refusal(scope, receive, send_all)
            else:
                if scope["path"] not in ALWAYS_SERVED:
                    ticket = throttle.admit(state["key"], scope.get("client"))
                await self._routes(served, receive_limited, send_all)
        except _HeadersSentError:
            pass  # a stream of events would go on for as long as the service lives
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the last place where an error can be answered
            # Cancelled by a stop of the process. A request whose body was not complete has not begun.
            cut_before = isinstance(error, asyncio.CancelledError) and not is_whole
            answer = problems.of(Draining() if cut_before else error, served)
            if status is None:
                await answer(served, receive, send_all)
        finally:
            self._report(scope["method"], served, status, time.perf_counter() - began)

    def _completed(self, headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
        """The headers of an answer with those that every answer has."""
        completed = [*headers, (b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
        if not any(name == b"cache-control" for name, _ in headers):
            completed.append((b"cache-control", b"no-store"))
        if self._drain.begun:
            completed.append((b"connection", b"close"))
        return completed

    def _report(self, method: str, scope: Scope, status: int | None, seconds: float) -> None:
        """Count an answered request, and write its log line with all that was bound."""
        # The route's pattern, not the address: an address may hold an id, a query may hold anything.
        route = getattr(scope.get("route"), "path", "unknown")
        labelled(HTTP_SECONDS, method, route, str(status)).observe(seconds)
        if scope["path"] not in ALWAYS_SERVED:
            actor = origin.get().actor
            record_span(f"{method} {route}", seconds, kind="SERVER", failed=(status or 500) >= 500, status=status)
            log.info("answered", method=method, route=route, status=status, actor=actor, seconds=round(seconds, 4))
            client = scope.get("client")
            self._refused.observe(client[0] if client else "", actor, route, status)

    def _refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> ASGIApp | None:
        """The refusal of a request that is not served at all; none to serve it."""
        if self._drain.begun and scope["path"] not in ALWAYS_SERVED:
            return problems.of_error(Draining())
        if len(scope["query_string"]) > MAX_QUERY_BYTES:
            return problems.problem(414, "uri_too_long", "URI too long", "The query is longer than 4 kB.")
        if sum([len(name) + len(value) for name, value in scope["headers"]]) > MAX_HEADER_BYTES:
            return problems.problem(
                431, "headers_too_large", "Headers too large", "The headers are longer than 16 kB together."
            )
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            return problems.problem(413, "body_too_large", "Body too large", _TOO_LARGE)
        return None


def _without_body(send: Send) -> Send:
    """Answer HEAD with the status and the headers that GET has."""

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body"})
        elif message.get("more_body"):
            raise _HeadersSentError

    return send_headers


class _HeadersSentError(Exception):
    """Ends a response whose body nobody reads."""
