"""The Python client against the whole service: to its seller, once, whatever the provider does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from payment_service_client import (
    AsyncPaymentServiceClient,
    NotSent,
    OutcomeUnknown,
    PaymentServiceClient,
    PaymentServiceError,
    Rejected,
)

from tests.support.rig import PHONE, Rig, tenge
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("e2e")

SHOP = 121038


@pytest.fixture
async def shop(rig: Rig) -> AsyncIterator[AsyncPaymentServiceClient]:
    async with AsyncPaymentServiceClient(rig.services[0].url, rig.key) as client:
        yield client


async def asked(call: Any) -> Any:
    """What a call answered, or what it raised."""
    try:
        return await call
    except PaymentServiceError as error:
        return error


def sell(url: str, key: str, shop_id: int, word: str) -> tuple[Any, Any]:
    """What a shop does with a payment, everything twice; the payment when it was paid, and the shop's routing."""
    with PaymentServiceClient(url, key) as client:
        made = client.create_payment(shop_id, "100.50", PHONE, word, order_id=word, metadata={"cart": "7"})
        again = client.create_payment(shop_id, "100.50", PHONE, word, order_id=word, metadata={"cart": "7"})
        assert made["id"] == again["id"]
        paid = client.wait(made["id"], seconds=20)
        assert client.check_status(paid["external_id"])["status"] == "Processed"
        refunded = client.refund(shop_id, paid["external_id"], "0.50")
        same = client.refund(shop_id, paid["external_id"], "0.50")
        rest = client.refund(shop_id, paid["external_id"], full=True, attempt=2)
        assert refunded["refund_id"] == same["refund_id"] != rest["refund_id"]
        assert [found["id"] for found in client.find_payments(shop_id, word)] == [made["id"]]
        return paid, client.get_config(shop_id)


@pytest.mark.parametrize("shops", [2, pytest.param(7, marks=pytest.mark.thorough)])
async def test_payment_reaches_its_seller_once_and_is_waited_for(rig: Rig, shops: int) -> None:
    async def sold(shop_id: int, organization_bin: str) -> None:
        word = rig.word()
        paid, config = await asyncio.to_thread(sell, rig.services[0].url, rig.key, shop_id, word)
        assert paid["state"] == "paid"
        assert paid["organization_bin"] == config["organization_bin"] == organization_bin
        [sent] = await rig.applied(word)
        assert sent["organization_bin"] == organization_bin
        refunds = await rig.ledger(op="refund", external_id=paid["external_id"], applied="true")
        assert [tenge(refund["amount"]) for refund in refunds] == [tenge("0.5"), tenge(100)]
        assert {refund["organization_bin"] for refund in refunds} == {organization_bin}

    await asyncio.gather(*(sold(*shop) for shop in list(SHOPS.items())[:shops]))


async def test_link_is_made(shop: AsyncPaymentServiceClient, rig: Rig) -> None:
    made = await shop.create_link(SHOP, 100, order_id=rig.word())
    assert made["payment_link"].endswith(made["external_id"])
    assert made["payment_id"] == made["external_id"]


async def test_no_course_of_the_provider_makes_a_second_call_or_one_without_a_bin(
    shop: AsyncPaymentServiceClient, rig: Rig
) -> None:
    courses = (await rig.sandbox_client.get("/_courses")).json()
    phones = {one["course"]: f"7701521{one['phone_ending']}" for one in courses if one["phone_ending"]}
    assert len(phones) > 30
    words = {course: rig.word() for course in phones}

    async def buy(course: str) -> tuple[str, Any, Any]:
        order = (SHOP, 100, phones[course], words[course])
        first = await asked(shop.create_payment(*order, order_id=words[course]))
        return course, first, await asked(shop.create_payment(*order, order_id=words[course]))

    bought = await asyncio.gather(*map(buy, phones))
    ledger = await rig.ledger(op="create")
    for course, first, again in bought:
        sent = [entry for entry in ledger if entry["message"].startswith(f"{words[course]} #")]
        took_effect = [entry for entry in sent if entry["applied"]]
        assert {entry["organization_bin"] for entry in sent} == {SHOPS[SHOP]}, course
        assert not any(entry["default_merchant_used"] for entry in sent), course
        assert len(took_effect) <= 1, course
        match first:
            case dict():
                assert len(sent) == len(took_effect) == 1, course
                assert again["id"] == first["id"], course
            case OutcomeUnknown():
                assert len(sent) == 1, course
                assert isinstance(again, OutcomeUnknown), (course, again)
                assert again.payment_id == first.payment_id != "", course
            case Rejected():
                assert (took_effect, type(again), again.code) == ([], Rejected, first.code), course
            case NotSent():
                assert took_effect == [], course
            case _:
                pytest.fail(f"{course}: {first!r}")


async def test_service_that_stops_half_way_leaves_one_payment(rig: Rig) -> None:
    service = await rig.serve()
    word = rig.word()
    async with AsyncPaymentServiceClient(service.url, rig.key) as client:
        order = (SHOP, 100, "77015219024", word)  # answered late: the service is killed meanwhile
        first = asyncio.create_task(asked(client.create_payment(*order, order_id=word)))
        await until(lambda: rig.applied(word), "the provider has it")
        await service.kill()
        assert isinstance(await first, OutcomeUnknown)
    async with AsyncPaymentServiceClient(rig.services[1].url, rig.key) as client:
        again = await asked(client.create_payment(*order, order_id=word))
    assert isinstance(again, OutcomeUnknown)
    assert len(await rig.applied(word)) == 1
