"""The pages and their addresses."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from payment_service.access.people import Right
from payment_service.console import (
    changing_route,
    health,
    keys,
    lists,
    messages,
    openid,
    payment,
    people,
    record,
    refunding,
    sellers,
    settling,
    signing_in,
    sums,
    test_payment,
    webhooks,
)
from payment_service.console.json_api import API, JsonApi
from payment_service.console.render import assets
from payment_service.console.web import HEADERS, HOME, SIGN_IN, Page, PageContext, Refused, page

_CACHE_FOREVER: Final = "private, max-age=31536000, immutable"


async def _asset(request: Request) -> Response:
    asset = assets().get(request.path_params["name"])
    if asset is None:
        return await _nowhere(request)
    headers = {**HEADERS, "Cache-Control": _CACHE_FOREVER, "Vary": "Accept-Encoding"}
    content = asset.content
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"], content = "gzip", asset.compressed
    return Response(content, media_type=asset.media_type, headers=headers)


async def _not_found(_context: PageContext) -> Response:
    raise Refused(404)


def _at(path: str, show: Page, *, post: bool = False, get: bool = True, needs: Right | None = Right.READ) -> Route:
    methods = [method for method, wanted in (("GET", get), ("POST", post)) if wanted]
    return Route(HOME + path, page(show, needs=needs), methods=methods)


_PAYMENT: Final = "/payments/{id}"
_REFUND: Final = f"{_PAYMENT}/refunds/{{refund_id}}"
_SELLER: Final = "/sellers/{shop_id}"
_nowhere: Callable[[Request], Awaitable[Response]] = page(_not_found, needs=None)
_router: Final = Router(
    [
        _at("", lists.search),
        _at("/tasks", lists.tasks),
        _at(_PAYMENT, payment.one),
        _at(f"{_PAYMENT}/live", payment.live),
        _at(f"{_PAYMENT}/ask", payment.ask, get=False, post=True),
        _at(f"{_PAYMENT}/replay", payment.replay, get=False, post=True, needs=Right.DELIVER),
        _at(f"{_PAYMENT}/refund", refunding.refund, post=True, needs=Right.REFUND),
        _at(f"{_PAYMENT}/settle", settling.settle, post=True, needs=Right.SETTLE),
        _at(f"{_PAYMENT}/undo", settling.undo, post=True, needs=Right.SETTLE),
        _at(f"{_REFUND}/settle", settling.settle, post=True, needs=Right.SETTLE),
        _at(f"{_REFUND}/undo", settling.undo, post=True, needs=Right.SETTLE),
        # sellers
        _at("/sellers", sellers.all_sellers),
        _at(_SELLER, sellers.one),
        _at(f"{_SELLER}/route", changing_route.change, post=True, needs=Right.ROUTE),
        _at(f"{_SELLER}/changes/{{change_id}}", changing_route.decide, post=True, needs=Right.ROUTE),
        _at(f"{_SELLER}/test", test_payment.test, post=True, needs=Right.TEST),
        # the record
        _at("/record", record.record, needs=Right.RECORD),
        _at("/record.csv", record.as_file, needs=Right.RECORD),
        # health
        _at("/health", health.health, needs=Right.HEALTH),
        # day and month
        _at("/sums", sums.sums),
        _at("/sums.csv", sums.sums_csv),
        # webhooks and messages
        _at("/webhooks", webhooks.webhooks, needs=Right.DELIVER),
        _at("/webhooks/new", webhooks.new, post=True, needs=Right.ADMINISTER),
        _at("/webhooks/{id}/switch", webhooks.switch, post=True, needs=Right.ADMINISTER),
        _at("/webhooks/{id}/replay", webhooks.replay_many, post=True, needs=Right.DELIVER),
        _at("/deliveries", webhooks.deliveries, needs=Right.DELIVER),
        _at("/deliveries/{id}", webhooks.delivery, needs=Right.DELIVER),
        _at("/deliveries/{id}/replay", webhooks.replay_one, get=False, post=True, needs=Right.DELIVER),
        _at("/messages", messages.messages, needs=Right.DELIVER),
        # keys and people
        _at("/keys", keys.keys, needs=Right.ADMINISTER),
        _at("/keys/new", keys.new, post=True, needs=Right.ADMINISTER),
        _at("/keys/{id}/revoke", keys.revoke, post=True, needs=Right.ADMINISTER),
        _at("/people", people.people, needs=Right.ADMINISTER),
        _at("/people/new", people.new, post=True, needs=Right.ADMINISTER),
        _at("/people/{id}", people.one, post=True, needs=Right.ADMINISTER),
        # signing in
        _at(SIGN_IN.removeprefix(HOME), signing_in.sign_in, post=True, needs=None),
        _at("/sign-out", signing_in.sign_out, get=False, post=True),
        _at("/link/{token}", signing_in.link, post=True, needs=None),
        _at("/openid/sign-in", openid.sign_in, needs=None),
        _at("/openid/confirm", openid.confirm),
        _at("/openid/callback", openid.callback, needs=None),
        _at("/language/{code}", signing_in.choose_language, needs=None),
        Route(f"{HOME}/static/{{name}}", _asset),
        Route(f"{API}/{{rest:path}}", JsonApi()),
        Route(f"{HOME}/{{rest:path}}", _nowhere, methods=["GET", "POST"]),
    ],
    redirect_slashes=False,
)


async def pages(scope: Scope, receive: Receive, send: Send) -> None:
    """The console as an ASGI app. The router looks at the whole path, as the one around it does."""
    await _router({**scope, "path_params": {}}, receive, send)
