"""Mounts the console in the app: two routes that import it when somebody first opens a page."""

import asyncio
from importlib import import_module
from typing import Final

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class _Deferred:
    """The console, once it is imported: in a thread, so that no payment waits for it."""

    def __init__(self) -> None:
        self._importing: asyncio.Task[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._importing is None or (self._importing.done() and self._importing.exception()):
            self._importing = asyncio.create_task(asyncio.to_thread(_imported))
        pages = await asyncio.shield(self._importing)
        scope["route"] = ROUTES[1]  # for the log and the metrics; a path may hold a link's token
        await pages(scope, receive, send)


def _imported() -> ASGIApp:
    # Passwords too: the module makes a hash when it is imported.
    import_module("payment_service.access.passwords")
    pages: ASGIApp = import_module("payment_service.console.app").pages
    return pages


_deferred: Final = _Deferred()
ROUTES: Final = (Route("/console", _deferred), Route("/console/{rest:path}", _deferred))
