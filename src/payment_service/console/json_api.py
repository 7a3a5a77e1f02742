"""The JSON of what the console's pages show, for those who are signed in: ``/console/api`` and an address of the API.

What may be read so, and by which right, is the list here and nothing else; nothing can be changed. The API itself takes
no cookie, and no browser sends it one: a session's cookie goes to addresses of the console only.
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

Left out is what asks the provider, what stays open, and webhook endpoints: their whole addresses are on no page."""
_STAYS_OPEN: Final = "wait"
"""Parameter by which a request waits: its session may end meanwhile, and nobody would look."""
_OF_CHANGES: Final = frozenset({"changes", "operation_type", "subject"})
"""Parameters of the record by which it also tells who may do what; that is for those who see it on its page."""


class JsonApi:
    """Reads from the API as the person whose session it is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. What is refused becomes a problem, as everywhere in the API."""
        request = Request(scope)
        asked = {**scope, "path": scope["path"].removeprefix(API), "path_params": {}}
        route, found = _route_of(asked)
        needs = READABLE.get(getattr(route, "path", ""))
        if route is None or needs is None or scope["method"] != "GET":
            raise HTTPException(404)
        _check_site(request)
        who = await signed_in(request, cast("Services", scope["app"].state.services))
        if not who.may(needs) or not _may_ask_so(who, request):
            raise HTTPException(403, "Your account may not read this.")
        state = {**scope["state"], "person": who.caller}
        await route.handle({**asked, **found, "state": state}, receive, send)


def _route_of(scope: Scope) -> tuple[BaseRoute | None, Scope]:
    """The route of the API that such a request would take: looked up, so that no address stands for another one."""
    for route in scope["app"].router.routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            return route, found
    return None, {}


def _check_site(request: Request) -> None:
    """Refuse what a page of another site asks for. SameSite does so too, but not for other names of this domain."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    is_foreign = origin is not None and urlsplit(origin).netloc != request.headers.get("Host")
    if site not in {None, "same-origin", "none"} or is_foreign:
        raise HTTPException(403, "Only pages of the console may ask.")


def _may_ask_so(who: SignedIn, request: Request) -> bool:
    if _STAYS_OPEN in request.query_params:
        return False
    return who.may(Right.CHANGES) or not (
        request.url.path == f"{API}/admin/logs" and _OF_CHANGES & request.query_params.keys()
    )
