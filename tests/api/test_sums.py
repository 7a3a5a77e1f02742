"""Sums per shop, day and state."""

from datetime import datetime, timedelta

import asyncpg
import pytest

from payment_service.access.service import Scope
from payment_service.almaty import ALMATY
from payment_service.money import MAX_TIYN
from payment_service.services import Services
from tests.api.conftest import KeyMaker, problem_of
from tests.reconciliation.conftest import set_state
from tests.support.asking import OTHER_SHOP, SHOP, ask
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS

DAY = datetime(2026, 10, 5, tzinfo=ALMATY)
OF_OCTOBER = "/payments/sums?since=2026-10-01&until=2026-11-01"


async def test_sums_are_told_per_shop_day_and_state(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection, with_key: KeyMaker
) -> None:
    for number, (state, at, shop_id) in enumerate(
        [
            ("paid", DAY, SHOP),
            ("paid", DAY + timedelta(hours=23), SHOP),
            ("pending", DAY, SHOP),
            ("paid", DAY + timedelta(days=1), SHOP),
            ("paid", DAY, OTHER_SHOP),
        ]
    ):
        payment = (await services.payments.create(ask(shop_id=shop_id, message=f"Flowers {number}"))).payment
        await set_state(sql, payment, state=state, created_at=at, amount=MAX_TIYN)
    client = await with_key(Scope.PAYMENTS_READ, shops=[SHOP])
    found = (await client.get(OF_OCTOBER)).json()["items"]
    assert [(one["day"], one["state"], one["payments"], one["amount"]) for one in found] == [
        ("2026-10-05", "paid", 2, 199999999.98),
        ("2026-10-05", "pending", 1, 99999999.99),
        ("2026-10-06", "paid", 1, 99999999.99),
    ]
    assert {(one["shop_id"], one["organization_bin"]) for one in found} == {(SHOP, SHOPS[SHOP])}
    every = await with_key(Scope.PAYMENTS_READ)
    assert len((await every.get(OF_OCTOBER)).json()["items"]) == 4
    assert len((await every.get(f"{OF_OCTOBER}&shop_id={OTHER_SHOP}")).json()["items"]) == 1


@pytest.mark.parametrize(
    "query",
    [
        "since=2026-10-01",
        "since=2026-10-01&until=2026-10-01",
        "since=2026-10-02&until=2026-10-01",
        "since=2024-10-01&until=2026-10-01",
        "since=1759276800&until=2026-10-01",
        "since=2026-02-30&until=2026-10-01",
        "since=2026-10-01T00:00:00Z&until=2026-10-02",
    ],
)
async def test_period_that_is_none_is_refused(with_key: KeyMaker, query: str) -> None:
    problem_of(await (await with_key(Scope.PAYMENTS_READ)).get(f"/payments/sums?{query}"), 422, "validation_failed")
