"""What HTTP itself promises: HEAD, trailing slashes, whitespace around header values, CORS for every answer."""

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from payment_service import __version__
from payment_service.access.service import Scope
from payment_service.api.app import ALLOWED_HEADERS, EXPOSED_HEADERS
from payment_service.api.documentation import POLICY
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from tests.api.conftest import SHOP, create_body, created, link_body, problem_of
from tests.api.test_matrix import ROWS, Target, routes_of
from tests.api.test_operations import PAGE, app_with
from tests.conftest import ClientMaker
from tests.support.replies import GoodProxy

NOWHERE = Target(SHOP, "920317450731", "11111111111", "00000000-0000-0000-0000-000000000000")
GETS = sorted(path for method, path in ROWS if method == "GET")
VOLATILE = {"x-request-id", "etag", "x-config-valid-until", "x-config-signature"}
SOMETIMES_LONGER = {"/metrics"}


def headers_of(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in VOLATILE}


@pytest.mark.parametrize("path", GETS)
async def test_head_has_the_headers_of_get_and_no_body(path: str, client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    proxy.statuses[NOWHERE.external_id] = "Wait"
    address = ROWS["GET", path].path(NOWHERE)
    request_id = {"X-Request-ID": "same-for-both"}
    got, head = await client.get(address, headers=request_id), await client.head(address, headers=request_id)
    assert (head.status_code, head.content) == (got.status_code, b"")
    if path not in SOMETIMES_LONGER:
        assert headers_of(head) == headers_of(got)


@pytest.mark.parametrize("kind", ["svg", "png"])
async def test_head_of_a_picture_has_its_type_and_length(
    kind: str, client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    made = (await client.post("/payments/kaspi/create-link", json=link_body())).json()
    got, head = [await client.request(method, f"/payments/{made['id']}/qr.{kind}") for method in ("GET", "HEAD")]
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["content-length"] == str(len(got.content))
    assert head.content == b""


async def test_head_of_csv_has_its_type(client: httpx.AsyncClient) -> None:
    head = await client.head("/admin/logs", headers={"Accept": "text/csv"})
    assert (head.headers["content-type"], head.content) == ("text/csv; charset=utf-8", b"")


async def test_head_of_a_stream_ends(client: httpx.AsyncClient) -> None:
    head = await client.head("/payments/events", timeout=5)
    assert head.status_code == 200
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_head_is_logged_and_counted_as_such(client: httpx.AsyncClient, log_text: Callable[[], str]) -> None:
    await client.head("/admin/configs")
    assert '"method":"HEAD","route":"/admin/configs"' in log_text()


async def test_head_is_not_post(client: httpx.AsyncClient) -> None:
    answer = await client.head("/payments/kaspi/create")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.thorough
@pytest.mark.parametrize("operation", sorted(ROWS), ids=" ".join)
async def test_path_with_a_trailing_slash_is_served_and_never_redirected(
    operation: tuple[str, str], client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    method, row = operation[0], ROWS[operation]
    proxy.statuses[NOWHERE.external_id] = "Wait"
    path, question, query = row.path(NOWHERE).partition("?")
    body = row.body(NOWHERE) if row.body else None
    addresses = [f"{path}{slashes}{question}{query}" for slashes in ("", "", "/", "//")]
    _, plain, *served = [await client.request(method, address, json=body) for address in addresses]
    assert [answer.status_code for answer in served] == [plain.status_code] * 2
    assert not plain.is_redirect


def test_no_route_ends_in_a_slash(app: FastAPI) -> None:
    assert [route.path for route in routes_of(app) if route.path.endswith("/")] == ["/"]


async def test_root_says_what_this_is(make_client: ClientMaker) -> None:
    answer = (await make_client().get("/")).json()
    assert (answer["name"], answer["version"], answer["documentation"]) == ("payment-service", __version__, "/docs")


async def test_root_names_the_console_and_no_documentation_that_is_off(services: Services, client_of: Any) -> None:
    app = app_with(services, docs_enabled=False, console_url="https://pay.example.kz")
    answer = (await client_of(app).get("/")).json()
    assert (answer["documentation"], answer["openapi"]) == (None, None)
    assert answer["console"] == "https://pay.example.kz/console"


# --- whitespace around header values


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": " Bearer KEY "},
        {"Authorization": "Bearer   KEY\t"},
        {"Authorization": "BEARER KEY"},
        {"X-API-Key": "\t KEY  "},
    ],
    ids=str,
)
async def test_key_is_read_without_the_whitespace_around_it(
    headers: dict[str, str], services: Services, make_client: ClientMaker
) -> None:
    key = (await services.access.create("tests", [Scope.ADMIN], shops=ALL_SHOPS)).key
    sent = {name.encode(): value.replace("KEY", key).encode() for name, value in headers.items()}
    assert (await make_client().get("/admin/configs", headers=sent)).status_code == 200


async def test_idempotency_key_is_the_same_with_and_without_whitespace_around_it(
    client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    answers = [
        await client.post("/payments/kaspi/create", json=create_body(), headers={b"Idempotency-Key": key})
        for key in (b"key-of-order-1", b" key-of-order-1", b"\tkey-of-order-1  ")
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, "true", "true"]
    assert proxy.money_calls == 1


async def test_request_id_is_read_without_the_whitespace_around_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health", headers={b"X-Request-ID": b"  mine\t"})
    assert answer.headers["x-request-id"] == "mine"


async def test_content_type_and_etag_are_read_without_the_whitespace_around_them(
    client: httpx.AsyncClient, shops: dict[int, str]
) -> None:
    etag = (await client.get("/api/payment/config")).headers["etag"]
    again = await client.get("/api/payment/config", headers={b"If-None-Match": f"  {etag} ".encode()})
    assert again.status_code == 304
    content = b'{"shop_id": 121038, "operation_type": "create"}'
    headers = {b"Content-Type": b" application/json ", b"Content-Encoding": b" identity "}
    assert (await client.post("/api/payment/log", content=content, headers=headers)).status_code == 200


# --- times in a query


@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("path", ["/payments", "/admin/logs"])
async def test_plus_sign_of_an_offset_may_arrive_as_a_space(
    path: str, name: str, client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    await created(client)
    counts = []
    for moment in ("2020-01-01T00:00:00", "2020-01-01T00:00", "2020-01-01 00:00:00.000", "2099-01-01T00:00:00"):
        answer = await client.get(f"{path}?{name}={moment.replace(' ', '%20')}+05:00")
        assert answer.status_code == 200, answer.text
        body = answer.json()
        counts.append(len(body if isinstance(body, list) else body["items"]))
    assert counts == ([1, 1, 1, 0] if name == "since" else [0, 0, 0, 1])


@pytest.mark.parametrize("moment", ["2020-01-01+05:00", "2020-01-01T00:00:00 ", "2020-01-01T00:00:00  05:00"])
async def test_other_times_with_spaces_are_refused(moment: str, client: httpx.AsyncClient) -> None:
    problem_of(await client.get(f"/payments?since={moment}"), 422, "validation_failed")


# --- pages of other origins


async def test_page_may_send_what_the_api_reads_and_read_what_it_says(services: Services, client_of: Any) -> None:
    page = client_of(app_with(services, cors_origins=[PAGE]), Origin=PAGE)
    asked = "last-event-id, if-none-match, cache-control, idempotency-key, x-request-id, authorization, x-api-key"
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": f"{asked}, content-type"}
    allowed = await page.options("/payments/kaspi/create/", headers=headers)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    for answer in (await page.get("/health"), await page.get("/nothing"), await page.post("/payments/kaspi/create")):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-expose-headers"] == ", ".join(EXPOSED_HEADERS)


async def test_every_header_that_the_document_names_may_be_sent_and_read_by_a_page(app: FastAPI) -> None:
    operations = [one for path in app.openapi()["paths"].values() for one in path.values()]
    read = {p["name"].lower() for one in operations for p in one.get("parameters", []) if p["in"] == "header"}
    said = {name for one in operations for answer in one["responses"].values() for name in answer.get("headers", {})}
    of_machines = {"accept", "x-signature"}
    assert read - of_machines <= {name.lower() for name in ALLOWED_HEADERS}
    assert said <= set(EXPOSED_HEADERS)


# --- the documentation


def test_policy_of_the_documentation_names_no_other_host() -> None:
    assert not re.search(r"https?:|\*|unsafe", POLICY)


async def test_documentation_is_served_from_here(client_of: Any, services: Services) -> None:
    client = client_of(app_with(services, docs_enabled=True))
    page = await client.get("/docs/")
    assert page.headers["content-security-policy"] == POLICY
    for address in re.findall(r'(?:href|src)="([^"]+)"', page.text):
        assert address == "data:," or (await client.get(address)).status_code == 200
