"""What each outcome of a money call is answered with, and how a repeated request is answered."""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import respx
from fastapi import FastAPI

from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.services import Services
from tests.api.conftest import SHOP, create_body, link_body, paid, problem_of
from tests.support.replies import GoodProxy, accepted, empty_reply, failure, link_reply

CREATE, LINK, REFUND = "/payments/kaspi/create", "/payments/kaspi/create-link", "/payments/kaspi/refund"
Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(params=["create", "create-link", "refund"])
def op(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def ask(op: str, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy) -> Ask:
    """Sends the operation's good request; for a refund there is a paid payment of 100 tenge first."""
    body = {"create": create_body, "create-link": link_body}.get(op, dict)()
    if op == "refund":
        body = {"shop_id": SHOP, "external_id": (await paid(client, proxy))["external_id"], "amount": 40}

    async def send(key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return await client.post(f"/payments/kaspi/{op}", json={**body, **more}, headers=headers)

    return send


@pytest.fixture
def far_end(op: str, wire: respx.MockRouter, proxy: GoodProxy) -> respx.Route:
    """The proxy's address of the operation."""
    return {"create": proxy.create, "create-link": proxy.link, "refund": proxy.refund}[op]


def taken_on(op: str) -> httpx.Response:
    return {"create": accepted(777), "create-link": link_reply(777), "refund": empty_reply()}[op]


async def test_accepted_is_200(op: str, ask: Ask, far_end: respx.Route, shops: dict[int, str]) -> None:
    far_end.mock(side_effect=None, return_value=taken_on(op))
    answer = await ask()
    assert answer.status_code == 200
    body = answer.json()
    assert body["success"] is True
    assert body["organization_bin"] == shops[SHOP]
    assert UUID(body["id"]).version == 7
    assert body["amount"] == 100
    assert "idempotency-replayed" not in answer.headers
    if op == "refund":
        assert (body["refunded_amount"], body["remaining_amount"], body["state"]) == (40, 60, "succeeded")
    else:
        assert (body["external_id"], body["state"], body["refunded_amount"]) == ("777", "pending", 0)
    if op == "create-link":
        assert body["payment_id"] == "777"
        assert body["payment_link"] == "https://pay.kaspi.kz/pay/777"
        assert body["expire_date"] == "2029-12-31T19:00:00Z"


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(500),
        httpx.Response(302, headers={"Location": "http://127.0.0.1:1/elsewhere"}),
        httpx.Response(200, html="<p>Sorry</p>"),
        failure(-999),
        failure(-77000123),
        httpx.Response(200, json={"status": True, "data": []}),
    ],
    ids=["500", "302", "html", "-999", "unknown code", "empty list"],
)
async def test_unknown_is_202_with_our_id_and_a_warning(
    reply: httpx.Response, op: str, ask: Ask, far_end: respx.Route, client: httpx.AsyncClient
) -> None:
    far_end.mock(side_effect=None, return_value=reply)
    answer = await ask()
    assert answer.status_code == 202
    body = answer.json()
    assert (body["success"], body["state"]) == (False, "unknown")
    assert "must not be sent again" in body["detail"]
    assert f"/payments/{body['id']}" in body["detail"]
    assert body["error"] == body["detail"]
    found = (await client.get(f"/payments/{body['id']}")).json()
    assert (found["refunds"][0] if op == "refund" else found)["state"] == "unknown"
    assert far_end.call_count == 1


async def test_unknown_is_answered_again_and_never_sent_again(op: str, ask: Ask, far_end: respx.Route) -> None:
    far_end.mock(side_effect=None, return_value=httpx.Response(500))
    answers = [await ask(), await ask()]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert answers[1].headers["idempotency-replayed"] == "true"
    assert far_end.call_count == 1


async def test_not_sent_is_503_and_may_be_tried_again(op: str, ask: Ask, far_end: respx.Route) -> None:
    far_end.mock(side_effect=httpx.ConnectError("no route"))
    answer = await ask("key-that-tries-again")
    body = problem_of(answer, 503, "not_sent")
    assert answer.headers["retry-after"].isdigit()
    assert (body["success"], body["state"]) == (False, "failed")
    far_end.mock(side_effect=None, return_value=taken_on(op))
    assert (await ask("key-that-tries-again")).status_code == 200


@pytest.mark.parametrize("code", [-1502, -99000002, 990000028])
async def test_rejected_is_422_with_the_words_of_kaspi(code: int, op: str, ask: Ask, far_end: respx.Route) -> None:
    far_end.mock(side_effect=None, return_value=failure(code, "Устройство не активно"))
    body = problem_of(await ask(), 422, "refund_rejected" if op == "refund" else "payment_rejected")
    assert (body["provider_code"], body["provider_message"]) == (str(code), "Устройство не активно")
    assert (body["success"], body["state"]) == (False, "failed")
    assert "Устройство не активно" in body["detail"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Позвоните:\n7701\u200b5211545 \U0001fa77", "Позвоните: … \U0001fa77"),
        ("Позвоните \u202a+7 701\u2060 521-15-45\u202c", "Позвоните +…"),
    ],
)
async def test_words_of_the_provider_are_shown_in_one_line_and_without_a_phone(
    said: str, shown: str, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    proxy.create.mock(side_effect=None, return_value=failure(-1502, said))
    body = problem_of(await client.post(CREATE, json=create_body()), 422, "payment_rejected")
    assert body["provider_message"] == shown


async def test_payment_that_was_taken_has_a_status_word(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    proxy.create.mock(side_effect=None, return_value=accepted(778, status=None))
    made = [
        (await client.post(CREATE, json=create_body())).json(),
        (await client.post(LINK, json=link_body())).json(),
    ]
    assert [(body["state"], body["status"]) for body in made] == [("pending", "Wait")] * 2
    for body in made:
        assert (await client.get(f"/payments/{body['id']}")).json()["status"] == "Wait"
    told = await sql.fetch("SELECT data FROM event WHERE type = 'payment.pending'")
    assert [json.loads(row["data"])["status"] for row in told] == ["Wait"] * 2


@pytest.mark.parametrize("status", [401, 403, 404, 405, 429])
async def test_refused_by_the_proxy_is_502(status: int, op: str, ask: Ask, far_end: respx.Route) -> None:
    far_end.mock(side_effect=None, return_value=httpx.Response(status, text="access_token=test-access-token"))
    body = problem_of(await ask(), 502, "provider_refused")
    assert body["success"] is False
    assert body["detail"].endswith(".")
    assert "token" not in body["detail"]


@pytest.mark.parametrize("key", [None, "key-number-one"])
async def test_repeated_request_gets_the_first_answer(key: str | None, op: str, ask: Ask, far_end: respx.Route) -> None:
    first, second = await ask(key), await ask(key)
    assert first.status_code == second.status_code == 200
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert second.json() == first.json()
    assert far_end.call_count == 1


async def test_repeated_refusal_is_replayed_too(op: str, ask: Ask, far_end: respx.Route) -> None:
    far_end.mock(side_effect=None, return_value=failure(-1502))
    first, second = await ask("key-number-one"), await ask("key-number-one")
    assert first.status_code == second.status_code == 422
    assert second.headers["idempotency-replayed"] == "true"
    assert far_end.call_count == 1


async def test_key_with_another_request_is_refused(op: str, ask: Ask, far_end: respx.Route) -> None:
    await ask("key-number-one")
    problem = problem_of(await ask("key-number-one", amount=41), 422, "idempotency_key_reused")
    assert f"{problem['id']}, which is {problem['state']}: look at that one" in problem["detail"]
    assert far_end.call_count == 1


async def test_one_key_never_stands_for_two_operations(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    headers = {"Idempotency-Key": "key-number-one"}
    assert (await client.post(CREATE, json=create_body(), headers=headers)).status_code == 200
    answer = await client.post(LINK, json=link_body(), headers=headers)
    problem_of(answer, 422, "idempotency_key_reused")
    assert proxy.link.call_count == 0
    payment = await paid(client, proxy)
    body = {"shop_id": payment["shop_id"], "external_id": payment["external_id"], "full": True}
    answer = await client.post(REFUND, json=body, headers=headers)
    assert "different request: use a new key" in problem_of(answer, 422, "idempotency_key_reused")["detail"]


async def test_replay_tells_the_state_of_today(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    headers = {"Idempotency-Key": "key-number-one"}
    first = (await client.post(CREATE, json=create_body(), headers=headers)).json()
    proxy.statuses[first["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{first['external_id']}")
    again = (await client.post(CREATE, json=create_body(), headers=headers)).json()
    assert (again["id"], again["state"], again["status"]) == (first["id"], "paid", "Processed")


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("12345678", True),
        ("x" * 128, True),
        ("!~!~!~!~", True),
        ("1234567", False),
        ("x" * 129, False),
        ("with space", False),
        ("ключключ", False),
        ("", False),
    ],
)
async def test_idempotency_key_has_its_limits(
    key: str, good: bool, client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    answer = await client.post(CREATE, json=create_body(), headers={b"Idempotency-Key": key.encode()})
    assert answer.status_code == (200 if good else 422), answer.text
    assert proxy.money_calls == good
    if not good:
        assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_shop_that_cannot_take_a_payment_says_why(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    problem_of(await client.post(CREATE, json=create_body(shop_id=8)), 404, "shop_not_configured")
    await client.put(f"/admin/configs/{SHOP}", json={"device_token": None})
    problem_of(await client.post(LINK, json=link_body()), 400, "device_token_missing")
    assert (await client.post(CREATE, json=create_body())).status_code == 200
    await client.delete(f"/admin/configs/{SHOP}")
    problem_of(await client.post(CREATE, json=create_body(amount=5)), 403, "shop_inactive")
    assert proxy.money_calls == 1


async def test_one_order_has_one_open_payment(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    first = await client.post(CREATE, json=create_body(order_id="A-1"))
    body = problem_of(await client.post(CREATE, json=create_body(order_id="A-1", amount=5)), 409, "order_already_open")
    assert (body["id"], body["state"]) == (first.json()["id"], "pending")
    proxy.statuses[first.json()["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{first.json()['external_id']}")
    other = {"Idempotency-Key": "another-attempt"}
    again = await client.post(CREATE, json=create_body(order_id="A-1"), headers=other)
    problem_of(again, 409, "order_already_paid")
    assert proxy.money_calls == 1


def property_names(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(property_names, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", ())) | set().union(*map(property_names, schema.values()))


def test_only_create_link_answers_a_payment_id(app: FastAPI) -> None:
    document = app.openapi()
    named = {
        name for name, schema in document["components"]["schemas"].items() if "payment_id" in property_names(schema)
    }
    assert named == {"LinkAnswer", "Hint"}  # a hint is no answer: it is what the proxy's owner sends
    assert "payment_id" not in property_names(document["paths"])
    users = [
        (method, path)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "LinkAnswer" in str(operation)
    ]
    assert users == [("post", "/payments/kaspi/create-link")]


async def test_provider_away_before_a_refund_is_asked_about_later(
    client: httpx.AsyncClient, shops: dict[int, str], proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy)
    refund = {"shop_id": SHOP, "external_id": payment["external_id"], "full": True}
    assert (await client.post(REFUND, json=refund)).json()["remaining_amount"] == 0


async def test_database_that_does_not_answer_before_anything_was_sent_is_503(
    op: str, ask: Ask, far_end: respx.Route, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_words: object) -> str:
        raise TimeoutError  # what asyncpg says of a statement that takes too long

    monkeypatch.setattr(Fingerprints, "of", silent)
    before = far_end.call_count
    answer = await ask()
    problem_of(answer, 503, "database_unavailable")
    assert far_end.call_count == before
