"""What clients report of their own operations: written down, marked, believed by nobody."""

from typing import Any

import asyncpg
import httpx
import pytest

from payment_service.access.service import Scope
from tests.api.conftest import SHOP, GoodProxy, KeyMaker, created, problem_of

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


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 10.5},
        {"amount": "10000"},
        {"amount": -1},
        {"amount": True},
        {"amount": 10**12},
        {"operation_type": ""},
        {"operation_type": "x" * 21},
        {"operation_type": None},
        {"external_id": True},
        {"external_id": 1.5},
        {"external_id": "x" * 51},
        {"organization_bin": "12345"},
        {"status": "a\x00"},
        {"status": "x" * 51},
        {"provider": "Kaspi!"},
        {"shop_id": None},
    ],
    ids=str,
)
async def test_report_that_makes_no_sense_is_refused(
    change: dict[str, Any], client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    body = problem_of(await client.post(LOG, json={**FULL, **change}), 422, "validation_failed")
    assert [one["field"] for one in body["errors"]] == list(change)
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE subject IS NULL") == 0


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
    refund = {"shop_id": SHOP, "external_id": payment["external_id"]}
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
