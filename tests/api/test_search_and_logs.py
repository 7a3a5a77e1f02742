"""Finding payments and reading the record, however many there are."""

import base64
import codecs
import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from payment_service.access.service import Scope
from payment_service.services import Services
from tests.api.conftest import PHONE, SHOP, KeyMaker, create_body, created, paid, problem_of
from tests.support.replies import GoodProxy, failure
from tests.support.statements import asked

OTHER_SHOP = 576631
LOGS = "/admin/logs"


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy) -> None:
    """Seven shops and a good proxy."""


async def found(client: httpx.AsyncClient, **params: Any) -> list[str]:
    answer = await client.get("/payments", params=params)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


# --- payments


async def test_every_filter_finds_its_payments(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    first = await created(client, order_id="A-1", message="one")
    second = await created(client, shop_id=OTHER_SHOP, phone="77770000042", message="two")
    third = await paid(client, proxy, message="three")
    everything = [third["id"], second["id"], first["id"]]
    assert await found(client) == everything
    assert await found(client, shop_id=OTHER_SHOP) == [second["id"]]
    assert await found(client, order_id="A-1") == [first["id"]]
    assert await found(client, external_id=second["external_id"]) == [second["id"]]
    assert await found(client, state="paid") == [third["id"]]
    assert await found(client, phone_last4="0042") == [second["id"]]
    assert await found(client, short_code=first["short_code"].lower()) == [first["id"]]
    assert await found(client, shop_id=SHOP, state="pending") == [first["id"]]
    assert await found(client, since=second["created_at"]) == everything[:2]
    assert await found(client, until=second["created_at"]) == everything[2:]
    assert await found(client, order_id="nothing") == []


async def test_restricted_key_finds_only_its_shops(client: httpx.AsyncClient, with_key: KeyMaker) -> None:
    mine = await created(client)
    theirs = await created(client, shop_id=OTHER_SHOP)
    restricted = await with_key(Scope.PAYMENTS_READ, shops=[SHOP])
    assert await found(restricted) == [mine["id"]]
    assert await found(restricted, external_id=theirs["external_id"]) == []


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": 501},
        {"state": "lost"},
        {"phone_last4": "12345"},
        {"phone_last4": "\uff11\uff12\uff13\uff14"},
        {"since": "2025-01-01T00:00:00"},
        {"since": "yesterday"},
        {"shop_id": "x"},
        {"external_id": "a b"},
        {"order_id": "\x00"},
        {"cursor": "nonsense"},
        {"cursor": "é"},
    ],
    ids=str,
)
async def test_odd_filters_are_refused(params: dict[str, Any], client: httpx.AsyncClient) -> None:
    body = problem_of(await client.get("/payments", params=params), 422, "validation_failed")
    assert [one["field"] for one in body["errors"]] == list(params)


def cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize("path", ["/payments", LOGS])
@pytest.mark.parametrize(
    "text",
    [
        "2025-01-01T00:00:00+00:00|99999999999999999999999",
        "2025-01-01T00:00:00+00:00|-99999999999999999999999",
        "0001-01-01T00:00:00+14:00|1",
        "9999-12-31T23:59:59-14:00|1",
        "2025-01-01T00:00:00|1",
        "2025-01-01T00:00:00+00:00|",
        "|",
        "\x00",
    ],
)
async def test_cursor_that_nobody_gave_out_is_refused(text: str, path: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(path, params={"cursor": cursor_of(text)})
    assert problem_of(answer, 422, "validation_failed")["errors"][0]["field"] == "cursor"


@pytest.mark.parametrize("path", ["/payments", LOGS])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T00:00:00Z"])
async def test_moments_at_the_ends_of_time_are_no_error_of_ours(
    moment: str, path: str, client: httpx.AsyncClient
) -> None:
    for name in ("since", "until"):
        assert (await client.get(path, params={name: moment})).status_code in {200, 422}


async def copies(sql: asyncpg.Connection, count: int, **columns: str) -> None:
    """Copy the newest payment ``count`` times, with other columns as SQL over ``n``."""
    names = [
        row["column_name"]
        for row in await sql.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'payment'")
    ]
    values = (
        {name: f'"{name}"' for name in names} | {"id": "gen_random_uuid()", "external_id": "(n + 10)::text"} | columns
    )
    await sql.execute(
        "BEGIN; SET LOCAL session_replication_role = replica;"
        f"INSERT INTO payment ({', '.join(f'{chr(34)}{name}{chr(34)}' for name in values)}) "
        f"SELECT {', '.join(values.values())} FROM (SELECT * FROM payment ORDER BY id DESC LIMIT 1) AS one, "
        f"generate_series(1, {count}) AS n; COMMIT"
    )


async def test_walk_shows_every_payment_once_while_new_ones_come_in(
    client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    await created(client)
    # Many share their moment, so that a page ends in the middle of one.
    await copies(sql, 119, created_at="created_at - (n / 9) * interval '1 second'")
    there = {row["id"] for row in await sql.fetch("SELECT id::text FROM payment")}
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 17}
    for n in range(100):
        page = (await client.get("/payments", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        await created(client, message=f"meanwhile {n}")
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 120
    assert set(seen) == there


async def test_last_full_page_has_no_cursor(client: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    await created(client)
    await copies(sql, 9)
    assert (await client.get("/payments", params={"limit": 10})).json()["next_cursor"] is None
    assert (await client.get("/payments", params={"limit": 9})).json()["next_cursor"] is not None


async def test_one_payment_shows_its_refunds_and_its_history(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy, order_id="A-1", metadata={"basket": "7"})
    for amount in (30, "20.50"):
        await client.post(
            "/payments/kaspi/refund",
            json={"shop_id": SHOP, "external_id": payment["external_id"], "amount": amount},
        )
    body = (await client.get(f"/payments/{payment['id']}")).json()
    assert (body["phone_last4"], body["method"], body["metadata"]) == (PHONE[-4:], "phone", {"basket": "7"})
    assert (body["order_id"], body["refunded_amount"]) == ("A-1", pytest.approx(50.5, abs=0))
    assert [(one["amount"], one["state"]) for one in body["refunds"]] == [(30, "succeeded"), (20.5, "succeeded")]
    lines = [(one["operation_type"], one["state"], one["actor"], one["source"]) for one in body["history"]]
    assert lines == [
        ("create", "pending", "tests", "service"),
        ("status", "paid", "tests", "service"),
        ("refund", "succeeded", "tests", "service"),
        ("refund", "succeeded", "tests", "service"),
    ]
    assert [one["refund_id"] for one in body["history"][2:]] == [one["id"] for one in body["refunds"]]
    assert PHONE not in json.dumps(body)


@pytest.mark.parametrize(("path", "status"), [("01900000-0000-7000-8000-000000000000", 404), ("1", 422)])
async def test_payment_that_is_not_there(path: str, status: int, client: httpx.AsyncClient) -> None:
    assert (await client.get(f"/payments/{path}")).status_code == status


# --- the audit log


async def lines(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get(LOGS, params=params)
    assert answer.status_code == 200, answer.text
    body: list[dict[str, Any]] = answer.json()
    return body


async def test_every_filter_finds_its_lines(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    first = await created(client)
    await created(client, shop_id=OTHER_SHOP, message="two")
    payment = await paid(client, proxy, message="three")
    report = {"shop_id": SHOP, "operation_type": "qr", "provider": "halyk"}
    reported = (await client.post("/api/payment/log", json=report)).json()
    every = await lines(client)
    assert [one["id"] for one in every] == sorted((one["id"] for one in every), reverse=True)
    assert len(every) == 5

    async def picked(**params: Any) -> list[tuple[str, int]]:
        return [(one["operation_type"], one["shop_id"]) for one in await lines(client, **params)]

    assert await picked(shop_id=OTHER_SHOP) == [("create", OTHER_SHOP)]
    assert await picked(operation_type="status") == [("status", SHOP)]
    assert await picked(external_id=first["external_id"]) == [("create", SHOP)]
    assert await picked(status="Processed") == [("status", SHOP)]
    assert await picked(provider="halyk") == [("qr", SHOP)]
    assert await picked(shop_id=SHOP, operation_type="create") == [("create", SHOP)] * 2
    assert await picked(since=reported["created_at"]) == [("qr", SHOP)]
    assert len(await picked(until=reported["created_at"])) == 4
    assert [one["amount"] for one in await lines(client, external_id=payment["external_id"])] == [10_000, 10_000]


async def test_restricted_key_reads_only_the_lines_of_its_shops(
    client: httpx.AsyncClient, with_key: KeyMaker, proxy: GoodProxy
) -> None:
    await created(client)
    await created(client, shop_id=OTHER_SHOP)
    proxy.statuses["11111111111"] = "Wait"
    await client.get("/payments/kaspi/status/11111111111")  # a line without shop
    restricted = await with_key(Scope.ADMIN, shops=[SHOP])
    assert [one["shop_id"] for one in await lines(restricted)] == [SHOP]


@pytest.mark.parametrize(
    ("params", "good"),
    [
        ({"limit": 1}, True),
        ({"limit": 1000}, True),
        ({"skip": 0}, True),
        ({"skip": 100_000}, True),
        ({"limit": 0}, False),
        ({"limit": 1001}, False),
        ({"limit": "x"}, False),
        ({"skip": -1}, False),
        ({"skip": 100_001}, False),
        ({"status": "\x00"}, False),
        ({"external_id": "x" * 51}, False),
    ],
    ids=str,
)
async def test_bounds_of_the_log(params: dict[str, Any], good: bool, client: httpx.AsyncClient) -> None:
    assert (await client.get(LOGS, params=params)).status_code == (200 if good else 422)


async def bulk_log(sql: asyncpg.Connection, count: int) -> None:
    await sql.execute(
        "INSERT INTO payment_log (shop_id, organization_bin, operation_type, external_id, amount, status, provider, "
        "actor, source, created_at) SELECT 100 + n % 1000, '920317450731', "
        "CASE WHEN n % 1000 = 0 THEN 'refund' ELSE 'create' END, n::text, 10000, "
        "CASE WHEN n % 2000 = 0 THEN 'Error' ELSE 'Wait' END, CASE WHEN n % 5000 = 0 THEN 'halyk' ELSE 'kaspi' END, "
        "'bulk', 'service', now() - (n / 7) * interval '1 second' "
        f"FROM generate_series({count}, 1, -1) AS n; ANALYZE payment_log"
    )


async def test_changes_of_who_may_do_what_are_in_the_log_for_those_who_ask(
    client: httpx.AsyncClient, with_key: KeyMaker, shops: dict[int, str]
) -> None:
    await client.put(f"/admin/configs/{SHOP}", json={"city": "Астана", "reason": "moved"})
    assert await lines(client) == []
    of_shop = {"shop_id": SHOP, "operation_type": "config-change"}
    [by_type], [by_subject] = await lines(client, **of_shop), await lines(client, subject=f"payment_config:{SHOP}")
    assert by_type == by_subject
    assert (by_type["actor"], by_type["reason"], by_type["shop_id"]) == ("tests", "moved", SHOP)
    assert json.loads(by_type["content"])["city"] == "Астана"
    foreign = await with_key("admin", shops=[OTHER_SHOP], name="foreign")
    kinds = {one["operation_type"] for one in await lines(client, changes=True)}
    assert kinds == {"config-change", "key-create"}
    assert await lines(foreign, changes=True) == []


async def test_default_page_is_a_hundred_lines_and_skip_moves_it(
    client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    await bulk_log(sql, 250)
    whole = [one["id"] for one in await lines(client, limit=1000)]
    assert [one["id"] for one in await lines(client)] == whole[:100]
    assert [one["id"] for one in await lines(client, skip=100, limit=30)] == whole[100:130]
    assert await lines(client, skip=250) == []


async def test_cursor_walks_the_whole_log_once(client: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    await bulk_log(sql, 250)
    seen: list[int] = []
    params: dict[str, Any] = {"limit": 40}
    for n in range(20):
        answer = await client.get(LOGS, params=params)
        seen += [one["id"] for one in answer.json()]
        await client.post("/api/payment/log", json={"shop_id": SHOP, "operation_type": f"new-{n}"})
        if "x-next-cursor" not in answer.headers:
            break
        params["cursor"] = answer.headers["x-next-cursor"]
    assert len(seen) == len(set(seen)) == 250


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@cmd", "=HYPERLINK(1)"])
async def test_csv_holds_no_formula(cell: str, client: httpx.AsyncClient) -> None:
    report = {"shop_id": SHOP, "operation_type": "create", "status": cell, "error_message": f'{cell}, "so"'}
    await client.post("/api/payment/log", json=report)
    answer = await client.get(LOGS, headers={"Accept": "text/csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    [row] = csv.DictReader(io.StringIO(answer.text))
    assert (row["status"], row["error_message"]) == (f"'{cell}", f'\'{cell}, "so"')
    assert row["shop_id"] == str(SHOP)
    assert row["amount"] == ""


async def test_csv_has_the_lines_and_the_cursor_of_the_json(client: httpx.AsyncClient, sql: asyncpg.Connection) -> None:
    await bulk_log(sql, 30)
    as_json = await client.get(LOGS, params={"limit": 10})
    as_csv = await client.get(LOGS, params={"limit": 10}, headers={"Accept": "text/csv"})
    assert as_csv.content.startswith(codecs.BOM_UTF8)
    rows = list(csv.DictReader(io.StringIO(as_csv.content.decode("utf-8-sig"))))
    assert [int(row["id"]) for row in rows] == [one["id"] for one in as_json.json()]
    assert list(rows[0]) == list(as_json.json()[0])
    assert as_csv.headers["x-next-cursor"] == as_json.headers["x-next-cursor"]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/csv;q=0, application/json", "application/json"),
        ("application/json, text/csv;q=0.1", "application/json"),
        ("text/csv", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("text/csv, */*;q=0.1", "text/csv"),
        (", ".join(["text/html"] * 200), "application/json"),
    ],
)
async def test_csv_is_for_those_who_prefer_it(accept: str, kind: str, client: httpx.AsyncClient) -> None:
    answer = await client.get(LOGS, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == kind


# --- speed does not depend on how much there is


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


async def assert_cheap(
    services: Services, sql: asyncpg.Connection, client: httpx.AsyncClient, path: str, table: str
) -> None:
    """The query behind a page goes by an index and looks at few rows and buffers."""
    with asked(services.database) as statements:
        answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    [(statement, parameters)] = [one for one in statements if f"FROM {table}" in one[0]]
    explained = json.loads(
        await sql.fetchval("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + statement, *parameters)
    )[0]["Plan"]
    plan = nodes(explained)
    scans = [node for node in plan if "Scan" in node["Node Type"]]
    # A partition without a row is "read from one end to the other", and takes no block.
    read = [node for node in scans if node["Shared Hit Blocks"] + node["Shared Read Blocks"]]
    assert all("Index" in node["Node Type"] or "Bitmap" in node["Node Type"] for node in read), (path, explained)
    looked_at = max(node["Actual Rows"] * node["Actual Loops"] + node.get("Rows Removed by Filter", 0) for node in plan)
    assert looked_at <= 110, (path, explained)
    assert explained["Shared Hit Blocks"] + explained["Shared Read Blocks"] <= 250, (path, explained)
    # An index that only helps where PostgreSQL can skip (18 and later) would show as more than one search of it.
    assert all(node.get("Index Searches", 1) <= 3 for node in scans), (path, explained)


LOG_QUERIES = (
    "",
    "shop_id=150",
    "operation_type=refund",
    "operation_type=nothing",
    "external_id=777",
    "status=Error",
    "status=Wait",
    "provider=kaspi",
    "provider=halyk",
    "provider=nobody",
    "shop_id=150&operation_type=create",
    "shop_id=150&status=Wait",
    f"since={datetime.now(UTC).isoformat().replace('+00:00', 'Z')}",
    "until=2020-01-01T00:00:00Z",
    f"cursor={cursor_of('2020-01-01T00:00:00+00:00|5')}",
)


async def test_log_page_costs_the_same_however_long_the_log(
    services: Services, sql: asyncpg.Connection, client: httpx.AsyncClient
) -> None:
    await sql.execute("VACUUM payment_log")  # what earlier tests left in other partitions takes blocks
    await bulk_log(sql, 20_000)
    for query in LOG_QUERIES:
        await assert_cheap(services, sql, client, f"{LOGS}?{query}", "payment_log")


PAYMENT_PATHS = (
    "/payments",
    "/payments?shop_id=150",
    "/payments?order_id=A-777",
    "/payments?external_id=777",
    "/payments?state=failed",
    "/payments?state=cancelled",
    "/payments?phone_last4=0777",
    "/payments?short_code=C777",
    "/payments?shop_id=150&state=paid",
    "/payments?until=2020-01-01T00:00:00Z",
    "/payments/kaspi/status/777",
)


async def test_payment_page_costs_the_same_however_many_there_are(
    services: Services, sql: asyncpg.Connection, client: httpx.AsyncClient
) -> None:
    await created(client)
    await copies(
        sql,
        20_000,
        shop_id="100 + n % 1000",
        order_id="'A-' || n",
        state="CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'paid' END",
        failure="CASE WHEN n % 1000 = 0 THEN 'declined' END",
        short_code="'C' || n",
        phone_last4="lpad((n % 10000)::text, 4, '0')",
        created_at="created_at - (n / 7) * interval '1 second'",
    )
    await sql.execute("ANALYZE payment")
    for path in PAYMENT_PATHS:
        await assert_cheap(services, sql, client, path, "payment")


async def test_unknown_refusals_are_in_the_record_too(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    proxy.create.mock(side_effect=None, return_value=failure(-1502, "Device is not active"))
    await client.post("/payments/kaspi/create", json=create_body())
    [line] = await lines(client)
    assert (line["state"], line["error_message"], line["amount"]) == ("failed", "Device is not active", 10_000)
