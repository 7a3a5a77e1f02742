"""Around every request: its id, its limits, its line in the log, its place in the metrics. Plain ASGI."""

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from payment_service.api import problems
from payment_service.api.throttle import Throttle, Ticket
from payment_service.errors import Draining, RateLimited
from payment_service.observability.context import Origin, origin
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import HTTP_SECONDS

MAX_BODY_BYTES: Final = 64 * 1024
"""Counted here and not by FastAPI, whose limit answers in plain text and passes through us as an error."""
MAX_HEADER_BYTES: Final = 16 * 1024
MAX_QUERY_BYTES: Final = 4 * 1024
_TOO_LARGE: Final = "The body is longer than 64 kB."
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
ANONYMOUS: Final = "anonymous"
ALWAYS_SERVED: Final = frozenset({"/health", "/api/health", "/health/ready", "/metrics"})

log = get_logger(__name__)


@dataclass(slots=True)
class Drain:
    """Whether this process is stopping."""

    begun: bool = False


@dataclass(slots=True)
class _Seen:
    """What the log needs to know of an answer."""

    status: int | None = None
    body_bytes: int = 0
    started: float = field(default_factory=time.perf_counter)


class Envelope:
    """The middleware around the app."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        origin.set(Origin(ANONYMOUS, request_id))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        scope.setdefault("state", {})["started"] = asyncio.get_running_loop().time()
        seen = _Seen()
        throttle: Throttle = scope["app"].state.throttle
        ticket: Ticket | None = None

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
                if ticket is not None:
                    verified = origin.get().actor != ANONYMOUS or scope["state"].get("verified", False)
                    throttle.learn(ticket, verified=verified, refused=seen.status == 401)
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.setdefault("Cache-Control", "no-store")
                headers["X-Content-Type-Options"] = "nosniff"
                if self._drain.begun:
                    headers["Connection"] = "close"
            await send(message)

        async def receive_limited() -> Message:
            message = await receive()
            seen.body_bytes += len(message.get("body", b""))
            if seen.body_bytes > MAX_BODY_BYTES:
                raise HTTPException(413, _TOO_LARGE)
            return message

        try:
            if (refusal := self._refusal(scope)) is None and scope["path"] not in ALWAYS_SERVED:
                ticket = throttle.admit(scope)
            await (refusal or self._app)(scope, receive_limited, send_with_id)
        except RateLimited as error:
            await problems.of_error(error)(scope, receive, send_with_id)
        except Exception as error:  # noqa: BLE001 - the last place where an error can still be answered
            answer = problems.of_unforeseen(error)
            if seen.status is None:
                await answer(scope, receive, send_with_id)
        finally:
            self._tell(scope, seen)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """What is refused before it is looked at."""
        if self._drain.begun and scope["path"] not in ALWAYS_SERVED:
            return problems.of_error(Draining())
        if len(scope["query_string"]) > MAX_QUERY_BYTES:
            return problems.problem(414, "uri_too_long", "URI too long", "The query is longer than 4 kB.")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            return problems.problem(
                431, "headers_too_large", "Headers too large", "The headers are longer than 16 kB together."
            )
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length[:20]) > MAX_BODY_BYTES:
            return problems.problem(413, "body_too_large", "Body too large", _TOO_LARGE)
        return None

    def _tell(self, scope: Scope, seen: _Seen) -> None:
        seconds = time.perf_counter() - seen.started
        # The route's pattern, not the address: an address may hold an id, a query may hold anything.
        route = getattr(scope.get("route"), "path", "unknown")
        HTTP_SECONDS.labels(method=scope["method"], route=route, status=seen.status).observe(seconds)
        if scope["path"] not in ALWAYS_SERVED:
            log.info(
                "answered",
                method=scope["method"],
                route=route,
                status=seen.status,
                actor=origin.get().actor,
                seconds=round(seconds, 4),
            )
