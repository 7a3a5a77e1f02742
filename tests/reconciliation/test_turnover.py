"""The sums for the accountant: exact, per shop, BIN and source, and nothing counted twice."""

import csv
import io

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.money import MAX_TIYN, Money
from payment_service.reconciliation.findings import Finding
from payment_service.reconciliation.service import Period
from payment_service.reconciliation.turnover import Turnover, csv_of, tenge, total_of, turnovers_of
from payment_service.refunds.service import RefundRequest
from payment_service.reports.service import Report
from payment_service.services import Services
from tests.reconciliation.conftest import ALL, FAR_AHEAD, LONG_AGO, Found, Kaspi, Making, set_state
from tests.support.asking import OTHER_SHOP, SHOP, TESTS, age, refunded
from tests.support.replies import failure
from tests.support.shops import SHOPS

NEW_BIN = SHOPS[71691]


def read(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))


async def of_all(services: Services, findings: list[Finding] | None = None, period: Period = ALL) -> list[Turnover]:
    return await turnovers_of(services.database, period, findings or [])


def sums(turnover: Turnover) -> tuple[int, int, int, int, int]:
    return turnover.payments, turnover.paid_payments, turnover.paid, turnover.refunded, turnover.net


async def test_paid_refunded_and_net_are_summed_per_shop(
    make: Making, services: Services, kaspi: Kaspi, wire: respx.MockRouter
) -> None:
    wire.get("/refund/").mock(return_value=refunded())
    payment = await make("Processed", tenge="100.01")
    await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money(1)))
    await make("Processed", tenge="0.10")
    await make(tenge=7)
    await make("Processed", tenge=3, shop_id=OTHER_SHOP)
    other, shop = await of_all(services)
    assert (other.shop_id, *sums(other)) == (OTHER_SHOP, 1, 1, 300, 0, 300)
    assert (shop.shop_id, shop.organization_bin, *sums(shop)) == (SHOP, SHOPS[SHOP], 3, 2, 10011, 1, 10010)
    assert sums(total_of([other, shop])) == (4, 3, 10311, 1, 10310)


async def test_shop_that_changed_its_bin_has_two_lines(make: Making, services: Services) -> None:
    await make("Processed", tenge=5)
    await services.routing.update(FULL_ACCESS, SHOP, {"organization_bin": NEW_BIN, "device_token": None})
    await make("Processed", tenge=6)
    turnovers = await of_all(services)
    assert {(turnover.organization_bin, turnover.paid) for turnover in turnovers} == {
        (SHOPS[SHOP], 500),
        (NEW_BIN, 600),
    }


async def test_payments_of_clients_are_summed_apart_and_the_untold_amounts_are_counted(
    make: Making, services: Services, sql: asyncpg.Connection
) -> None:
    payment = await make("Processed", tenge=100)
    for external_id, amount in (("12700000001", 700), ("12700000002", None)):
        told = Report(shop_id=SHOP, operation_type="create", external_id=external_id, amount=amount)
        await services.reports.write(FULL_ACCESS, told)
    await sql.execute("SET session_replication_role = replica; UPDATE payment SET state = 'paid'")
    service, client = await of_all(services)
    assert (service.source, service.organization_bin, service.paid) == ("service", payment.organization_bin, 10000)
    assert (client.source, client.organization_bin, client.paid) == ("client", None, 700)
    assert (client.paid_payments, client.without_amount) == (2, 1)


async def test_merged_report_is_not_counted(make: Making, services: Services, sql: asyncpg.Connection) -> None:
    told = Report(shop_id=SHOP, operation_type="create", external_id="12800000001", amount=10000)
    await services.reports.write(FULL_ACCESS, told)
    await age(sql, -60)
    await make("Processed", tenge=100)
    [turnover] = await of_all(services)
    assert (turnover.source, *sums(turnover)) == ("service", 1, 1, 10000, 0, 10000)


async def test_what_is_not_known_is_counted_and_in_no_sum(
    make: Making, services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await make("Processed", tenge=100)
    wire.get("/refund/").mock(return_value=httpx.Response(500))
    for tiyn in (100, 200):
        await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money(tiyn)))
    wire.get("/create/").mock(return_value=httpx.Response(500))
    await make(tenge=50)
    wire.get("/create/").mock(return_value=failure(-1501))
    await make(tenge=50)
    [turnover] = await of_all(services)
    assert (turnover.unknown, turnover.unknown_refunds) == (1, 2)
    assert sums(turnover) == (3, 1, 10000, 0, 10000)


async def test_what_differs_or_was_not_read_is_counted_where_it_belongs(
    make: Making, services: Services, kaspi: Kaspi, found: Found
) -> None:
    kaspi.says(await make(), "Processed")
    kaspi.says(await make(shop_id=OTHER_SHOP), httpx.Response(500))
    other, shop = await of_all(services, await found())
    assert (other.differing, other.unread) == (0, 1)
    assert (shop.differing, shop.unread) == (1, 0)
    _other, shop = await of_all(services, await found(apply=True))
    assert (shop.differing, shop.paid) == (0, 10000)


async def test_period_and_shop_are_those_of_the_walk(make: Making, services: Services) -> None:
    first = await make("Processed")
    await make("Processed")
    [turnover] = await of_all(services, period=Period(LONG_AGO, first.updated_at))
    assert turnover.payments == 1
    assert await of_all(services, period=Period(LONG_AGO, FAR_AHEAD, OTHER_SHOP)) == []


async def test_sums_beyond_any_payment_are_exact(make: Making, services: Services, sql: asyncpg.Connection) -> None:
    for _ in range(3):
        await set_state(sql, await make("Processed"), amount=MAX_TIYN)
    [turnover] = await of_all(services)
    assert read(csv_of([turnover]))[0]["paid"] == "299999999.97"


@pytest.mark.parametrize(
    ("tiyn", "text"), [(0, "0.00"), (1, "0.01"), (10, "0.10"), (12345, "123.45"), (10**30 + 1, f"1{'0' * 27}0.01")]
)
def test_tenge_are_written_with_two_decimals(tiyn: int, text: str) -> None:
    assert tenge(tiyn) == text


async def test_csv_is_what_excel_opens_as_it_is(make: Making, services: Services) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"name": '=HYPERLINK("http://evil")'})
    await services.routing.update(FULL_ACCESS, OTHER_SHOP, {"name": "Цветы, «Роза»"})
    await make("Processed", tenge="17500.50")
    await make("Processed", tenge=1, shop_id=OTHER_SHOP)
    content = csv_of(await of_all(services))
    assert content.startswith(b"\xef\xbb\xbf")
    other, shop, total = read(content)
    assert other["name"] == "Цветы, «Роза»"
    assert shop["name"].startswith("'=")
    assert list(shop.items())[:1] == [("shop_id", str(SHOP))]
    assert (shop["organization_bin"], shop["source"], shop["paid"]) == (SHOPS[SHOP], "service", "17500.50")
    assert (total["shop_id"], total["paid"], total["net"]) == ("total", "17501.50", "17501.50")


def test_csv_of_a_period_without_payments_holds_the_total_alone() -> None:
    [total] = read(csv_of([]))
    assert (total["shop_id"], total["payments"], total["net"]) == ("total", "0", "0.00")
