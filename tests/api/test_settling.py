"""Tasks for people and settling by hand over HTTP. Every answer here is held against the OpenAPI document."""

from typing import Any

import asyncpg
import httpx
import pytest

from payment_service.access.service import Scope
from payment_service.settings import Settings
from tests.api.conftest import PHONE, SHOP, KeyMaker, create_body, paid, problem_of
from tests.support.replies import GoodProxy, failure, status_reply
from tests.support.shops import SHOPS

FOUND = "12737065473"
REASON = "Seen in the merchant cabinet, 12:40, by Aigul"
OTHER = 576631


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A call has no effect any more as soon as its outcome is known."""
    return settings.model_copy(update={"late_effect_s": 0})


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy) -> None:
    """Seven shops and a good proxy."""


async def unknown(client: httpx.AsyncClient, proxy: GoodProxy, **more: Any) -> str:
    """Our id of a payment that nobody knows the end of."""
    proxy.create.side_effect = None
    proxy.create.return_value = httpx.Response(500)
    headers = {"Idempotency-Key": more.pop("key")} if "key" in more else {}
    answer = await client.post("/payments/kaspi/create", json=create_body(**more), headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def unknown_refund(client: httpx.AsyncClient, proxy: GoodProxy, **more: Any) -> tuple[dict[str, Any], str]:
    """A paid payment, and our id of its refund of 60 tenge that nobody knows the end of."""
    payment = await paid(client, proxy)
    proxy.refund.return_value = httpx.Response(500)
    answer = await refund(client, payment, **more)
    assert answer.status_code == 202, answer.text
    [made] = (await client.get(f"/payments/{payment['id']}")).json()["refunds"]
    return payment, made["id"]


async def refund(client: httpx.AsyncClient, payment: dict[str, Any], key: str = "key-of-refund") -> httpx.Response:
    body = {"shop_id": SHOP, "external_id": payment["external_id"], "amount": 60}
    return await client.post("/payments/kaspi/refund", json=body, headers={"Idempotency-Key": key})


async def settle(client: httpx.AsyncClient, what: str, id_: str, state: str, **more: Any) -> httpx.Response:
    return await client.post(f"/admin/{what}/{id_}/settle", json={"state": state, "reason": REASON, **more})


# --- tasks


async def test_task_tells_what_is_needed_to_find_the_payment(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment_id = await unknown(client, proxy, order_id="order-1", amount="99.50")
    [task] = (await client.get("/admin/tasks")).json()
    sent = proxy.create.calls.last.request.url.params["message"]
    assert sent.endswith(f"#{task['short_code']}")
    assert (task["kind"], task["payment"], task["refund_id"]) == ("unknown_payment", payment_id, None)
    assert (task["shop_id"], task["organization_bin"], task["phone"]) == (SHOP, SHOPS[SHOP], f"•••{PHONE[-4:]}")
    assert (task["amount"], task["order_id"], task["external_id"], task["why"]) == (99.5, "order-1", None, "http_500")
    assert task["todo"].endswith(".")


async def test_tasks_of_every_kind_are_listed_oldest_first(
    client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    _payment, refund_id = await unknown_refund(client, proxy)
    await unknown(client, proxy, message="another")
    report = {"shop_id": SHOP, "operation_type": "create", "external_id": FOUND}
    await client.post("/api/payment/log", json=report)
    link = await client.post("/payments/kaspi/create-link", json={"shop_id": SHOP, "amount": 1})
    await sql.execute("UPDATE payment SET next_check_at = NULL WHERE id = $1::uuid", link.json()["id"])
    tasks = (await client.get("/admin/tasks")).json()
    assert [task["kind"] for task in tasks] == ["unknown_refund", "unknown_payment", "unread_payment", "open_payment"]
    assert (tasks[0]["refund_id"], tasks[0]["amount"]) == (refund_id, 60)
    assert (tasks[2]["external_id"], tasks[2]["amount"]) == (FOUND, None)


async def test_key_of_some_shops_sees_and_settles_only_theirs(
    client: httpx.AsyncClient, proxy: GoodProxy, with_key: KeyMaker
) -> None:
    _payment, refund_id = await unknown_refund(client, proxy)
    payment_id = await unknown(client, proxy, message="another")
    own, foreign = await with_key(shops=[SHOP], name="own"), await with_key(shops=[OTHER], name="foreign")
    assert (await foreign.get("/admin/tasks")).json() == []
    problem_of(await settle(foreign, "payments", payment_id, "failed"), 404, "payment_not_found")
    problem_of(await settle(foreign, "refunds", refund_id, "failed"), 404, "refund_not_found")
    assert len((await own.get("/admin/tasks")).json()) == 2
    assert (await settle(own, "payments", payment_id, "failed")).status_code == 200
    assert (await settle(own, "refunds", refund_id, "failed")).status_code == 200


async def test_key_of_some_shops_is_not_told_whose_the_id_is(
    client: httpx.AsyncClient, proxy: GoodProxy, with_key: KeyMaker
) -> None:
    theirs = await paid(client, proxy, shop_id=OTHER)
    payment_id = await unknown(client, proxy)
    own = await with_key(Scope.ADMIN, shops=[SHOP])
    told_of = [
        problem_of(await settle(own, "payments", payment_id, "paid", external_id=named), 403, "external_id_not_proven")
        for named in (theirs["external_id"], FOUND)
    ]
    assert len({problem["detail"] for problem in told_of}) == 1
    told = await settle(client, "payments", payment_id, "paid", external_id=theirs["external_id"])
    assert problem_of(told, 409, "external_id_taken")["id"] == theirs["id"]


async def test_settling_needs_the_admin_scope(client: httpx.AsyncClient, proxy: GoodProxy, with_key: KeyMaker) -> None:
    payment_id = await unknown(client, proxy)
    other = await with_key(*(scope for scope in Scope if scope is not Scope.ADMIN))
    problem_of(await settle(other, "payments", payment_id, "failed"), 403, "scope_missing")
    problem_of(await other.get("/admin/tasks"), 403, "scope_missing")


# --- payments


async def test_payment_that_was_found_paid_is_paid(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment_id = await unknown(client, proxy)
    proxy.statuses[FOUND] = "Processed"
    answer = await settle(client, "payments", payment_id, "paid", external_id=int(FOUND))
    assert answer.status_code == 200, answer.text
    line = answer.json()
    assert (line["id"], line["state"], line["external_id"], line["success"]) == (payment_id, "paid", FOUND, True)
    history = (await client.get(f"/payments/{payment_id}")).json()["history"]
    assert [(entry["operation_type"], entry["state"], entry["reason"]) for entry in history] == [
        ("create", "unknown", None),
        ("settle", "paid", REASON),
    ]
    assert (await client.get("/admin/logs?operation_type=settle")).json()[0]["reason"] == REASON
    assert (await client.get("/admin/tasks")).json() == []


async def test_request_of_a_payment_that_was_never_made_wants_a_new_key(
    client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment_id = await unknown(client, proxy, key="key-of-payment")
    assert (await settle(client, "payments", payment_id, "failed")).json()["failure"] == "settled"
    body, headers = create_body(), {"Idempotency-Key": "key-of-payment"}
    answer = await client.post("/payments/kaspi/create", json=body, headers=headers)
    problem = problem_of(answer, 409, "settled_as_failed")
    assert problem["detail"].endswith("Idempotency-Key.")
    assert (problem["id"], problem["state"], answer.headers["idempotency-replayed"]) == (payment_id, "failed", "true")
    assert proxy.create.call_count == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"state": "paid"}, 422, "validation_failed"),
        ({"state": "pending"}, 422, "validation_failed"),
        ({"state": "failed", "external_id": FOUND}, 422, "validation_failed"),
        ({"state": "unknown"}, 422, "validation_failed"),
        ({"state": "cancelled"}, 422, "validation_failed"),
        ({"state": "failed", "reason": "  a "}, 422, "validation_failed"),
        ({"state": "failed", "reason": "     "}, 422, "validation_failed"),
        ({"state": "failed", "reason": "x" * 501}, 422, "validation_failed"),
        ({"state": "failed", "reason": "line\nline"}, 422, "validation_failed"),
        ({"state": "failed", "reason": None}, 422, "validation_failed"),
        ({"state": "paid", "external_id": "1 2"}, 422, "validation_failed"),
        ({"state": "paid", "external_id": FOUND}, 409, "settlement_contradicted"),
    ],
    ids=str,
)
async def test_settlement_that_cannot_be_is_refused(
    client: httpx.AsyncClient, proxy: GoodProxy, body: dict[str, Any], status: int, code: str
) -> None:
    payment_id = await unknown(client, proxy)
    problem_of(await client.post(f"/admin/payments/{payment_id}/settle", json={"reason": REASON, **body}), status, code)
    assert (await client.get(f"/payments/{payment_id}")).json()["state"] == "unknown"


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (httpx.Response(500), 503, "provider_unavailable"),
        (httpx.Response(403), 502, "provider_refused"),
        (failure(-99000001), 409, "settlement_contradicted"),
        (status_reply("999", "Processed"), 503, "provider_unavailable"),
    ],
)
async def test_settlement_is_refused_unless_the_provider_confirms_it(
    client: httpx.AsyncClient, proxy: GoodProxy, reply: httpx.Response, status: int, code: str
) -> None:
    payment_id = await unknown(client, proxy)
    proxy.status.side_effect = None
    proxy.status.return_value = reply
    answer = await settle(client, "payments", payment_id, "paid", external_id=FOUND)
    problem_of(answer, status, code)
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_what_is_settled_is_not_settled_again(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment_id = await unknown(client, proxy)
    assert (await settle(client, "payments", payment_id, "failed")).status_code == 200
    assert (
        problem_of(await settle(client, "payments", payment_id, "failed"), 409, "nothing_to_settle")["state"]
        == "failed"
    )


# --- undoing


async def test_wrong_settlement_is_undone_by_another_admin(
    client: httpx.AsyncClient, proxy: GoodProxy, with_key: KeyMaker
) -> None:
    payment_id = await unknown(client, proxy)
    proxy.statuses[FOUND] = "Processed"
    await settle(client, "payments", payment_id, "paid", external_id=FOUND)
    why = {"reason": "That was another bouquet"}
    problem_of(await client.post(f"/admin/payments/{payment_id}/settle/undo", json=why), 403, "settled_by_caller")
    other = await with_key(Scope.ADMIN, Scope.PAYMENTS_READ, name="other")
    line = (await other.post(f"/admin/payments/{payment_id}/settle/undo", json=why)).json()
    assert (line["state"], line["external_id"], line["status"], line["success"]) == ("unknown", None, None, False)
    history = (await other.get(f"/payments/{payment_id}")).json()["history"]
    assert (history[-1]["operation_type"], history[-1]["actor"], history[-1]["reason"]) == (
        "settle-undo",
        "other",
        why["reason"],
    )
    again = await other.post(f"/admin/payments/{payment_id}/settle/undo", json=why)
    assert problem_of(again, 409, "nothing_to_undo")["state"] == "unknown"


async def test_wrong_settlement_of_a_refund_is_undone_by_another_admin(
    client: httpx.AsyncClient, proxy: GoodProxy, with_key: KeyMaker
) -> None:
    payment, refund_id = await unknown_refund(client, proxy)
    await settle(client, "refunds", refund_id, "failed")
    why = {"reason": "It was made after all"}
    other = await with_key(Scope.ADMIN, name="other")
    assert (await other.post(f"/admin/refunds/{refund_id}/settle/undo", json=why)).json()["state"] == "unknown"
    problem_of(await refund(client, payment, "another-key"), 422, "refund_exceeds_remainder")


# --- refunds


async def test_refund_that_was_made_counts(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment, refund_id = await unknown_refund(client, proxy)
    line = (await settle(client, "refunds", refund_id, "succeeded", provider_refund_id=15)).json()
    assert (line["id"], line["state"], line["provider_refund_id"]) == (refund_id, "succeeded", "15")
    replayed = await refund(client, payment)
    assert (replayed.status_code, replayed.json()["remaining_amount"]) == (200, 40)
    assert proxy.refund.call_count == 1


async def test_refund_that_was_never_made_wants_a_new_key_and_is_free_again(
    client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment, refund_id = await unknown_refund(client, proxy)
    problem_of(await refund(client, payment, "another-key"), 422, "refund_exceeds_remainder")
    assert (await settle(client, "refunds", refund_id, "failed")).status_code == 200
    answer = await refund(client, payment)
    problem_of(answer, 409, "settled_as_failed")
    assert answer.headers["idempotency-replayed"] == "true"
    proxy.refund.return_value = httpx.Response(200, headers={"Content-Length": "0"})
    assert (await refund(client, payment, "another-key")).json()["remaining_amount"] == 40


@pytest.mark.parametrize("what", ["payments", "refunds"])
async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient, what: str) -> None:
    nothing = "00000000-0000-0000-0000-000000000000"
    problem_of(await settle(client, what, nothing, "failed"), 404, f"{what[:-1]}_not_found")
    problem_of(await settle(client, what, "not-an-id", "failed"), 422, "validation_failed")


# --- adopted payments


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"organization_bin": SHOPS[SHOP], "amount": 10_000}, 200, None),
        ({"organization_bin": SHOPS[SHOP]}, 409, "payment_incomplete"),
        ({"organization_bin": SHOPS[SHOP], "amount": 0}, 409, "payment_incomplete"),
        ({"amount": 10_000}, 409, "payment_incomplete"),
        ({"organization_bin": SHOPS[OTHER], "amount": 10_000}, 400, "device_token_missing"),
    ],
    ids=str,
)
async def test_refund_of_a_reported_payment_needs_what_the_client_knows(
    client: httpx.AsyncClient, proxy: GoodProxy, told: dict[str, Any], status: int, code: str | None
) -> None:
    report = {"shop_id": SHOP, "operation_type": "create", "external_id": FOUND, **told}
    await client.post("/api/payment/log", json=report)
    proxy.statuses[FOUND] = "Processed"
    shown = (await client.get(f"/payments/kaspi/status/{FOUND}")).json()
    assert shown["state"] == "paid"
    answer = await refund(client, shown)
    assert answer.status_code == status
    if code:
        problem_of(answer, status, code)
        assert proxy.money_calls == 0


async def test_merged_report_is_shown_beside_the_payment_that_it_is_of(
    client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    report = {"shop_id": SHOP, "operation_type": "create", "external_id": FOUND}
    payment_id = await unknown(client, proxy)
    await client.post("/api/payment/log", json=report)
    proxy.statuses[FOUND] = "Processed"
    await settle(client, "payments", payment_id, "paid", external_id=FOUND)
    reported, ours = (await client.get(f"/payments?external_id={FOUND}")).json()["items"]
    assert (ours["id"], ours["source"], ours["same_as"]) == (payment_id, "service", None)
    assert (reported["source"], reported["same_as"]) == ("client", payment_id)
