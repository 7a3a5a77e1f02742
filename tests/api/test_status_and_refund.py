"""Asking where a payment stands, and paying back."""

from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import Scope
from tests.api.conftest import SHOP, KeyMaker, create_body, created, paid, problem_of
from tests.support.replies import GoodProxy, empty_reply, failure
from tests.support.shops import device_token_of

OTHER_SHOP = 576631
REFUND = "/payments/kaspi/refund"
STRANGER = "12737065473"


async def status(client: httpx.AsyncClient, external_id: str) -> httpx.Response:
    return await client.get(f"/payments/kaspi/status/{external_id}")


async def refund(client: httpx.AsyncClient, payment: dict[str, Any], **how_much: Any) -> httpx.Response:
    """Pay back what is said, or all that is left."""
    body = {"shop_id": SHOP, "external_id": payment["external_id"], **(how_much or {"full": True})}
    return await client.post(REFUND, json=body)


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy) -> None:
    """Seven shops and a good proxy."""


# --- status


async def test_pending_payment_is_asked_about(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = "RemotePaymentCreated"
    body = (await status(client, payment["external_id"])).json()
    assert (body["state"], body["status"], body["success"]) == ("pending", "RemotePaymentCreated", True)
    assert body["id"] == payment["id"]
    assert proxy.status.call_count == 1


async def test_paid_payment_is_not_asked_about_again(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    body = (await status(client, payment["external_id"])).json()
    assert (body["state"], body["status"]) == ("paid", "Processed")
    assert proxy.status.call_count == 1


@pytest.mark.parametrize(
    "reply",
    [httpx.Response(500), httpx.Response(403), failure(-999), failure(-1601), httpx.Response(200, text="<html>")],
    ids=["500", "403", "-999", "no such payment", "html"],
)
async def test_provider_that_cannot_say_leaves_the_last_known_answer(
    reply: httpx.Response, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    proxy.status.mock(side_effect=None, return_value=reply)
    answer = await status(client, payment["external_id"])
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["status"]) == ("pending", "Wait")


async def test_provider_that_is_away_leaves_the_last_known_answer(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await created(client)
    proxy.status.mock(side_effect=httpx.ConnectError("away"))
    assert (await status(client, payment["external_id"])).json()["state"] == "pending"


async def test_error_is_believed_only_at_a_second_reading(
    client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = "Error"
    for _ in range(2):  # a second look a moment later is no second reading
        body = (await status(client, payment["external_id"])).json()
        assert (body["state"], body["status"]) == ("pending", "Error")
    await sql.execute("UPDATE payment SET error_seen_at = error_seen_at - interval '31 seconds'")
    body = (await status(client, payment["external_id"])).json()
    assert (body["state"], body["success"]) == ("failed", False)


async def test_error_that_was_wrong_ends_paid(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = "Error"
    await status(client, payment["external_id"])
    proxy.statuses[payment["external_id"]] = "Processed"
    assert (await status(client, payment["external_id"])).json()["state"] == "paid"


async def test_status_nobody_knows_stays_pending(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = "SomethingNew"
    body = (await status(client, payment["external_id"])).json()
    assert (body["state"], body["status"]) == ("pending", "SomethingNew")


@pytest.mark.parametrize(
    ("word", "state", "success"),
    [
        ("Processed", "paid", True),
        ("Wait", "pending", True),
        ("Error", "failed", False),
        ("RemotePaymentCanceled", "cancelled", False),
        ("SomethingNew", "pending", True),
    ],
)
async def test_stranger_is_asked_about_and_audited_without_shop(
    word: str, state: str, success: bool, client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    proxy.statuses[STRANGER] = word
    body = (await status(client, STRANGER)).json()
    assert (body["external_id"], body["status"], body["state"], body["success"]) == (STRANGER, word, state, success)
    assert (body["id"], body["shop_id"], body["organization_bin"], body["amount"]) == (None, None, None, None)
    [row] = await sql.fetch("SELECT * FROM payment_log WHERE subject IS NULL")
    assert (row["operation_type"], row["external_id"], row["status"]) == ("status", STRANGER, word)
    assert (row["shop_id"], row["payment_id"], row["source"], row["actor"]) == (None, None, "service", "tests")


@pytest.mark.parametrize(
    ("reply", "status_code", "code"),
    [
        (failure(-1601), 404, "payment_not_found"),
        (failure(-999), 503, "provider_unavailable"),
        (httpx.Response(500), 503, "provider_unavailable"),
        (httpx.Response(403), 502, "provider_refused"),
        (httpx.ConnectError("away"), 503, "provider_unavailable"),
    ],
    ids=["no such payment", "-999", "500", "403", "away"],
)
async def test_stranger_that_cannot_be_asked_about(
    reply: Any, status_code: int, code: str, client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    proxy.status.mock(side_effect=[reply])
    problem_of(await status(client, STRANGER), status_code, code)
    assert (
        await sql.fetchval(
            "SELECT count(*) FROM payment_log WHERE shop_id IS NULL AND subject IS NULL AND error_message <> ''"
        )
        == 1
    )


async def test_stranger_of_a_restricted_key_looks_like_a_foreign_payment(
    client: httpx.AsyncClient, with_key: KeyMaker, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    foreign = (await created(client, shop_id=OTHER_SHOP))["external_id"]
    restricted = await with_key(Scope.PAYMENTS_READ, shops=[SHOP])
    before = await sql.fetchval("SELECT count(*) FROM payment_log")
    bodies = []
    for external_id in (foreign, STRANGER):
        body = problem_of(await status(restricted, external_id), 404, "payment_not_found")
        bodies.append(str(body | {"request_id": ""}).replace(external_id, "ID"))
    assert bodies[0] == bodies[1]
    assert proxy.status.call_count == 0
    assert await sql.fetchval("SELECT count(*) FROM payment_log") == before


@pytest.mark.parametrize("external_id", ["%00", "a%20b", "x" * 51, "%D0%BA", "1%0A", "a;b"])
async def test_what_is_no_id_is_not_asked_about(external_id: str, client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    problem_of(await status(client, external_id), 422, "validation_failed")
    assert proxy.status.call_count == 0


async def test_payment_made_by_link_is_found_under_its_payment_id(client: httpx.AsyncClient) -> None:
    body = {"shop_id": SHOP, "amount": 5, "message": "link"}
    link = (await client.post("/payments/kaspi/create-link", json=body)).json()
    assert (await status(client, link["payment_id"])).json()["id"] == link["id"]


# --- refund


async def test_refund_goes_by_the_account_of_the_payment(
    client: httpx.AsyncClient, proxy: GoodProxy, shops: dict[int, str]
) -> None:
    payment = await paid(client, proxy)
    change = {"organization_bin": "891027350515", "device_token": "another-token-0001"}
    await client.put(f"/admin/configs/{SHOP}", json=change)
    answer = await refund(client, payment, amount=50)
    assert (answer.status_code, answer.json()["organization_bin"]) == (200, shops[SHOP])
    sent = proxy.refund.calls.last.request.url.params
    assert (sent["organizationBin"], sent["deviceToken"]) == (shops[SHOP], device_token_of(SHOP))
    assert (sent["amount"], sent["externalId"]) == ("50.00", payment["external_id"])


async def test_refund_of_another_shops_payment_looks_missing(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy, shop_id=OTHER_SHOP)
    wrong = problem_of(await refund(client, payment), 404, "payment_not_found")
    missing = problem_of(await refund(client, {"external_id": STRANGER}), 404, "payment_not_found")
    assert wrong["detail"].replace(payment["external_id"], STRANGER) == missing["detail"]
    assert proxy.refund.call_count == 0


async def test_pending_payment_is_asked_about_before_it_is_refunded(
    client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = "Processed"
    assert (await refund(client, payment)).status_code == 200
    assert proxy.status.call_count == 1


@pytest.mark.parametrize(
    ("word", "state"), [("Wait", "pending"), ("Error", "pending"), ("RemotePaymentCanceled", "cancelled")]
)
async def test_payment_that_is_not_paid_is_not_refunded(
    word: str, state: str, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = word
    body = problem_of(await refund(client, payment), 409, "payment_not_paid")
    assert body["state"] == state
    assert proxy.refund.call_count == 0


async def test_refund_beyond_what_is_left_says_what_is_left(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    assert (await refund(client, payment, amount="60.50")).status_code == 200
    body = problem_of(await refund(client, payment, amount="39.51"), 422, "refund_exceeds_remainder")
    assert body["remaining_amount"] == pytest.approx(39.5, abs=0)
    last = (await refund(client, payment, amount="39.50")).json()
    assert (last["total_refunded_amount"], last["remaining_amount"]) == (100, 0)
    body = problem_of(await refund(client, payment, amount="0.01"), 422, "refund_exceeds_remainder")
    assert body["remaining_amount"] == 0
    assert proxy.refund.call_count == 2


async def test_unknown_refund_keeps_its_amount_reserved(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    proxy.refund.mock(side_effect=None, return_value=httpx.Response(500))
    assert (await refund(client, payment, amount=60)).status_code == 202
    body = problem_of(await refund(client, payment, amount=41), 422, "refund_exceeds_remainder")
    assert body["remaining_amount"] == 40


async def test_rejected_refund_frees_its_amount(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    proxy.refund.mock(side_effect=[failure(-99000020), empty_reply()])
    problem_of(await refund(client, payment, amount=60), 422, "refund_rejected")
    assert (await refund(client, payment)).json()["refunded_amount"] == 100


async def test_full_refund_pays_back_all_that_is_left(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    await refund(client, payment, amount=30)
    body = (await refund(client, payment)).json()
    assert (body["refunded_amount"], body["total_refunded_amount"], body["remaining_amount"]) == (70, 100, 0)
    assert proxy.refund.calls.last.request.url.params["amount"] == "70.00"


async def test_equal_refund_within_the_window_is_the_same_refund(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    first, second = await refund(client, payment, amount=10), await refund(client, payment, amount=10)
    assert first.json()["refund_id"] == second.json()["refund_id"]
    assert second.headers["idempotency-replayed"] == "true"
    assert proxy.refund.call_count == 1


async def test_refund_of_a_payment_without_device_token_is_impossible(
    client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    await client.put(f"/admin/configs/{SHOP}", json={"device_token": None})
    payment = await paid(client, proxy)
    problem_of(await refund(client, payment), 400, "device_token_missing")
    # A token that the shop gets later is not the one that the payment was made with.
    await client.put(f"/admin/configs/{SHOP}", json={"device_token": "another-token-0001"})
    told = problem_of(await refund(client, payment), 400, "device_token_missing")["detail"]
    assert "set it" not in told
    assert "Kaspi cabinet" in told
    assert proxy.refund.call_count == 0


async def test_inactive_shop_still_refunds(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    await client.delete(f"/admin/configs/{SHOP}")
    problem_of(await client.post("/payments/kaspi/create", json=create_body(amount=7)), 403, "shop_inactive")
    assert (await refund(client, payment)).status_code == 200


@pytest.mark.parametrize(
    "how_much",
    [
        {"amount": None},
        {"full": False},
        {"full": None},
        {"amount": None, "full": False},
        {"amount": 50, "full": True},
        {},
    ],
    ids=repr,
)
async def test_refund_says_amount_or_full(
    how_much: dict[str, Any], client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy)
    body = {"shop_id": SHOP, "external_id": payment["external_id"], **how_much}
    problem = problem_of(await client.post(REFUND, json=body), 422, "validation_failed")
    assert [one["field"] for one in problem["errors"]] == ["amount"]
    assert problem["detail"] == (
        'amount: send either the amount to pay back, in tenge, or "full": true for all that is left.'
    )
    assert proxy.refund.call_count == 0


@pytest.mark.parametrize("full", ["true", 1, "yes", []], ids=repr)
async def test_only_true_is_a_full_refund(full: Any, client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    problem_of(await refund(client, payment, full=full), 422, "validation_failed")
    assert proxy.refund.call_count == 0


async def test_false_beside_an_amount_changes_nothing(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    answer = await refund(client, payment, amount=50, full=False)
    assert answer.json()["refunded_amount"] == 50
    assert (await refund(client, payment, amount=None, full=True)).json()["remaining_amount"] == 0


@pytest.mark.parametrize("spelling", ["Amount", "sum", "AMOUNT", "amount_tenge"])
async def test_amount_by_another_name_pays_nothing_back(
    spelling: str, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy)
    for how_much in ({spelling: 50}, {spelling: 50, "full": True}):
        problem = problem_of(await refund(client, payment, **how_much), 422, "validation_failed")
        assert spelling in {one["field"] for one in problem["errors"]}
    assert proxy.refund.call_count == 0


@pytest.mark.parametrize("amount", [0, -1, "1.001", True, [], "x"])
async def test_invalid_refund_is_never_sent(amount: Any, client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    problem_of(await refund(client, payment, amount=amount), 422, "validation_failed")
    assert proxy.refund.call_count == 0


async def test_refund_by_a_number_for_an_id(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    """PHP keeps an id of 11 digits as a number."""
    payment = await paid(client, proxy)
    answer = await client.post(REFUND, json={"shop_id": SHOP, "external_id": int(payment["external_id"]), "full": True})
    assert answer.status_code == 200, answer.text


async def test_failed_payment_that_was_paid_after_all_can_be_refunded(
    client: httpx.AsyncClient, wire: respx.MockRouter, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    payment = await created(client)
    proxy.statuses[payment["external_id"]] = "Error"
    await status(client, payment["external_id"])
    await sql.execute("UPDATE payment SET error_seen_at = error_seen_at - interval '31 seconds'")
    assert (await status(client, payment["external_id"])).json()["state"] == "failed"
    proxy.statuses[payment["external_id"]] = "Processed"
    assert (await refund(client, payment)).status_code == 200
