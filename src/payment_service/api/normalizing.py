"""Requests that mean the same are made the same before anything reads them, and HEAD is answered. Plain ASGI.

``Normalized`` is the outermost layer: every other one sees its paths and headers. ``HeadRequests`` is the innermost,
so that logs and metrics know a HEAD as what it is.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WHITESPACE = b" \t"  # optional whitespace around a field value (RFC 9110, section 5.5)


class Normalized:
    """Serves a path with a trailing slash as the path without it, and drops whitespace around header values.

    A redirect instead would name ``http://`` behind a balancer that ends TLS, and repeat the query, with phone and
    amount, in the clear.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            scope["path"] = scope["path"].rstrip("/") or "/"
            scope["headers"] = [(name, value.strip(_WHITESPACE)) for name, value in scope["headers"]]
        await self._app(scope, receive, send)


class HeadRequests:
    """Answers HEAD with the status and the headers that GET has, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body"})
            elif message.get("more_body"):
                raise _HeadersSentError

        # A copy, for the server must still see that it answers a HEAD: it would wait for the announced body.
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_headers)
        except _HeadersSentError:
            pass  # a stream of events would go on for as long as the service lives
        finally:
            if "route" in as_get:
                scope["route"] = as_get["route"]


class _HeadersSentError(Exception):
    """Ends a response of which nobody reads the body."""
