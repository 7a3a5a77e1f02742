"""Who may do what in which shop: every endpoint x every scope x own, foreign and missing shop."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Route

from payment_service.access.service import Scope
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from tests.api.conftest import PHONE, KeyMaker, paid, problem_of
from tests.conftest import ClientMaker
from tests.support.books import change_by_hand
from tests.support.database import Picture, empty_tables
from tests.support.replies import GoodProxy

OWN, FOREIGN, MISSING = 121038, 576631, 999_999_001
NO_PAYMENT = UUID(int=0)
RECEIVER = "https://93.184.215.14/webhook"
"""Nothing is called: no worker works here."""


@dataclass(frozen=True)
class Target:
    """What a request is about: a shop, with a payment of it where there is one."""

    shop_id: int
    organization_bin: str
    external_id: str
    id: str
    refund_id: str = str(NO_PAYMENT)
    binding_id: str = str(NO_PAYMENT)
    endpoint_id: str = str(NO_PAYMENT)
    delivery_id: str = str(NO_PAYMENT)


@dataclass(frozen=True)
class Row:
    """One endpoint: the scope that it asks for, a request about a target, and the good answer for an own shop."""

    scope: Scope | None
    path: Callable[[Target], str]
    body: Callable[[Target], dict[str, Any]] | None = None
    own: int = 200
    hides_by: int = 404
    """What a foreign and a missing shop are answered with; lists hide by 200 and nothing in it."""
    headers: dict[str, str] = field(default_factory=dict)


def _money(target: Target) -> dict[str, Any]:
    return {"shop_id": target.shop_id, "amount": 77, "message": "matrix"}


ROWS: dict[tuple[str, str], Row] = {
    ("POST", "/payments/kaspi/create"): Row(
        Scope.PAYMENTS_WRITE, lambda t: "/payments/kaspi/create", lambda t: {**_money(t), "phone": PHONE}
    ),
    ("POST", "/payments/kaspi/create-link"): Row(Scope.PAYMENTS_WRITE, lambda t: "/payments/kaspi/create-link", _money),
    ("GET", "/payments/kaspi/status/{external_id}"): Row(
        Scope.PAYMENTS_READ, lambda t: f"/payments/kaspi/status/{t.external_id}"
    ),
    ("POST", "/payments/kaspi/refund"): Row(
        Scope.REFUNDS_WRITE,
        lambda t: "/payments/kaspi/refund",
        lambda t: {"shop_id": t.shop_id, "external_id": t.external_id, "amount": 1},
    ),
    ("GET", "/payments"): Row(Scope.PAYMENTS_READ, lambda t: f"/payments?shop_id={t.shop_id}", hides_by=200),
    ("GET", "/payments/sums"): Row(
        Scope.PAYMENTS_READ,
        lambda t: f"/payments/sums?since=2026-01-01&until=2026-12-31&shop_id={t.shop_id}",
        hides_by=200,
    ),
    ("GET", "/payments/{id}"): Row(Scope.PAYMENTS_READ, lambda t: f"/payments/{t.id}"),
    ("GET", "/payments/{id}/status"): Row(Scope.PAYMENTS_READ, lambda t: f"/payments/{t.id}/status"),
    ("GET", "/refunds"): Row(Scope.PAYMENTS_READ, lambda t: f"/refunds?shop_id={t.shop_id}", hides_by=200),
    ("GET", "/me"): Row(None, lambda t: "/me", own=401),  # any key will do
    ("GET", "/admin/keys"): Row(Scope.ADMIN, lambda t: "/admin/keys", hides_by=200),
    ("GET", "/admin/messages"): Row(Scope.ADMIN, lambda t: f"/admin/messages?payment={t.id}"),
    ("GET", "/payments/{id}/qr.{kind}"): Row(
        Scope.PAYMENTS_READ,
        lambda t: f"/payments/{t.id}/qr.svg",
        own=409,  # a payment by phone has no link
    ),
    ("GET", "/api/payment/config"): Row(Scope.CONFIG_READ, lambda t: f"/api/payment/config?shop_id={t.shop_id}"),
    ("GET", "/admin/configs"): Row(Scope.ADMIN, lambda t: "/admin/configs", hides_by=200),
    ("POST", "/admin/configs"): Row(
        Scope.ADMIN,
        lambda t: "/admin/configs",
        lambda t: {"shop_id": t.shop_id, "organization_bin": "891027350515"},
        own=409,
    ),
    ("GET", "/admin/configs/by-bin/{bin}"): Row(Scope.ADMIN, lambda t: f"/admin/configs/by-bin/{t.organization_bin}"),
    ("GET", "/admin/configs/{shop_id}"): Row(Scope.ADMIN, lambda t: f"/admin/configs/{t.shop_id}"),
    ("PUT", "/admin/configs/{shop_id}"): Row(
        Scope.ADMIN, lambda t: f"/admin/configs/{t.shop_id}", lambda t: {"city": "Астана"}
    ),
    ("DELETE", "/admin/configs/{shop_id}"): Row(Scope.ADMIN, lambda t: f"/admin/configs/{t.shop_id}"),
    ("GET", "/admin/configs/{shop_id}/history"): Row(Scope.ADMIN, lambda t: f"/admin/configs/{t.shop_id}/history"),
    ("POST", "/api/payment/log"): Row(
        Scope.REPORTS_WRITE,
        lambda t: "/api/payment/log",
        lambda t: {"shop_id": t.shop_id, "operation_type": "create"},
    ),
    ("PATCH", "/api/payment/status"): Row(
        Scope.REPORTS_WRITE,
        lambda t: "/api/payment/status",
        lambda t: {"shop_id": t.shop_id, "external_id": t.external_id, "status": "Wait"},
    ),
    ("GET", "/admin/tasks"): Row(Scope.ADMIN, lambda t: "/admin/tasks", hides_by=200),
    ("POST", "/admin/payments/{id}/settle"): Row(
        Scope.ADMIN,
        lambda t: f"/admin/payments/{t.id}/settle",
        lambda t: {"state": "failed", "reason": "matrix"},
        own=409,  # it is known already what became of it
    ),
    ("POST", "/admin/refunds/{id}/settle"): Row(
        Scope.ADMIN,
        lambda t: f"/admin/refunds/{t.refund_id}/settle",
        lambda t: {"state": "failed", "reason": "matrix"},
        own=409,
    ),
    ("POST", "/admin/payments/{id}/settle/undo"): Row(
        Scope.ADMIN,
        lambda t: f"/admin/payments/{t.id}/settle/undo",
        lambda t: {"reason": "matrix"},
        own=409,  # nobody settled it by hand
    ),
    ("POST", "/admin/refunds/{id}/settle/undo"): Row(
        Scope.ADMIN, lambda t: f"/admin/refunds/{t.refund_id}/settle/undo", lambda t: {"reason": "matrix"}, own=409
    ),
    ("GET", "/admin/notify"): Row(Scope.ADMIN, lambda t: "/admin/notify", hides_by=200),
    ("POST", "/admin/notify"): Row(
        Scope.ADMIN,
        lambda t: "/admin/notify",
        lambda t: {"shop_id": t.shop_id, "channel": "telegram", "address": "-100200", "events": ["payment.paid"]},
        own=201,
    ),
    ("GET", "/admin/notify/{id}"): Row(Scope.ADMIN, lambda t: f"/admin/notify/{t.binding_id}"),
    ("PUT", "/admin/notify/{id}"): Row(
        Scope.ADMIN, lambda t: f"/admin/notify/{t.binding_id}", lambda t: {"language": "kk"}
    ),
    ("DELETE", "/admin/notify/{id}"): Row(Scope.ADMIN, lambda t: f"/admin/notify/{t.binding_id}"),
    ("POST", "/admin/notify/{id}/test"): Row(
        Scope.ADMIN,
        lambda t: f"/admin/notify/{t.binding_id}/test",
        own=502,  # no channel is set up here
    ),
    ("GET", "/admin/webhooks"): Row(Scope.ADMIN, lambda t: "/admin/webhooks", hides_by=200),
    ("POST", "/admin/webhooks"): Row(
        Scope.ADMIN, lambda t: "/admin/webhooks", lambda t: {"url": RECEIVER, "shops": [t.shop_id]}, own=201
    ),
    ("GET", "/admin/webhooks/{id}"): Row(Scope.ADMIN, lambda t: f"/admin/webhooks/{t.endpoint_id}"),
    ("PUT", "/admin/webhooks/{id}"): Row(
        Scope.ADMIN, lambda t: f"/admin/webhooks/{t.endpoint_id}", lambda t: {"description": "matrix"}
    ),
    ("DELETE", "/admin/webhooks/{id}"): Row(Scope.ADMIN, lambda t: f"/admin/webhooks/{t.endpoint_id}"),
    ("POST", "/admin/webhooks/{id}/rotate-secret"): Row(
        Scope.ADMIN, lambda t: f"/admin/webhooks/{t.endpoint_id}/rotate-secret", lambda t: {"keep_old_s": 60}
    ),
    ("POST", "/admin/webhooks/{id}/test"): Row(Scope.ADMIN, lambda t: f"/admin/webhooks/{t.endpoint_id}/test", own=202),
    ("POST", "/admin/webhooks/{id}/replay"): Row(
        Scope.ADMIN,
        lambda t: f"/admin/webhooks/{t.endpoint_id}/replay",
        lambda t: {"failed_since": "2025-10-22T10:00:00Z"},
        own=202,
    ),
    ("GET", "/admin/deliveries"): Row(
        Scope.ADMIN, lambda t: f"/admin/deliveries?endpoint_id={t.endpoint_id}", hides_by=200
    ),
    ("GET", "/admin/deliveries/{id}"): Row(Scope.ADMIN, lambda t: f"/admin/deliveries/{t.delivery_id}"),
    ("POST", "/admin/deliveries/{id}/replay"): Row(
        Scope.ADMIN, lambda t: f"/admin/deliveries/{t.delivery_id}/replay", own=202
    ),
    ("GET", "/admin/logs"): Row(Scope.ADMIN, lambda t: f"/admin/logs?shop_id={t.shop_id}", hides_by=200),
    ("POST", "/webhooks/kaspi"): Row(
        None,
        lambda t: "/webhooks/kaspi",
        lambda t: {"payment_id": t.external_id, "timestamp": 0},
        own=404,  # nobody has a secret to sign with
    ),
    ("POST", "/webhooks/provider/{name}"): Row(
        None,
        lambda t: "/webhooks/provider/kaspi",
        lambda t: {"payment_id": t.external_id, "timestamp": 0},
        own=404,
    ),
    ("GET", "/"): Row(None, lambda t: "/"),
    ("GET", "/health"): Row(None, lambda t: "/health"),
    ("GET", "/api/health"): Row(None, lambda t: "/api/health"),
    ("GET", "/health/ready"): Row(None, lambda t: "/health/ready"),
    ("GET", "/metrics"): Row(None, lambda t: "/metrics"),
}
STREAMS = {("GET", "/payments/events")}
"""These never end, so they are asked over a real connection: tests/e2e/test_streams.py."""
CLOSED = {operation: row for operation, row in ROWS.items() if row.scope}
LISTS = (
    "/payments",
    "/refunds",
    "/api/payment/config",
    "/admin/configs",
    "/admin/notify",
    "/admin/webhooks",
    "/admin/deliveries",
    "/admin/logs",
)
"""What lists every shop when none is named."""
every_closed = pytest.mark.parametrize("operation", CLOSED, ids=" ".join)


async def ask(client: httpx.AsyncClient, operation: tuple[str, str], target: Target, **more: Any) -> httpx.Response:
    row = ROWS[operation]
    body = row.body(target) if row.body else None
    return await client.request(operation[0], row.path(target), json=body, **more)


_MADE: list[tuple[Picture, dict[int, Target]]] = []
"""The targets and what the tables held of them, once they were made."""


@pytest.fixture
async def targets(
    with_key: KeyMaker,
    shops: dict[int, str],
    proxy: GoodProxy,
    sql: asyncpg.Connection,
    emptied: asyncpg.Connection,
) -> dict[int, Target]:
    """An own and a foreign shop with a paid payment each, and a shop and a payment that nobody has."""
    if _MADE:
        [(picture, found)] = _MADE
        await empty_tables(emptied)
        await picture.put_back(emptied)
        return found
    everybody = await with_key()
    found = {}
    for shop_id in (OWN, FOREIGN):
        payment = await paid(everybody, proxy, shop_id=shop_id, amount=1000)
        body = {"shop_id": shop_id, "external_id": payment["external_id"], "amount": 1}
        refund = (await everybody.post("/payments/kaspi/refund", json=body)).json()
        chat = {"shop_id": shop_id, "channel": "telegram", "address": "-100100", "events": ["payment.paid"]}
        binding = (await everybody.post("/admin/notify", json=chat)).json()
        endpoint = (await everybody.post("/admin/webhooks", json={"url": RECEIVER, "shops": [shop_id]})).json()
        delivery = (await everybody.post(f"/admin/webhooks/{endpoint['id']}/test")).json()
        found[shop_id] = Target(
            shop_id,
            shops[shop_id],
            payment["external_id"],
            payment["id"],
            refund["refund_id"],
            binding["id"],
            endpoint["id"],
            delivery["id"],
        )
    found[MISSING] = Target(MISSING, "600000000016", "11111111111", str(NO_PAYMENT))
    _MADE.append((await Picture.take(sql), found))
    return found


@pytest.fixture
def nowhere() -> Target:
    return Target(OWN, "920317450731", "11111111111", str(NO_PAYMENT))


def test_every_endpoint_has_its_row(app: FastAPI) -> None:
    declared = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    assert declared == set(ROWS) | STREAMS


def test_no_endpoint_hides_from_the_document(app: FastAPI) -> None:
    served = {(method, route.path) for route in routes_of(app) for method in route.methods or ()}
    shown = {(method, path) for method, path in served if path != "/openapi.json" and not path.startswith("/docs")}
    assert shown == set(ROWS) | STREAMS


def routes_of(app: FastAPI) -> Iterator[Route]:
    """Every route of the app; a kind of route that nobody here knows fails."""
    waiting: list[Any] = [*app.routes]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Route):
            yield one
        else:
            waiting += one.original_router.routes  # an included router


@every_closed
async def test_own_shop_is_served_with_the_right_scope(
    operation: tuple[str, str], targets: dict[int, Target], with_key: KeyMaker
) -> None:
    row = ROWS[operation]
    client = await with_key(str(row.scope), shops=[OWN])
    answer = await ask(client, operation, targets[OWN])
    assert answer.status_code == row.own, answer.text


@every_closed
async def test_every_other_scope_together_is_not_enough(
    operation: tuple[str, str], nowhere: Target, with_key: KeyMaker
) -> None:
    client = await with_key(*(scope for scope in Scope if scope != ROWS[operation].scope))
    body = problem_of(await ask(client, operation, nowhere), 403, "scope_missing")
    assert body["scope"] == ROWS[operation].scope


@pytest.mark.thorough
@every_closed
async def test_a_single_scope_opens_its_own_endpoints_and_no_other(
    operation: tuple[str, str], nowhere: Target, with_key: KeyMaker, proxy: GoodProxy
) -> None:
    opens = set()
    for scope in Scope:
        answer = await ask(await with_key(scope), operation, nowhere)
        if answer.status_code != 403 or answer.json()["code"] != "scope_missing":
            opens.add(scope)
    assert opens == {ROWS[operation].scope}


def same_but_for_ids(answer: httpx.Response, target: Target) -> tuple[int, dict[str, str], str]:
    """An answer without what the asker put in and without what differs between any two answers."""
    text = answer.text.replace(answer.headers["x-request-id"], "REQUEST")
    ids = (target.external_id, target.id, target.refund_id, target.binding_id, target.endpoint_id, target.delivery_id)
    for mine in (str(target.shop_id), *ids, target.organization_bin):
        text = text.replace(mine, "MINE")
    volatile = {"x-request-id", "content-length", "etag"}
    return answer.status_code, {k: v for k, v in answer.headers.items() if k not in volatile}, text


@every_closed
async def test_foreign_shop_looks_exactly_like_a_missing_one(
    operation: tuple[str, str], targets: dict[int, Target], with_key: KeyMaker
) -> None:
    client = await with_key(shops=[OWN])
    foreign = await ask(client, operation, targets[FOREIGN])
    missing = await ask(client, operation, targets[MISSING])
    assert same_but_for_ids(foreign, targets[FOREIGN]) == same_but_for_ids(missing, targets[MISSING])
    assert foreign.status_code == ROWS[operation].hides_by
    assert str(targets[FOREIGN].organization_bin) not in foreign.text


async def test_what_a_restricted_key_may_not_see_stays_as_it_was(
    targets: dict[int, Target], with_key: KeyMaker, proxy: GoodProxy, sql: Any
) -> None:
    async def everything() -> list[Any]:
        tables = ["payment", "refund", "payment_log", "payment_config", "payment_config_history", "idempotency_claim"]
        tables += ["notify_chat", "notify_binding", "webhook_endpoint", "event", "event_delivery"]
        return [await sql.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]

    client = await with_key(shops=[OWN])
    before, calls = await everything(), (proxy.money_calls, proxy.status.call_count)
    for operation in CLOSED:
        for target in (FOREIGN, MISSING):
            await ask(client, operation, targets[target], headers={"Idempotency-Key": "key-of-the-matrix"})
    assert await everything() == before
    assert (proxy.money_calls, proxy.status.call_count) == calls


async def test_shop_and_payment_of_different_shops_look_missing(targets: dict[int, Target], with_key: KeyMaker) -> None:
    client = await with_key(shops=[OWN])
    mixed = Target(OWN, "", targets[FOREIGN].external_id, "")
    nobodys = Target(OWN, "", "11111111111", "")
    foreign = await ask(client, ("POST", "/payments/kaspi/refund"), mixed)
    missing = await ask(client, ("POST", "/payments/kaspi/refund"), nobodys)
    problem_of(foreign, 404, "payment_not_found")
    assert same_but_for_ids(foreign, mixed)[2] == same_but_for_ids(missing, nobodys)[2]


@pytest.mark.thorough
@every_closed
async def test_key_of_all_shops_is_served_in_each(
    operation: tuple[str, str], targets: dict[int, Target], with_key: KeyMaker
) -> None:
    row = ROWS[operation]
    client = await with_key(str(row.scope))
    answers = [await ask(client, operation, targets[shop_id]) for shop_id in (OWN, FOREIGN)]
    assert [answer.status_code for answer in answers] == [row.own] * 2


@pytest.mark.thorough
@every_closed
async def test_key_of_no_shop_finds_every_shop_missing(
    operation: tuple[str, str], targets: dict[int, Target], with_key: KeyMaker
) -> None:
    client = await with_key(shops=[])
    own = await ask(client, operation, targets[OWN])
    missing = await ask(client, operation, targets[MISSING])
    assert same_but_for_ids(own, targets[OWN]) == same_but_for_ids(missing, targets[MISSING])


@pytest.mark.parametrize("path", LISTS)
async def test_list_of_everything_is_a_list_of_own_shops(
    path: str, targets: dict[int, Target], with_key: KeyMaker
) -> None:
    def holds(text: str, target: Target) -> bool:
        return any(mine in text for mine in (str(target.shop_id), target.organization_bin, target.external_id))

    everybody, restricted, nobody = await with_key(), await with_key(shops=[OWN]), await with_key(shops=[])
    whole, own, none = [(await client.get(path)).text for client in (everybody, restricted, nobody)]
    assert (holds(whole, targets[OWN]), holds(whole, targets[FOREIGN])) == (True, True)
    assert (holds(own, targets[OWN]), holds(own, targets[FOREIGN])) == (True, False)
    assert (holds(none, targets[OWN]), holds(none, targets[FOREIGN])) == (False, False)


async def test_what_people_must_look_at_is_listed_for_own_shops(
    shops: dict[int, str], with_key: KeyMaker, proxy: GoodProxy
) -> None:
    proxy.create.mock(return_value=httpx.Response(500))
    everybody, restricted, nobody = await with_key(), await with_key(shops=[OWN]), await with_key(shops=[])
    for shop_id in (OWN, FOREIGN):
        await everybody.post("/payments/kaspi/create", json={"shop_id": shop_id, "amount": 77, "phone": PHONE})
    tasks = [(await client.get("/admin/tasks")).json() for client in (everybody, restricted, nobody)]
    assert [{task["shop_id"] for task in some} for some in tasks] == [{OWN, FOREIGN}, {OWN}, set()]


@pytest.mark.thorough
@every_closed
async def test_key_that_ended_opens_nothing(
    operation: tuple[str, str], targets: dict[int, Target], services: Services, make_client: ClientMaker
) -> None:
    expired = await services.access.create(
        "expired", list(Scope), expires_at=datetime.now(UTC) - timedelta(seconds=1), shops=ALL_SHOPS
    )
    revoked = await services.access.create("revoked", list(Scope), shops=ALL_SHOPS)
    await services.access.revoke(revoked.row.id)
    for key in (expired.key, revoked.key, "ps_nonsense"):
        problem_of(await ask(make_client(key), operation, targets[OWN]), 401, "authentication_required")


@every_closed
async def test_without_a_key_every_endpoint_asks_for_one(
    operation: tuple[str, str], nowhere: Target, make_client: ClientMaker
) -> None:
    answer = await ask(make_client(), operation, nowhere)
    problem_of(answer, 401, "authentication_required")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("operation", [op for op, row in ROWS.items() if row.scope is None], ids=" ".join)
async def test_open_endpoints_need_no_key(
    operation: tuple[str, str], nowhere: Target, make_client: ClientMaker
) -> None:
    assert (await ask(make_client(), operation, nowhere)).status_code == ROWS[operation].own


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer KEY"}, 200),
        ({"Authorization": "bearer KEY"}, 200),
        ({"X-API-Key": "KEY"}, 200),
        ({"Authorization": "Bearer KEY", "X-API-Key": "KEY"}, 200),
        ({"Authorization": "Bearer KEY", "X-API-Key": "ps_nonsense"}, 200),
        # A bearer that is given counts: a wrong one is never made good by another header.
        ({"Authorization": "Bearer ps_nonsense", "X-API-Key": "KEY"}, 401),
        # Another scheme (a proxy in front may use Basic) is not ours.
        ({"Authorization": "Basic abc", "X-API-Key": "KEY"}, 200),
        ({"Authorization": "Basic KEY"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer  "}, 401),
        ({"Authorization": "KEY"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": "KEY2"}, 401),
        ({"X-API-Key": "ключ"}, 401),
        ({}, 401),
    ],
    ids=str,
)
async def test_key_travels_in_either_header(
    headers: dict[str, str], status: int, services: Services, make_client: ClientMaker
) -> None:
    key = (await services.access.create("tests", [Scope.ADMIN], shops=ALL_SHOPS)).key
    sent = {name.encode(): value.replace("KEY", key).encode() for name, value in headers.items()}
    assert (await make_client().get("/admin/configs", headers=sent)).status_code == status


async def test_revoked_key_ends_at_once(services: Services, make_client: ClientMaker) -> None:
    made = await services.access.create("tests", [Scope.ADMIN], shops=ALL_SHOPS)
    client = make_client(made.key)
    assert (await client.get("/admin/configs")).status_code == 200
    await services.access.revoke(made.row.id)
    problem_of(await client.get("/admin/configs"), 401, "authentication_required")


async def test_expired_key_is_no_key(services: Services, make_client: ClientMaker, sql: Any) -> None:
    made = await services.access.create("tests", [Scope.ADMIN], shops=ALL_SHOPS)
    ended = "UPDATE api_key SET expires_at = now() - interval '1 second'"
    await change_by_hand(sql, f"api_key:{made.row.id}", ended)
    problem_of(await make_client(made.key).get("/admin/configs"), 401, "authentication_required")


async def test_unknown_and_revoked_keys_get_the_same_answer(services: Services, make_client: ClientMaker) -> None:
    made = await services.access.create("tests", [Scope.ADMIN], shops=ALL_SHOPS)
    await services.access.revoke(made.row.id)
    answers = [(await make_client(key).get("/admin/configs")).json() for key in (made.key, "ps_nonsense", None)]
    for answer in answers:
        del answer["request_id"]
    assert len({json.dumps(answer) for answer in answers}) == 1
