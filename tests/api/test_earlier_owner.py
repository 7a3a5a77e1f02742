"""A shop gets another owner: the payments of the earlier one stay with that seller, and with the marketplace."""

from typing import Any

import httpx
import pytest

from tests.api.conftest import SHOP, KeyMaker, paid, problem_of
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS

NEW_BIN = "210440028324"
NEW_TOKEN = "99999999-0000-4000-8000-000000000000"
REFUND = "/payments/kaspi/refund"


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy) -> None:
    """Seven shops and a good proxy."""


async def sell(client: httpx.AsyncClient, **fields: Any) -> None:
    """The shop goes to another seller."""
    # That BIN has a shop with a token of its own already.
    body = {"organization_bin": NEW_BIN, "device_token": NEW_TOKEN, **fields}
    answer = await client.put(f"/admin/configs/{SHOP}", json=body)
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
