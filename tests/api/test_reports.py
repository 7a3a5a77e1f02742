"""What clients report of their own operations: written down, marked, believed by nobody."""

import json
from collections.abc import Callable
from typing import Any

import asyncpg
import httpx
import pytest

from payment_service.access.service import Scope
from tests.api.conftest import SHOP, KeyMaker, created, problem_of
from tests.support.record import tamper
from tests.support.replies import GoodProxy

LOG, STATUS = "/api/payment/log", "/api/payment/status"
FULL = {
    "shop_id": SHOP,
    "organization_bin": "920317450731",
    "operation_type": "create",
    "external_id": "12737065473",
    "amount": 10_000,
    "status": "Wait",
    "error_message": None,
    "provider": "kaspi",
}


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy) -> None:
    """Seven shops and a good proxy."""


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"organization_bin": None},
        {"organization_bin": 920317450731},
        {"external_id": 12737065473},
        {"external_id": None, "amount": None, "status": None},
        {"amount": 0},
        {"shop_id": str(SHOP)},
        {"shop_id": 999},
        {"operation_type": "create-link"},
        {"operation_type": "refund", "status": "Processed"},
        {"status": "Error", "error_message": "Kaspi: -1502"},
        {"error_message": "first line\nsecond\tline\x00"},
        {"error_message": "x" * 3000},
        {"error_message": ""},
        {"provider": "halyk"},
        {"something_new": {"a": 1}},
    ],
    ids=str,
)
async def test_report_answers_its_row(change: dict[str, Any], with_key: KeyMaker, sql: asyncpg.Connection) -> None:
    client = await with_key(Scope.REPORTS_WRITE, name="bitrix")
    answer = await client.post(LOG, json={**FULL, **change})
    assert answer.status_code == 200, answer.text
    line = answer.json()
    [row] = await sql.fetch("SELECT * FROM payment_log WHERE subject IS NULL")
    assert line["id"] == row["id"]
    adopted = await sql.fetchval("SELECT id::text FROM payment")
    assert (line["source"], line["actor"], line["state"], line["payment"]) == ("client", "bitrix", None, adopted)
    expected = {**FULL, **change}
    for name in ("organization_bin", "external_id"):
        assert line[name] == (None if expected[name] is None else str(expected[name]))
    for name in ("operation_type", "amount", "status", "provider"):
        assert line[name] == expected[name]
    assert line["request_id"] == answer.headers["x-request-id"]


async def test_report_before_kaspi_answered_may_miss_fields(client: httpx.AsyncClient) -> None:
    line = (await client.post(LOG, json={"shop_id": SHOP, "operation_type": "create"})).json()
    assert (line["organization_bin"], line["external_id"], line["amount"]) == (None, None, None)


async def test_error_text_is_kept_in_one_line_and_cut(client: httpx.AsyncClient) -> None:
    texts = ["line\nline\ttab\x00end", "я" * 3000]
    kept = [(await client.post(LOG, json={**FULL, "error_message": text})).json()["error_message"] for text in texts]
    assert kept == ["line line tab end", "я" * 500]


async def test_record_holds_no_token_and_no_phone_of_an_address_that_a_client_quotes(
    client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    query = "access_token=of-the-proxy&phone=77015211545&deviceToken=of-the-shop&amount=100"
    text = f"Server error for url 'https://proxy/create/?{query}', customer +77015211545, " + "x" * 500
    line = (await client.post(LOG, json={**FULL, "error_message": text})).json()
    kept = await sql.fetchval("SELECT error_message FROM payment_log WHERE subject IS NULL")
    assert (line["error_message"], "amount=100" in kept) == (kept, True)
    assert not [secret for secret in ("of-the-proxy", "of-the-shop", "7701521") if secret in kept]


@pytest.mark.parametrize(
    "change",
    [
        {"operation_type": ""},
        {"operation_type": " \n"},
        {"operation_type": None},
        {"operation_type": 5},
        {"shop_id": None},
        {"shop_id": "8; DROP"},
    ],
    ids=str,
)
async def test_report_of_nobody_or_of_nothing_is_refused(
    change: dict[str, Any], client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    body = problem_of(await client.post(LOG, json={**FULL, **change}), 422, "validation_failed")
    assert [one["field"] for one in body["errors"]] == list(change)
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE subject IS NULL") == 0


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"amount": 10.5}, None),
        ({"amount": "17500.5"}, None),
        ({"amount": "175 00"}, None),
        ({"amount": -1}, None),
        ({"amount": True}, None),
        ({"amount": [1]}, None),
        ({"amount": 10**12}, None),
        ({"external_id": True}, None),
        ({"external_id": 1.5}, None),
        ({"external_id": 2**53}, None),
        ({"external_id": "x" * 51}, None),
        ({"external_id": "1/2"}, None),
        ({"organization_bin": "12345"}, "12345"),
        ({"organization_bin": "920317450732"}, "920317450732"),
        ({"organization_bin": 60214400107}, "60214400107"),
        ({"organization_bin": "x" * 13}, None),
        ({"organization_bin": {"bin": 1}}, None),
        ({"status": "a\x00b"}, "a b"),
        ({"status": "x" * 51}, "x" * 50),
        ({"status": 5}, "5"),
        ({"status": "\x01"}, None),
        ({"provider": "\u202e"}, "kaspi"),
        ({"operation_type": "Возврат: часть суммы заказа"}, "Возврат: часть суммы"),
        ({"provider": "Kaspi Pay, the new interface"}, "Kaspi Pay, the new i"),
        ({"report_id": "x" * 65}, None),
        ({"report_id": 5}, None),
    ],
    ids=str,
)
async def test_report_is_worth_more_than_its_form(
    change: dict[str, Any], kept: str | None, client: httpx.AsyncClient
) -> None:
    answer = await client.post(LOG, json={**FULL, **change})
    assert answer.status_code == 200, answer.text
    line, [name] = answer.json(), change
    assert line[name] == kept
    [warning] = line.pop("warnings")
    assert warning.startswith(f"{name}: ")
    assert (await client.get("/admin/logs")).json() == [line]


async def test_report_that_is_sent_again_after_its_month_has_left_is_answered(
    client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    first = (await client.post(LOG, json={**FULL, "report_id": "r1"})).json()
    await tamper(sql, "DELETE FROM payment_log WHERE report_id = 'r1'")
    answer = await client.post(LOG, json={**FULL, "report_id": "r1"})
    assert answer.status_code == 200, answer.text
    again = answer.json()
    same = ("id", "created_at", "shop_id", "operation_type", "external_id", "report_id", "actor")
    assert {name: again[name] for name in same} == {name: first[name] for name in same}
    assert "has left the record" in again["reason"]
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE subject IS NULL") == 0


@pytest.mark.parametrize("amount", ["17500", 17500, "017500"])
async def test_whole_amount_is_kept_without_a_word(amount: Any, client: httpx.AsyncClient) -> None:
    line = (await client.post(LOG, json={**FULL, "amount": amount})).json()
    assert (line["amount"], line["warnings"]) == (17500, [])


async def test_report_that_is_nested_deeply_is_kept(client: httpx.AsyncClient) -> None:
    """What can be read may be too deep to be written: a few levels lie between the two limits of Python."""
    kept = 0
    for depth in range(880, 960, 5):
        content = json.dumps({**FULL, "error_message": None}).replace("null", "[" * depth + "]" * depth)
        answer = await client.post(LOG, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in {200, 422}, answer.text
        kept += answer.status_code == 200
    assert kept


async def test_what_is_left_out_of_a_report_is_said_as_it_was_sent(client: httpx.AsyncClient) -> None:
    line = (await client.post(LOG, json={**FULL, "amount": 17500.5})).json()
    assert line["warnings"] == ["amount: 17500.5 was left out: it is a whole number of tiyn from 0 to 9999999999"]


async def test_what_is_not_known_of_a_report_is_told(client: httpx.AsyncClient, log_text: Callable[[], str]) -> None:
    report = {**FULL, "organizationBin": "920317450731", "sum": None}
    answer = await client.post(LOG, params={"shop": 8}, json=report)
    assert answer.json()["warnings"] == [
        "organizationBin: not known here; did you mean organization_bin?",
        "sum: not known here; known: " + ", ".join([*FULL, "report_id"]),
        "shop: not known here; there are none",
    ]
    assert "report kept in part" in log_text()


async def test_status_report_with_an_odd_id_is_kept(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    report = {"shop_id": SHOP, "external_id": 12737065473.5, "status": "x" * 60, "paid": True}
    answer = await client.patch("/api/payment/status", json=report)
    line = answer.json()
    assert (answer.status_code, line["external_id"], line["status"]) == (200, None, "x" * 50)
    assert sorted(warning.partition(":")[0] for warning in line["warnings"]) == ["external_id", "paid", "status"]
    assert proxy.status.call_count == 0


async def test_nothing_said_is_no_mistake(client: httpx.AsyncClient) -> None:
    """As PHP writes what it does not know."""
    said = dict.fromkeys(("organization_bin", "external_id", "amount", "status", "error_message", "report_id"), "")
    line = (await client.post(LOG, json={"shop_id": SHOP, "operation_type": "create", **said})).json()
    assert {line[name] for name in said} == {None}
    assert line["warnings"] == []


@pytest.mark.parametrize("external_id", ["12737065473", 12737065473])
async def test_status_report_needs_no_bin(external_id: Any, client: httpx.AsyncClient) -> None:
    body = {"shop_id": SHOP, "external_id": external_id, "status": "Processed"}
    line = (await client.patch(STATUS, json=body)).json()
    assert (line["operation_type"], line["external_id"], line["status"]) == ("status", "12737065473", "Processed")
    assert (line["source"], line["organization_bin"], line["state"]) == ("client", None, None)


@pytest.mark.parametrize("word", ["Processed", "Error", "RemotePaymentCanceled"])
async def test_no_report_ever_moves_a_payment(word: str, client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await created(client)
    for method, path, more in (("PATCH", STATUS, {}), ("POST", LOG, {"operation_type": "status", "amount": 10_000})):
        body = {"shop_id": SHOP, "external_id": payment["external_id"], "status": word, **more}
        assert (await client.request(method, path, json=body)).status_code == 200
    shown = (await client.get(f"/payments/{payment['id']}")).json()
    assert (shown["state"], shown["status"], shown["failure"]) == ("pending", "Wait", None)
    assert [(line["source"], line["state"]) for line in shown["history"]] == [
        ("service", "pending"),
        ("client", None),
        ("client", None),
    ]
    refund = {"shop_id": SHOP, "external_id": payment["external_id"], "full": True}
    problem_of(await client.post("/payments/kaspi/refund", json=refund), 409, "payment_not_paid")


async def test_status_report_makes_the_worker_look_at_once(client: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    payment = await created(client)
    body = {"shop_id": SHOP, "external_id": payment["external_id"], "status": "Processed"}
    await client.patch(STATUS, json=body)
    assert await sql.fetchval("SELECT next_check_at <= now() FROM payment")


async def test_report_of_another_shop_about_this_payment_does_nothing_to_it(
    client: httpx.AsyncClient, with_key: KeyMaker, sql: asyncpg.Connection
) -> None:
    payment = await created(client)
    other = await with_key(Scope.REPORTS_WRITE, shops=[576631])
    body = {"shop_id": 576631, "external_id": payment["external_id"], "status": "Processed"}
    assert (await other.patch(STATUS, json=body)).status_code == 200
    assert await sql.fetchval("SELECT next_check_at > now() FROM payment")
    shown = (await client.get(f"/payments/{payment['id']}")).json()
    assert [line["source"] for line in shown["history"]] == ["service"]
