"""One device token that no key opens: its shop sends nothing, the others go on, and a new token ends it."""

from typing import Any

import asyncpg
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import DeviceTokenUnreadable, TokenOfAnotherBin
from payment_service.observability.metrics import TOKENS_UNREADABLE, values_of
from payment_service.programs import StartError
from payment_service.programs.start import check_database
from payment_service.refunds.service import RefundRequest
from payment_service.routing import importing
from payment_service.routing.tokens import Unreadable
from payment_service.services import Services
from payment_service.worker.service import worker_over
from tests.support.alarms import alarms
from tests.support.asking import KEY, OTHER_SHOP, PHONE, SHOP, TESTS, ask, paid, refunded, taking
from tests.support.books import spoil_token
from tests.support.shops import SHOPS, device_token_of

ANOTHER = "0badcafe-0000-4000-8000-000000000000"


@pytest.fixture(autouse=True)
async def of_shop(shops: dict[int, str], sql: asyncpg.Connection) -> None:
    """The device token of ``SHOP`` cannot be opened."""
    await spoil_token(sql, SHOP)


@pytest.mark.parametrize("phone", [PHONE, None])
async def test_payment_is_refused_and_that_of_another_shop_is_sent(
    services: Services, wire: respx.MockRouter, phone: str | None
) -> None:
    """By phone, too, where a shop without a token is paid: it has one."""
    route = taking(wire, link=phone is None)
    with pytest.raises(DeviceTokenUnreadable) as caught:
        await services.payments.create(ask(phone=phone, idempotency_key=KEY))
    assert str(SHOP) in caught.value.detail
    assert not route.called
    await services.payments.create(ask(phone=phone, shop_id=OTHER_SHOP))
    assert route.call_count == 1


async def test_program_starts_and_says_which_shop_takes_no_payments(services: Services) -> None:
    await check_database(services.settings)
    assert await services.check_secrets() == [SHOP]


async def test_keys_that_open_no_token_stop_the_start(services: Services, sql: asyncpg.Connection) -> None:
    """Although they open the key of the fingerprints, which a first start with them would have made."""
    await spoil_token(sql, *SHOPS)
    with pytest.raises(StartError, match="ENCRYPTION_KEYS do not open"):
        await check_database(services.settings)


@pytest.mark.parametrize("token", [ANOTHER, device_token_of(SHOP), None])
async def test_new_token_ends_it(services: Services, wire: respx.MockRouter, token: str | None) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": token})
    assert await services.check_secrets() == []
    route = taking(wire)
    await services.payments.create(ask())
    assert route.calls.last.request.url.params.get("deviceToken") == token


async def test_import_sets_a_new_token(services: Services) -> None:
    rows = importing.parse(f"shop_id,organization_bin,device_token\n{SHOP},{SHOPS[SHOP]},{ANOTHER}\n")
    [plan] = await importing.apply(services.routing, rows, reason="lost", dry_run=False)
    assert plan.changes["device_token"] == ("00121038…", "0badcafe…")
    assert await services.check_secrets() == []


async def test_other_changes_leave_it_as_it_is(services: Services) -> None:
    for fields in ({"name": "Roses"}, {"device_token": "00121038…"}, {"is_active": True}):
        config = await services.routing.update(FULL_ACCESS, SHOP, fields)
        assert config.device_token == Unreadable("00121038…")
    with pytest.raises(TokenOfAnotherBin):
        await services.routing.update(FULL_ACCESS, SHOP, {"organization_bin": "891027350515"})


@pytest.mark.parametrize("token", [device_token_of(SHOP), device_token_of(SHOP).replace("-", "")])
async def test_token_that_begins_as_one_of_another_bin_is_refused(services: Services, token: str) -> None:
    with pytest.raises(TokenOfAnotherBin):
        await services.routing.update(FULL_ACCESS, OTHER_SHOP, {"device_token": token})


@pytest.mark.parametrize("key", ["key-of-the-refund", None])
async def test_known_requests_are_answered(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, key: str | None
) -> None:
    payment = await paid(services, wire, ask(shop_id=OTHER_SHOP, idempotency_key=KEY))
    route = wire.get("/refund/").mock(return_value=refunded())
    refund: dict[str, Any] = {"caller": TESTS, "payment": payment, "amount": None, "idempotency_key": key}
    first = await services.refunds.refund(RefundRequest(**refund))
    await spoil_token(sql, OTHER_SHOP)
    again = await services.payments.create(ask(shop_id=OTHER_SHOP, idempotency_key=KEY))
    assert (again.replayed, again.payment.id) == (True, payment.id)
    repeated = await services.refunds.refund(RefundRequest(**refund))
    assert (repeated.replayed, repeated.refund.id) == (True, first.refund.id)
    assert route.call_count == 1


async def test_refund_is_refused_whatever_token_the_shop_has_today(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await paid(services, wire, ask(shop_id=OTHER_SHOP))
    await spoil_token(sql, OTHER_SHOP)
    await services.routing.update(FULL_ACCESS, OTHER_SHOP, {"device_token": ANOTHER})
    route = wire.get("/refund/").mock(return_value=refunded())
    with pytest.raises(DeviceTokenUnreadable, match="this payment"):
        await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=None))
    assert not route.called
    assert await sql.fetchval("SELECT reserved_amount FROM payment") == 0


async def test_rotation_takes_the_others_along(services: Services) -> None:
    assert await services.rotate_keys() == (6, 1)


async def test_worker_names_the_shop_once(services: Services) -> None:
    worker, before = worker_over(services), alarms("device_token_unreadable")
    for _ in range(2):
        await worker._look_at_tokens()
    assert values_of(TOKENS_UNREADABLE) == {(): 1}
    assert alarms("device_token_unreadable") == before + 1
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": ANOTHER})
    await worker._look_at_tokens()
    assert values_of(TOKENS_UNREADABLE) == {(): 0}
