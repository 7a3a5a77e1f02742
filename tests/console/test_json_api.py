"""JSON by a session: exactly what the pages show, within role and shops; and no endpoint of the API takes a cookie."""

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from payment_service.access.people import Role
from payment_service.console.json_api import READABLE
from payment_service.services import Services
from tests.console.conftest import FOREIGN, OWN, SignIn
from tests.console.test_pages import paid
from tests.support.replies import GoodProxy

API = "/console/api"
PUBLIC = {"/", "/health", "/api/health", "/health/ready", "/metrics", "/webhooks/kaspi", "/webhooks/provider/{name}"}
NOBODY = "00000000-0000-0000-0000-000000000000"
VALUES = {"shop_id": str(OWN), "kind": "svg", "bin": "920317450731", "external_id": "12800627774", "name": "kaspi"}
QUERIES = {"/payments/sums": {"since": "2026-10-01", "until": "2026-11-01"}, "/admin/messages": {"payment": NOBODY}}


def endpoints(app: FastAPI) -> list[tuple[str, str]]:
    """Every method and path that the API has."""
    routes = [route for route in app.router.routes if isinstance(route, APIRoute)]
    return [(method, route.path) for route in routes for method in sorted(route.methods or ())]


def address(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: VALUES.get(found[1], NOBODY), path)


async def test_no_endpoint_of_the_api_takes_a_cookie_and_by_session_only_what_is_listed_is_read(
    app: FastAPI, services: Services, shops: dict[int, str], sign_in: SignIn
) -> None:
    client = await sign_in(Role.ADMIN)
    [(name, token)] = [(cookie.name, cookie.value) for cookie in client.cookies.jar]
    cookie = {"Cookie": f"{name}={token}"}  # a browser would send it to the console only
    served = endpoints(app)
    assert {path for _, path in served} >= READABLE.keys()
    read = set()
    for method, path in served:
        asked: dict[str, Any] = {"params": QUERIES.get(path)}
        if method in {"POST", "PUT", "PATCH"}:
            asked["json"] = {}
        without, with_it = [
            (await client.request(method, address(path), headers=headers, **asked)).status_code
            for headers in ({"Cookie": ""}, cookie)
        ]
        assert with_it == without, (method, path)
        assert with_it == 401 or path in PUBLIC, (method, path)
        answer = await client.request(method, API + address(path), headers=cookie, **asked)
        if method == "GET" and path in READABLE:
            read.add(path)
            if NOBODY not in address(path) + str(asked):
                assert answer.status_code == 200, (path, answer.text)
            else:
                assert answer.json()["code"].endswith("_not_found"), (path, answer.text)
        else:
            assert answer.status_code == 404, (method, path, answer.text)
    assert read == READABLE.keys()
    assert (await client.get(f"{API}/console/api/me")).status_code == 404


OF_DELIVERIES = ("/admin/deliveries", "/admin/messages", "/admin/notify")
OF_ADMINISTRATORS = ("/admin/configs", "/admin/keys")
REFUSED: dict[Role, tuple[str, ...]] = {
    Role.FLORIST: ("/admin/logs", *OF_DELIVERIES, *OF_ADMINISTRATORS),
    Role.OPERATOR: OF_ADMINISTRATORS,
    Role.ACCOUNTANT: (*OF_DELIVERIES, *OF_ADMINISTRATORS),
    Role.ADMIN: (),
}


@pytest.mark.parametrize("role", Role)
async def test_what_a_role_reads_is_what_its_pages_show(
    services: Services, shops: dict[int, str], sign_in: SignIn, role: Role
) -> None:
    client = await (sign_in(role, OWN) if role == Role.FLORIST else sign_in(role))
    for path in READABLE:
        answer = await client.get(API + address(path), params=QUERIES.get(path))
        assert (answer.status_code == 403) == path.startswith(REFUSED[role]), (path, answer.text)
        assert answer.status_code in {200, 403, 404}, (path, answer.text)


async def test_florist_reads_only_their_own(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    own, foreign = await paid(services, proxy, OWN), await paid(services, proxy, FOREIGN)
    client = await sign_in(Role.FLORIST, OWN)
    me = (await client.get(f"{API}/me")).json()
    assert me == {
        "name": "florist@example.kz",
        "scopes": ["payments:read", "refunds:write"],
        "shops": [OWN],
    }
    listed = (await client.get(f"{API}/payments")).json()["items"]
    assert [one["id"] for one in listed] == [str(own.id)]
    assert (await client.get(f"{API}/payments/{own.id}")).json()["state"] == "paid"
    assert (await client.get(f"{API}/payments/{foreign.id}")).json()["code"] == "payment_not_found"
    assert (await client.get(f"{API}/payments", params={"shop_id": FOREIGN})).json()["items"] == []
    assert (await client.get(f"{API}/payments/{own.id}", params={"wait": 1})).status_code == 403


async def test_changes_of_who_may_do_what_are_read_by_administrators_alone(
    services: Services, shops: dict[int, str], sign_in: SignIn
) -> None:
    accountant, admin = await sign_in(Role.ACCOUNTANT), await sign_in(Role.ADMIN)
    logs = f"{API}/admin/logs"
    assert (await accountant.get(logs)).json() == []
    for query in ({"changes": "true"}, {"operation_type": "person-create"}, {"subject": "person:1"}):
        assert (await accountant.get(logs, params=query)).status_code == 403, query
        assert (await admin.get(logs, params=query)).json() != [], query


async def test_session_that_ended_and_pages_of_other_sites_read_nothing(sign_in: SignIn) -> None:
    client = await sign_in(Role.ADMIN)
    foreign: list[dict[str, str]] = [
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://shop.localhost"},
        {"Origin": "null"},
    ]
    for headers in foreign:
        assert (await client.get(f"{API}/me", headers=headers)).status_code == 403, headers
    for headers in ({"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}):
        assert (await client.get(f"{API}/me", headers=headers)).status_code == 200, headers
    kept = httpx.Cookies(client.cookies)
    await client.post("/console/sign-out")
    client.cookies = kept
    answer = await client.get(f"{API}/me")
    assert (answer.status_code, answer.json()["code"]) == (401, "authentication_required")
