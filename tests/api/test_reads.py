"""What readings cost: the routing of a shop is answered from memory, a payment that has ended by one SELECT."""

import httpx
import pytest

from payment_service.access.service import FULL_ACCESS
from payment_service.services import Services
from tests.api.conftest import SHOP, KeyMaker, paid
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS
from tests.support.statements import asked

CONFIG = f"/api/payment/config?shop_id={SHOP}"


@pytest.fixture(autouse=True)
def _listening(services: Services, shops: dict[int, str]) -> None:
    """Shops, and memories that are trusted, as in a process that hears the database."""
    services.routing.cache.trust(trusted=True)
    services.access.cache.trust(trusted=True)


async def test_config_is_answered_from_memory(client: httpx.AsyncClient, services: Services) -> None:
    first = await client.get(CONFIG)
    with asked(services.database) as statements:
        again = await client.get(CONFIG)
        unchanged = await client.get(CONFIG, headers={"If-None-Match": first.headers["etag"]})
    assert statements == []
    assert (again.status_code, again.headers["etag"], unchanged.status_code) == (200, first.headers["etag"], 304)


async def test_what_is_kept_of_a_config_shows_its_token_only_to_those_who_may_see_it(with_key: KeyMaker) -> None:
    revealing, other = await with_key("config:read", "secrets:read"), await with_key("config:read")
    for _ in range(2):
        whole, masked = [(await client.get(CONFIG)).json()["device_token"] for client in (revealing, other)]
        assert (len(whole), masked) == (36, whole[:8] + "…")


async def test_config_that_changed_is_shown_anew(client: httpx.AsyncClient, services: Services) -> None:
    before = await client.get(CONFIG)
    await services.routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[75509], "device_token": None})
    after = await client.get(CONFIG)
    assert after.json()["organization_bin"] == SHOPS[75509]
    assert after.headers["etag"] != before.headers["etag"]


async def test_status_of_a_paid_payment_is_one_select(
    client: httpx.AsyncClient, services: Services, proxy: GoodProxy
) -> None:
    payment = await paid(client, proxy)
    with asked(services.database) as statements:
        answer = await client.get(f"/payments/kaspi/status/{payment['external_id']}")
    assert answer.json() == payment
    assert [statement.split()[0] for statement, _ in statements] == ["SELECT"]
