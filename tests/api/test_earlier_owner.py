"""A shop gets another owner: the payments of the earlier one stay with that seller, and with the marketplace."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import httpx
import pytest

from payment_service.access.service import FULL_ACCESS, Caller, Scope
from payment_service.errors import InvalidInput
from payment_service.events import outbox
from payment_service.events.subscriptions import Subscription
from payment_service.payments import queries
from payment_service.routing.sellers import set_same_seller
from payment_service.services import Services
from tests.api.conftest import SHOP, KeyMaker, create_body, created, paid, problem_of
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS

NEW_BIN: Final = SHOPS[576631]
"""Of a seller who has a shop already."""
NEW_TOKEN: Final = "99999999-0000-4000-8000-000000000000"
REFUND: Final = "/payments/kaspi/refund"
LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy) -> None:
    """Seven shops and a good proxy."""


async def sell(client: httpx.AsyncClient, **fields: Any) -> None:
    """The shop goes to another seller. The earlier owner keeps another shop, and its BIN."""
    body = {"organization_bin": NEW_BIN, "device_token": NEW_TOKEN, **fields}
    kept = {"organization_bin": SHOPS[SHOP], "device_token": None}
    for shop_id, change in ((SHOP, body), (71691, kept)):
        answer = await client.put(f"/admin/configs/{shop_id}", json=change)
        assert answer.status_code == 200, answer.text


@pytest.fixture
async def of_shop(with_key: KeyMaker) -> httpx.AsyncClient:
    """A client whose key is of the shop alone."""
    client: httpx.AsyncClient = await with_key(shops=[SHOP])
    return client


async def test_new_owner_neither_sees_nor_refunds_what_the_earlier_one_took(
    client: httpx.AsyncClient, of_shop: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy)
    await sell(client)
    external_id, body = payment["external_id"], {"shop_id": SHOP, "external_id": payment["external_id"], "full": True}
    problem_of(await of_shop.post(REFUND, json=body), 404, "payment_not_found")
    problem_of(await of_shop.get(f"/payments/kaspi/status/{external_id}"), 404, "payment_not_found")
    problem_of(await of_shop.get(f"/payments/{payment['id']}"), 404, "payment_not_found")
    problem_of(await of_shop.get(f"/payments/{payment['id']}/status"), 404, "payment_not_found")
    assert (await of_shop.get("/payments")).json()["items"] == []
    assert (await of_shop.get("/admin/logs", params={"changes": "false"})).json() == []
    assert (await of_shop.get("/admin/tasks")).json() == []
    assert proxy.refund.call_count == 0

    # The marketplace still pays back, from the account that took it.
    refunded = await client.post(REFUND, json=body)
    assert (refunded.status_code, refunded.json()["organization_bin"]) == (200, SHOPS[SHOP])
    assert (await of_shop.get("/refunds")).json()["items"] == []
    problem_of(await of_shop.get(f"/payments/{payment['id']}"), 404, "payment_not_found")


async def test_database_refuses_the_refund_of_a_shop_that_was_sold_a_moment_ago(
    client: httpx.AsyncClient,
    of_shop: httpx.AsyncClient,
    with_key: KeyMaker,
    proxy: GoodProxy,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    payment = await paid(client, proxy)
    await with_key(shops=[75509], name="foreign")
    may_refund = "SELECT api_key_may_refund(api_key.id, payment) FROM api_key, payment WHERE shops = $1"
    assert [await sql.fetchval(may_refund, [shop_id]) for shop_id in (SHOP, 75509)] == [True, False]
    await sell(client)
    assert [await sql.fetchval(may_refund, [shop_id]) for shop_id in (SHOP, 75509)] == [False, False]

    async def was_shown(*_: Any) -> bool:
        return True

    monkeypatch.setattr(queries, "is_shown", was_shown)
    body = {"shop_id": SHOP, "external_id": payment["external_id"], "full": True}
    problem_of(await of_shop.post(REFUND, json=body), 404, "payment_not_found")
    assert proxy.refund.call_count == 0


async def test_new_owner_settles_nothing_of_the_earlier_one(
    client: httpx.AsyncClient, of_shop: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy)
    proxy.refund.mock(side_effect=None, return_value=httpx.Response(500))
    body = {"shop_id": SHOP, "external_id": payment["external_id"], "full": True}
    assert (await client.post(REFUND, json=body)).status_code == 202
    refund_id = (await client.get("/refunds")).json()["items"][0]["id"]
    proxy.create.mock(side_effect=None, return_value=httpx.Response(500))
    unknown = (await client.post("/payments/kaspi/create", json=create_body(amount=7))).json()["id"]
    assert len((await of_shop.get("/admin/tasks")).json()) == 2
    await sell(client)
    assert (await of_shop.get("/admin/tasks")).json() == []
    said = {"state": "failed", "reason": "not there"}
    problem_of(await of_shop.post(f"/admin/payments/{unknown}/settle", json=said), 404, "payment_not_found")
    problem_of(await of_shop.post(f"/admin/refunds/{refund_id}/settle", json=said), 404, "refund_not_found")
    assert len((await client.get("/admin/tasks")).json()) == 2


async def test_report_of_a_new_owner_belongs_to_no_payment_of_the_earlier_one(
    client: httpx.AsyncClient, of_shop: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    payment = await paid(client, proxy)
    await sell(client)
    report = {"shop_id": SHOP, "operation_type": "status", "external_id": payment["external_id"], "status": "Error"}
    answer = await of_shop.post("/api/payment/log", json={**report, "organization_bin": NEW_BIN})
    assert answer.status_code < 300, answer.text
    assert await sql.fetchval("SELECT payment_id FROM payment_log WHERE source = 'client'") is None


async def next_of(subscription: Subscription) -> str:
    """The payment of the next event of a stream."""
    told = None
    while told is None:
        told = await subscription.next(10)
    return str(json.loads(told.text)["data"]["id"])


async def test_stream_of_a_shop_tells_nothing_of_its_earlier_owner(
    client: httpx.AsyncClient, proxy: GoodProxy, services: Services
) -> None:
    """Neither what becomes of the earlier owner's payments, nor what was before, from an event on that was seen."""
    payment = await created(client)
    caller = Caller("shop", frozenset(Scope), frozenset({SHOP}))
    async with services.database.reading() as session:
        seen = (await outbox.since(session, caller.shops, LONG_AGO, excluding=(), limit=9))[0].id
    await paid(client, proxy, message="another")
    await sell(client)
    running = asyncio.create_task(services.subscriptions.run())
    try:
        with services.subscriptions.open(caller) as theirs, services.subscriptions.open(FULL_ACCESS) as everybodys:
            proxy.statuses[payment["external_id"]] = "Processed"
            await client.get(f"/payments/kaspi/status/{payment['external_id']}")
            own = await paid(client, proxy, message="of the new owner")
            assert await next_of(theirs) == own["id"]
            while await next_of(everybodys) != payment["id"]:
                """It is told to those of all shops."""
        again = {json.loads(one.text)["data"]["id"] async for one in services.subscriptions.since(caller, seen)}
        assert again == {own["id"]}
    finally:
        running.cancel()


async def test_same_seller_under_another_bin_keeps_what_was_taken(
    client: httpx.AsyncClient, of_shop: httpx.AsyncClient, proxy: GoodProxy, services: Services
) -> None:
    payment = await paid(client, proxy)
    await sell(client)
    earlier, database = SHOPS[SHOP], services.database
    for wrong in (NEW_BIN, SHOPS[75509], "not a BIN"):
        with pytest.raises(InvalidInput):
            await set_same_seller(database, SHOP, wrong, NEW_BIN, is_same=True, reason="")
    await set_same_seller(database, SHOP, earlier, NEW_BIN, is_same=True, reason="an IP became a TOO")
    body = {"shop_id": SHOP, "external_id": payment["external_id"], "amount": 10}
    assert (await of_shop.post(REFUND, json=body)).json()["organization_bin"] == earlier
    assert (await of_shop.get(f"/payments/{payment['id']}")).status_code == 200
    assert [one["id"] for one in (await of_shop.get("/payments")).json()["items"]] == [payment["id"]]

    # It may be taken back, and says nothing once the shop is sold.
    await set_same_seller(database, SHOP, earlier, NEW_BIN, is_same=False, reason="a mistake")
    problem_of(await of_shop.get(f"/payments/{payment['id']}"), 404, "payment_not_found")
    await set_same_seller(database, SHOP, earlier, NEW_BIN, is_same=True, reason="it was none")
    await sell(client, organization_bin=SHOPS[75509], device_token=None)
    problem_of(await of_shop.get(f"/payments/{payment['id']}"), 404, "payment_not_found")
    # Nor does it when it is said too late, of the seller before.
    with pytest.raises(InvalidInput, match="is not the shop's today"):
        await set_same_seller(database, SHOP, earlier, NEW_BIN, is_same=True, reason="an IP became a TOO")


async def test_new_owner_does_not_bring_the_bin_of_the_earlier_one_back(
    client: httpx.AsyncClient, of_shop: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    """With the scope ``admin``: for a moment, to see and to refund."""
    payment = await paid(client, proxy)
    await sell(client)
    back = {"organization_bin": SHOPS[SHOP], "device_token": None}
    problem_of(await of_shop.put(f"/admin/configs/{SHOP}", json=back), 422, "validation_failed")
    problem_of(await of_shop.get(f"/payments/{payment['id']}"), 404, "payment_not_found")
    assert (await of_shop.put(f"/admin/configs/{SHOP}", json={"organization_bin": NEW_BIN})).status_code == 200
    assert (await client.put(f"/admin/configs/{SHOP}", json=back)).status_code == 200
    assert (await of_shop.get(f"/payments/{payment['id']}")).status_code == 200


async def test_who_sees_whose_payments_is_in_the_record(
    client: httpx.AsyncClient, services: Services, sql: asyncpg.Connection
) -> None:
    await sell(client)
    await set_same_seller(services.database, SHOP, SHOPS[SHOP], NEW_BIN, is_same=True, reason="an IP became a TOO")
    with pytest.raises(asyncpg.PostgresError, match="audit entry"):
        await sql.execute("UPDATE same_seller SET is_same = false")
    [held] = await sql.fetch("SELECT content FROM audited_today WHERE subject LIKE 'same_seller:%'")
    assert json.loads(held["content"])["is_same"] is True
    added = "INSERT INTO same_seller (shop_id, organization_bin, earlier_bin, is_same) SELECT"
    for statement, law in (
        ("DELETE FROM same_seller", "same_seller_insert_only"),
        ("TRUNCATE same_seller", "same_seller_insert_only"),
        (f"{added} shop_id, organization_bin, earlier_bin, true FROM same_seller", "same_seller_once"),
        (f"{added} 8, organization_bin, organization_bin, true FROM same_seller", "same_seller_check"),
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
            await sql.execute(statement)
        assert refused.value.constraint_name == law
    line = (await client.get("/admin/logs", params={"operation_type": "same-seller"})).json()[0]
    assert (line["shop_id"], line["organization_bin"], line["reason"]) == (SHOP, NEW_BIN, "an IP became a TOO")
