"""The API as JSON for people who are signed in to the console: ``/console/api`` before a path of the API.

Only the paths listed here can be read, each with its right, and nothing can be changed. The API itself accepts no
cookie, and no browser sends it one: a session's cookie goes to paths of the console only.
"""

from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from payment_service.access.people import Right
from payment_service.access.sessions import SignedIn
from payment_service.console.web import HOME, signed_in
from payment_service.services import Services

API: Final = f"{HOME}/api"
READABLE: Final[Mapping[str, Right]] = {
    "/me": Right.READ,
    "/payments": Right.READ,
    "/payments/sums": Right.READ,
    "/payments/{id}": Right.READ,
    "/payments/{id}/qr.{kind}": Right.READ,
    "/refunds": Right.READ,
    "/admin/tasks": Right.READ,
    "/admin/logs": Right.RECORD,
    "/admin/deliveries": Right.DELIVER,
    "/admin/deliveries/{id}": Right.DELIVER,
    "/admin/messages": Right.DELIVER,
    "/admin/notify": Right.DELIVER,
    "/admin/notify/{id}": Right.DELIVER,
    "/admin/configs": Right.ROUTE,
    "/admin/configs/{shop_id}": Right.ROUTE,
    "/admin/configs/{shop_id}/history": Right.ROUTE,
    "/admin/keys": Right.ADMINISTER,
}
"""By the path of the API's route, the right that the page with the same content needs.

Not in it are what calls the provider, what stays open, and webhook endpoints, whose whole URLs are on no page."""
_STAYS_OPEN: Final = "wait"
"""Parameter by which a request waits: its session might end meanwhile unnoticed."""
_OF_CHANGES: Final = frozenset({"changes", "operation_type", "subject"})
"""Parameters by which the audit log includes changes of rights, which need a right of their own."""


class JsonApi:
    """Reads from the API as the person whose session it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. A refusal becomes a problem, as everywhere in the API."""
        request = Request(scope)
        of_api = {**scope, "path": scope["path"].removeprefix(API), "path_params": {}}
        route, found = _route_of(of_api)
        needs = READABLE.get(getattr(route, "path", ""))
        if route is None or needs is None or scope["method"] != "GET":
            raise HTTPException(404)
        _check_site(request)
        who = await signed_in(request, cast("Services", scope["app"].state.services))
        if not who.may(needs) or not _may_use_parameters(who, request):
            raise HTTPException(403, "Your account may not read this.")
        state = {**scope["state"], "person": who.caller}
        await route.handle({**of_api, **found, "state": state}, receive, send)


def _route_of(scope: Scope) -> tuple[BaseRoute | None, Scope]:
    """The route of the API that matches such a request."""
    for route in scope["app"].router.routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            return route, found
    return None, {}


def _check_site(request: Request) -> None:
    """Refuse requests of other sites. SameSite does so too, but not for other subdomains of this domain."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("Host")
    if site not in {None, "same-origin", "none"} or is_foreign:
        raise HTTPException(403, "Only pages of the console may ask.")


def _may_use_parameters(who: SignedIn, request: Request) -> bool:
    if _STAYS_OPEN in request.query_params:
        return False
    return who.may(Right.CHANGES) or not (
        request.url.path == f"{API}/admin/logs" and _OF_CHANGES & request.query_params.keys()
    )
