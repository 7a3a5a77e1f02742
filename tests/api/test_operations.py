"""What operators see of the front door: CORS, documentation, metrics, health, stopping."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from payment_service.access.service import Scope
from payment_service.api.middleware import Drain
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.programs.serve import create_app
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.api.conftest import PHONE, SHOP, create_body, created, paid, problem_of
from tests.api.truth import Truth
from tests.conftest import ClientMaker
from tests.support.database import Server
from tests.support.replies import GoodProxy, accepted
from tests.support.shops import device_token_of

PAGE = "https://admin.example.kz"


def app_with(services: Services, drain: Drain | None = None, **changes: Any) -> FastAPI:
    return create_app(replace(services, settings=services.settings.model_copy(update=changes)), drain or Drain())


# --- CORS


@pytest.fixture
async def page(services: Services, client_of: Any, drain: Drain) -> httpx.AsyncClient:
    """The admin page's browser, at an origin that the settings name."""
    key = (await services.access.create("page", list(Scope), shops=ALL_SHOPS)).key
    app = app_with(services, drain, cors_origins=[PAGE])
    made: httpx.AsyncClient = client_of(app, Authorization=f"Bearer {key}", Origin=PAGE)
    return made


async def test_page_of_a_named_origin_may_ask_and_read(page: httpx.AsyncClient) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        asks = {
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, x-api-key, x-request-id",
        }
        allowed = await page.options("/admin/configs", headers=asks)
        assert allowed.status_code == 200, allowed.text
        assert allowed.headers["access-control-allow-origin"] == PAGE
    answer = await page.get("/admin/configs")
    assert answer.headers["access-control-allow-origin"] == PAGE
    exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"x-request-id", "idempotency-replayed", "retry-after", "etag", "x-next-cursor"} <= exposed


async def test_page_may_read_every_problem(page: httpx.AsyncClient, drain: Drain) -> None:
    async def readable(answer: httpx.Response, status: int) -> None:
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == PAGE

    await readable(await page.get("/admin/configs/1"), 404)
    await readable(await page.get("/payments?order_id=" + "x" * 5000), 414)
    await readable(await page.post("/admin/configs", content=b" " * 70_000), 413)
    drain.begun = True
    await readable(await page.get("/admin/configs"), 503)


async def test_page_may_read_that_the_database_is_away(settings: Settings, client_of: Any) -> None:
    nowhere = settings.model_copy(
        update={"database_url": SecretStr("postgresql://u@127.0.0.1:1/x"), "cors_origins": [PAGE]}
    )
    services = build(nowhere)
    answer = await client_of(create_app(services, Drain()), Authorization="Bearer x", Origin=PAGE).get("/payments")
    await services.close()
    assert answer.status_code == 503
    assert answer.headers["access-control-allow-origin"] == PAGE


async def test_page_of_another_origin_may_not_read(page: httpx.AsyncClient) -> None:
    answer = await page.get("/admin/configs", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in answer.headers
    asks = {"Access-Control-Request-Method": "GET", "Origin": "https://elsewhere.example"}
    assert "access-control-allow-origin" not in (await page.options("/admin/configs", headers=asks)).headers


async def test_without_origins_there_is_no_cors(client: httpx.AsyncClient) -> None:
    answer = await client.get("/admin/configs", headers={"Origin": PAGE})
    assert not [name for name in answer.headers if name.startswith("access-control")]


# --- documentation


async def test_docs_are_there_when_asked_for(client_of: Any, services: Services) -> None:
    client = client_of(app_with(services, docs_enabled=True))
    assert (await client.get("/docs")).status_code == 200
    assert (await client.get("/openapi.json")).json()["info"]["title"] == "payment-service"


@pytest.mark.parametrize("docs_enabled", [False, None])
async def test_docs_are_off_in_production(docs_enabled: bool | None, client_of: Any, services: Services) -> None:
    client = client_of(app_with(services, docs_enabled=docs_enabled))
    for path in ("/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"):
        problem_of(await client.get(path), 404, "not_found")


# --- metrics


async def test_metrics_are_public_only_when_set(client_of: Any, services: Services) -> None:
    assert (await client_of(app_with(services, metrics_public=True)).get("/metrics")).status_code == 200
    app = app_with(services, metrics_public=False)
    problem_of(await client_of(app, Truth(app.openapi())).get("/metrics"), 404, "not_found")


async def test_metrics_ask_for_their_token(client_of: Any, services: Services) -> None:
    app = app_with(services, metrics_public=False, metrics_token=SecretStr("metrics-token"))
    client = client_of(app, Truth(app.openapi()))
    for sent in ("Bearer wrong", "metrics-token", "Bearer ключ", ""):
        answer = await client.get("/metrics", headers={b"Authorization": sent.encode()})
        assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), sent
    answer = await client.get("/metrics", headers={"Authorization": "Bearer metrics-token"})
    assert answer.status_code == 200


async def test_metrics_count_and_hold_nothing_of_anybody(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy, order_id="order-number-7")
    await client.post(
        "/payments/kaspi/refund", json={"shop_id": SHOP, "external_id": payment["external_id"], "amount": 1}
    )
    await client.get(f"/admin/configs/{SHOP}")
    await client.get("/something/that/is/not/there")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for fact in ('route="/payments/kaspi/create"', 'route="unknown"', 'operation="refund"', 'after="paid"'):
        assert fact in answer.text
    held: tuple[str, ...] = (
        PHONE,
        PHONE[-4:] + '"',
        str(SHOP),
        device_token_of(SHOP),
        shops[SHOP],
        payment["external_id"],
    )
    held += (payment["id"], "order-number-7", "test-access-token", "ps_", "is/not/there")
    assert not [secret for secret in held if secret in answer.text]


# --- logs: the fixture log_text looks for secrets after every test; here is what must be in them


async def test_log_tells_of_a_payment_without_telling_who_pays(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy, log_text: Any
) -> None:
    answer = await client.post(
        "/payments/kaspi/create", json=create_body(message=PHONE), headers={"X-Request-ID": "look-for-me"}
    )
    told = [json.loads(line) for line in log_text().splitlines()]
    mine = {line["event"]: line for line in told if line.get("request_id") == "look-for-me"}
    assert {"provider called", "payment moved", "answered"} <= set(mine)
    assert mine["payment moved"]["payment_id"] == answer.json()["id"]
    assert mine["payment moved"]["shop_id"] == SHOP
    assert (mine["answered"]["route"], mine["answered"]["status"]) == ("/payments/kaspi/create", 200)
    assert PHONE not in log_text()
    assert "127.0.0.1:1" not in log_text()


async def test_log_of_a_broken_wire_holds_no_address(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy, log_text: Any
) -> None:
    for error in (httpx.ReadTimeout, httpx.ConnectError, ValueError):
        proxy.create.mock(side_effect=error("http://127.0.0.1:1/create/?access_token=test-access-token"))
        await client.post("/payments/kaspi/create", json=create_body(message=error.__name__))
    assert "access_token" not in log_text()


# --- health and stopping


async def test_ready_when_all_is_well(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "failing": []})


async def test_not_ready_before_the_schema_is_there(
    server: Server, worker_id: str, settings: Settings, client_of: Any
) -> None:
    url = await server.make(f"api_empty_{worker_id}", empty=True)
    empty = settings.model_copy(update={"database_url": SecretStr(url)})
    services = build(empty)
    answer = await client_of(create_app(services, Drain())).get("/health/ready")
    await services.close()
    assert answer.status_code == 503
    assert "schema is at nothing" in answer.json()["failing"][0]


async def test_not_ready_while_the_schema_is_behind(app: FastAPI, make_client: ClientMaker) -> None:
    app.state.schema_head = "9999"
    answer = await make_client().get("/health/ready")
    assert answer.status_code == 503
    assert "not at 9999" in answer.json()["failing"][0]


async def test_stopping_process_refuses_new_work_and_says_so(
    client: httpx.AsyncClient, drain: Drain, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    await created(client)
    drain.begun = True
    answer = await client.post("/payments/kaspi/create", json=create_body(amount=5))
    problem_of(answer, 503, "draining")
    assert answer.headers["retry-after"].isdigit()
    assert answer.headers["connection"] == "close"
    assert await sql.fetchval("SELECT count(*) FROM payment") == 1
    assert proxy.money_calls == 1
    for path in ("/health", "/api/health", "/metrics"):
        assert (await client.get(path)).status_code == 200
    ready = await client.get("/health/ready")
    assert (ready.status_code, ready.json()["failing"]) == (503, ["draining"])


def scope_of(client: httpx.AsyncClient, app: FastAPI) -> dict[str, Any]:
    """Of a request for a payment whose body is announced."""
    headers = [*client.headers.raw, (b"content-type", b"application/json"), (b"content-length", b"999")]
    scope = {"type": "http", "method": "POST", "path": "/payments/kaspi/create", "query_string": b"", "root_path": ""}
    scope |= {"headers": [(name.lower(), value) for name, value in headers], "http_version": "1.1", "scheme": "http"}
    return {**scope, "app": app}


async def test_client_that_leaves_amid_its_body_is_no_error_of_ours(client: httpx.AsyncClient, app: FastAPI) -> None:
    """Anybody can: ``ErrorOfOurs`` would get somebody out of bed."""
    pieces = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"{", "more_body": True}]
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return pieces.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(client, app), receive, send)
    assert sent[0]["status"] == 400


@pytest.mark.parametrize(("is_whole", "end"), [(False, (503, "draining")), (True, (500, "internal_error"))])
async def test_request_cut_by_the_end_of_its_process_is_answered(
    client: httpx.AsyncClient,
    app: FastAPI,
    drain: Drain,
    shops: dict[int, str],
    wire: Any,
    services: Services,
    is_whole: bool,
    end: tuple[int, str],
) -> None:
    """Without its whole body nothing was begun; with it the caller has to look."""
    hangs, goes_on = asyncio.Event(), asyncio.Event()
    sent: list[dict[str, Any]] = []
    pieces = [{"type": "http.request", "body": json.dumps(create_body()).encode(), "more_body": not is_whole}]

    async def hang() -> None:
        hangs.set()
        await goes_on.wait()

    async def receive() -> Any:
        if not pieces:
            await hang()
        return pieces.pop()

    async def send(message: Any) -> None:
        sent.append(message)

    async def reply(_: httpx.Request) -> httpx.Response:
        await hang()
        return accepted()

    wire.get("/create/").mock(side_effect=reply)
    task = asyncio.create_task(app(scope_of(client, app), receive, send))
    await asyncio.wait_for(hangs.wait(), 5)
    drain.begun = True
    task.cancel()
    await task
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == end
    assert (b"connection", b"close") in sent[0]["headers"]
    goes_on.set()
    assert await services.inflight.drain(5) == 0


async def test_every_answer_forbids_keeping_and_guessing(client: httpx.AsyncClient) -> None:
    for path in ("/payments", "/health", "/nothing"):
        answer = await client.get(path)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
