"""Who am I, keys, refunds as a list, and what was told of a payment."""

import asyncpg

from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.events.relay import Relay
from payment_service.notifications.bindings import BindingRequest
from payment_service.services import Services
from tests.api.conftest import KeyMaker, paid, problem_of
from tests.support.asking import OTHER_SHOP, SHOP
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS


async def test_every_key_may_ask_what_it_stands_for(with_key: KeyMaker) -> None:
    client = await with_key(Scope.REPORTS_WRITE, shops=[SHOP, OTHER_SHOP], name="bitrix")
    answer = (await client.get("/me")).json()
    assert answer == {"name": "bitrix", "scopes": ["reports:write"], "shops": sorted([SHOP, OTHER_SHOP])}
    assert (await (await with_key()).get("/me")).json()["shops"] == "all"


async def test_keys_are_listed_with_their_last_use_and_only_those_within_own_shops(
    services: Services, with_key: KeyMaker
) -> None:
    own, foreign = await with_key(shops=[SHOP], name="own"), await with_key(shops=[OTHER_SHOP], name="foreign")
    everybody, _ = await with_key(name="everybody"), await with_key(shops=[SHOP, OTHER_SHOP], name="both")
    await foreign.get("/me")
    await services.access.record_uses()
    listed = {key["name"]: key["last_used_at"] is not None for key in (await everybody.get("/admin/keys")).json()}
    assert listed == {"own": False, "foreign": True, "everybody": False, "both": False}
    assert [key["name"] for key in (await own.get("/admin/keys")).json()] == ["own"]


async def test_refunds_are_listed_newest_first_page_by_page(
    shops: dict[int, str], proxy: GoodProxy, with_key: KeyMaker
) -> None:
    client = await with_key()
    payment = await paid(client, proxy)
    other = await paid(client, proxy, shop_id=OTHER_SHOP)
    made = []
    for one, amount in ((payment, 10), (other, 20), (payment, 30)):
        body = {"shop_id": one["shop_id"], "external_id": one["external_id"], "amount": amount}
        made.append((await client.post("/payments/kaspi/refund", json=body)).json()["refund_id"])

    async def listed(query: str = "") -> list[str]:
        return [item["id"] for item in (await client.get(f"/refunds?{query}")).json()["items"]]

    assert await listed() == made[::-1]
    assert await listed(f"payment={payment['id']}&state=succeeded") == [made[2], made[0]]
    assert await listed(f"shop_id={OTHER_SHOP}") == [made[1]]
    assert await listed("state=unknown") == await listed("until=2026-01-01T00:00:00Z") == []
    first = (await client.get("/refunds?limit=2")).json()
    assert await listed(f"limit=2&cursor={first['next_cursor']}") == [made[0]]
    [item] = (await client.get(f"/refunds?shop_id={OTHER_SHOP}")).json()["items"]
    assert (item["payment"], item["amount"], item["organization_bin"]) == (other["id"], 20, SHOPS[OTHER_SHOP])


async def test_payment_is_asked_about_by_our_id(shops: dict[int, str], proxy: GoodProxy, with_key: KeyMaker) -> None:
    client = await with_key(Scope.PAYMENTS_WRITE, Scope.PAYMENTS_READ)
    body = {"shop_id": SHOP, "amount": 100, "phone": "77015211545", "message": "Roses"}
    made = (await client.post("/payments/kaspi/create", json=body)).json()
    proxy.statuses[made["external_id"]] = "Processed"
    assert (await client.get(f"/payments/{made['id']}")).json()["state"] == "pending"
    assert (await client.get(f"/payments/{made['id']}/status")).json()["state"] == "paid"


async def test_what_was_delivered_and_told_of_a_payment_is_listed(
    services: Services, shops: dict[int, str], proxy: GoodProxy, with_key: KeyMaker, sql: asyncpg.Connection
) -> None:
    client = await with_key()
    request = BindingRequest(channel="telegram", address="-100123", shop_id=None, events=["payment.paid"])
    await services.bindings.add(FULL_ACCESS, request)
    await client.post("/admin/webhooks", json={"url": "https://93.184.215.14/webhook", "events": ["payment.paid"]})
    payments = [await paid(client, proxy), await paid(client, proxy, amount=7)]
    await Relay(services.database, [services.deliveries.consume, services.notifications.consume]).pass_on()
    for payment in payments:
        [delivery] = (await client.get(f"/admin/deliveries?payment={payment['id']}")).json()["items"]
        assert (delivery["subject_id"], delivery["type"]) == (payment["id"], "payment.paid")
        [message] = (await client.get(f"/admin/messages?payment={payment['id']}")).json()
        assert (message["address"], message["state"], message["event_id"]) == (
            "-100123",
            "waiting",
            delivery["event_id"],
        )
    missing = await client.get("/admin/messages?payment=00000000-0000-0000-0000-000000000000")
    problem_of(missing, 404, "payment_not_found")
