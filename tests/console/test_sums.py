"""The day and the month: what belongs to which day, what is in which sum, and whose it is."""

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.people import Role
from payment_service.almaty import ALMATY
from payment_service.console.chart import chart_of
from payment_service.console.render import MINUS, sum_of_tiyn
from payment_service.payments.models import Payment
from payment_service.refunds.service import RefundRequest
from payment_service.services import Services
from tests.console.conftest import FOREIGN, OWN, SignIn, text_of
from tests.reconciliation.conftest import set_state
from tests.support.asking import TESTS, ask
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS

NOON = datetime.now(UTC).astimezone(ALMATY).replace(hour=12, minute=0, second=0, microsecond=0)


async def made(
    services: Services,
    proxy: GoodProxy,
    sql: asyncpg.Connection,
    at: datetime = NOON,
    *,
    paid: bool = True,
    **more: Any,
) -> Payment:
    """A payment that was made at that time."""
    payment = (await services.payments.create(ask(**more))).payment
    if paid:
        proxy.statuses[str(payment.external_id)] = "Processed"
        payment = await services.reading.refresh(payment)
    await set_state(sql, payment, created_at=at, known_at=at + timedelta(seconds=0.4))
    return payment


def cells(answer: httpx.Response) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))


async def test_paid_and_waiting_are_never_in_one_number(
    services: Services,
    shops: dict[int, str],
    proxy: GoodProxy,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    sign_in: SignIn,
) -> None:
    payment = await made(services, proxy, sql, tenge=17500)
    await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=None))
    await made(services, proxy, sql, tenge=2500)
    await made(services, proxy, sql, tenge=400, paid=False)
    proxy.create.mock(return_value=httpx.Response(500))
    await made(services, proxy, sql, tenge=30, paid=False)
    page = text_of(await (await sign_in()).get("/console/sums"))
    for told in (
        "Paid 20 000 ₸ 2 payments",
        "Refunded 17 500 ₸",
        "Left 2 500 ₸",
        "Waiting for the buyer 1 400 ₸, in no sum above",
        "Outcome unknown 1 Tasks",
        "Success 100 % of 2 payments",
        "Kaspi answers within 0.4 s",
        f"{SHOPS[OWN]} 20 000 ₸ 17 500 ₸ 2 500 ₸ 2 / 4 1 1",
        "not kept",
    ):
        assert told in page, told


async def test_day_and_month_are_those_of_almaty(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection, sign_in: SignIn
) -> None:
    midnight = datetime(2026, 10, 1, tzinfo=ALMATY)
    for tenge, at in ((1, midnight - timedelta(seconds=1)), (20, midnight), (300, midnight + timedelta(days=1))):
        await made(services, proxy, sql, at, tenge=tenge)
    client = await sign_in()
    for query, told in (
        ("day=2026-09-30", "Paid 1 ₸ 1 payment "),
        ("day=2026-10-01", "Paid 20 ₸ 1 payment "),
        ("month=2026-10", "Paid 320 ₸ 2 payments"),
        ("month=2026-10&shop=576631", "Paid 0 ₸ 0 payments"),
        ("day=2026-10-08", "a week before: 20 ₸"),
    ):
        assert told in text_of(await client.get(f"/console/sums?{query}")).replace("( ", "("), query
    steps = (await client.get("/console/sums?month=2026-12")).text
    assert "month=2026-11" in steps
    assert "month=2027-01" in steps


async def test_month_stands_beside_the_one_before_per_seller_and_together(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection, sign_in: SignIn
) -> None:
    september, october = datetime(2026, 9, 30, 23, tzinfo=ALMATY), datetime(2026, 10, 1, tzinfo=ALMATY)
    for tenge, at, shop_id in ((200, september, OWN), (150, october, OWN), (50, september, FOREIGN)):
        await made(services, proxy, sql, at, tenge=tenge, shop_id=shop_id)
    await made(services, proxy, sql, october, tenge=9000, paid=False)
    everyone, florist = await sign_in(), await sign_in(Role.FLORIST, OWN)
    page = text_of(await everyone.get("/console/sums?month=2026-10"))
    assert f"150 ₸ 200 ₸ {MINUS}50 ₸ {MINUS}25 %" in page
    assert f"0 ₸ 50 ₸ {MINUS}50 ₸ {MINUS}100 %" in page
    assert f"Together 150 ₸ 250 ₸ {MINUS}100 ₸ {MINUS}40 %" in page
    assert "250 ₸ 0 ₸ +250 ₸ —" in text_of(await everyone.get("/console/sums?month=2026-09"))
    own = text_of(await florist.get("/console/sums?month=2026-10"))
    assert "50 ₸ —" not in own
    assert "250 ₸" not in own
    assert "month before" not in text_of(await everyone.get("/console/sums?day=2026-10-01"))
    assert "month before" not in text_of(await everyone.get("/console/sums?month=2031-01"))


async def test_month_that_is_not_over_stands_beside_as_much_of_the_one_before(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection, sign_in: SignIn
) -> None:
    first = NOON.replace(day=1, hour=0)
    before = (first - timedelta(days=1)).replace(day=1)
    passed = datetime.now(UTC) - first
    await made(services, proxy, sql, before, tenge=100)
    await made(services, proxy, sql, min(before + passed + timedelta(hours=1), first - timedelta(seconds=1)), tenge=7)
    page = text_of(await (await sign_in()).get(f"/console/sums?month={first:%Y-%m}"))
    has_all = before + passed >= first
    assert f"0 ₸ {107 if has_all else 100} ₸ {MINUS}{107 if has_all else 100} ₸ {MINUS}100 %" in page
    assert ("is not over" in page) == (not has_all)


@pytest.mark.parametrize(
    "query", ["day=yesterday", "day=1999-01-01", "month=2026-13", "month=2026-1", "shop=x", "day=20261001"]
)
async def test_day_that_is_none_is_told(sign_in: SignIn, query: str) -> None:
    answer = await (await sign_in()).get(f"/console/sums?{query}")
    assert (answer.status_code, "Write a day as" in answer.text) == (422, True)


async def test_florist_sees_and_takes_only_their_own(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection, sign_in: SignIn
) -> None:
    await made(services, proxy, sql, tenge=100)
    await made(services, proxy, sql, tenge=7777, shop_id=FOREIGN)
    client = await sign_in(Role.FLORIST, OWN)
    for query in ("", f"?shop={OWN}"):
        page = await client.get(f"/console/sums{query}")
        assert "Paid 100 ₸ 1 payment" in text_of(page)
        assert SHOPS[FOREIGN] not in page.text
        assert f'value="{FOREIGN}"' not in page.text
        [own, total] = cells(await client.get(f"/console/sums.csv{query}"))
        assert (own["shop_id"], own["paid"], total["paid"]) == (str(OWN), "100.00", "100.00")
    assert "No payments in this time." in (await client.get(f"/console/sums?shop={FOREIGN}")).text


async def test_csv_has_the_form_of_reconcile_and_says_nothing_of_what_nobody_asked(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sql: asyncpg.Connection, sign_in: SignIn
) -> None:
    await made(services, proxy, sql, datetime(2026, 10, 5, tzinfo=ALMATY), tenge="17500.50")
    answer = await (await sign_in(Role.ACCOUNTANT)).get("/console/sums.csv?month=2026-10")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="payments-2026-10.csv"'
    assert answer.content.startswith(b"\xef\xbb\xbfshop_id,name,organization_bin,source,payments,paid_payments,paid,")
    [line, total] = cells(answer)
    assert (line["paid"], line["net"], line["differing"], line["unread"]) == ("17500.50", "17500.50", "", "")
    assert (total["shop_id"], total["paid"], total["differing"]) == ("total", "17500.50", "")


# --- the chart


def test_bars_reach_as_far_as_their_values() -> None:
    chart = chart_of([0, 50, 100], [200, 0, 0])
    assert [(bar.y, bar.height) for bar in chart.bars] == [(100, 0), (75, 25), (50, 50)]
    assert chart.line == "0,0.0 10,0.0 10,100.0 20,100.0 20,100.0 30,100.0"
    assert (chart.peak, chart.width) == (200, 30)


def test_chart_of_nothing_has_no_height() -> None:
    chart = chart_of([0, 0], [0, 0])
    assert (chart.peak, [bar.height for bar in chart.bars]) == (0, [0, 0])


@pytest.mark.parametrize(
    ("tiyn", "told"), [(0, "0 ₸"), (1750050, "17 500,50 ₸"), (10**12, "10 000 000 000 ₸"), (-100, f"{MINUS}1 ₸")]
)
def test_sums_of_any_size_are_written(tiyn: int, told: str) -> None:
    assert sum_of_tiyn(tiyn).replace("\u00a0", " ") == told
