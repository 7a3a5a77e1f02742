"""The walk over a period: what is found, what is asked, what is changed, and where it can be taken up again."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.money import Money
from payment_service.payments.models import Payment
from payment_service.reconciliation import service
from payment_service.reconciliation.findings import Kind
from payment_service.reconciliation.service import AT_ONCE, AWAY_AFTER, Period, ProviderAwayError, Reconciliation, Walk
from payment_service.refunds.service import RefundRequest
from payment_service.reports.service import Report
from payment_service.services import Services
from tests.reconciliation.conftest import ALL, FAR_AHEAD, LONG_AGO, Found, Kaspi, Making, set_state
from tests.support.asking import OTHER_SHOP, SHOP, TESTS, age, audit_of, refunded
from tests.support.replies import failure

DOWN = httpx.Response(500)
DIFFERING: list[tuple[str | None, str | httpx.Response, Kind]] = [
    (None, "Processed", Kind.PAID_THERE_OPEN_HERE),
    (None, "Error", Kind.ENDED_THERE_OPEN_HERE),
    (None, "RemotePaymentUnderReview", Kind.UNHEARD_OF_WORD),
    (None, failure(-1601), Kind.NOT_KNOWN_THERE),
    ("Processed", "Error", Kind.PAID_HERE_NOT_THERE),
    ("Processed", "Wait", Kind.PAID_HERE_NOT_THERE),
    ("RemotePaymentCanceled", "Processed", Kind.PAID_THERE_ENDED_HERE),
    ("RemotePaymentCanceled", "Wait", Kind.OPEN_THERE_ENDED_HERE),
]
"""What we heard before, what the provider says now, and how that is called."""


async def test_nothing_is_found_where_both_agree(make: Making, found: Found) -> None:
    for word in (None, "Processed", "RemotePaymentCanceled"):
        await make(word)
    assert await found() == []


async def test_every_difference_is_found_and_nothing_is_changed(
    make: Making, kaspi: Kaspi, found: Found, sql: asyncpg.Connection
) -> None:
    expected = []
    for before, there, kind in DIFFERING:
        await make()
        payment = await make(before)
        kaspi.says(payment, there)
        expected.append((kind, payment.id, payment.state, there if isinstance(there, str) else "-1601"))
    rows = "SELECT p::text, (SELECT count(*) FROM payment_log) FROM payment p"
    was = await sql.fetch(rows)
    findings = await found()
    assert [(each.kind, each.payment_id, each.here, each.there) for each in findings] == expected
    assert all(each.differs for each in findings)
    assert await sql.fetch(rows) == was


async def test_error_of_a_paid_payment_is_believed_only_at_a_second_reading(
    make: Making, kaspi: Kaspi, found: Found
) -> None:
    kaspi.says(await make("Processed"), "Error", "Processed")
    assert await found() == []


async def test_payment_that_moved_while_it_was_asked_about_does_not_differ(
    make: Making, kaspi: Kaspi, found: Found, services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await make()
    kaspi.says(payment, "Processed")

    async def move_first(request: httpx.Request) -> httpx.Response:
        wire.get("/status/").mock(side_effect=kaspi.status)
        await services.reading.refresh(payment)
        return await kaspi.status(request)

    wire.get("/status/").mock(side_effect=move_first)
    assert await found() == []
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


async def test_reading_that_fails_is_tried_again(make: Making, kaspi: Kaspi, found: Found) -> None:
    kaspi.says(await make(), DOWN, httpx.ReadTimeout("slow"), "Wait")
    assert await found() == []
    assert len(kaspi.asked) == 3


async def test_payment_that_cannot_be_read_is_listed_as_unread_and_not_as_different(
    make: Making, kaspi: Kaspi, found: Found
) -> None:
    kaspi.says(await make("Processed"), DOWN)
    await make()
    [finding] = await found()
    assert (finding.kind, finding.there, finding.differs) == (Kind.UNREAD, "http_500", False)


async def test_payments_without_an_external_id_are_listed_and_not_asked_about(
    make: Making, kaspi: Kaspi, found: Found, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=httpx.Response(500))
    await make()
    await set_state(sql, await make(), state="sending")
    assert [finding.kind for finding in await found()] == [Kind.UNKNOWN_WITHOUT_ID, Kind.SENDING]
    assert kaspi.asked == []


async def test_failed_payment_that_never_got_an_id_is_no_finding(
    make: Making, found: Found, wire: respx.MockRouter
) -> None:
    wire.get("/create/").mock(return_value=failure(-99000001))
    await make()
    assert await found() == []


async def test_unknown_refund_is_listed_with_its_amount(
    make: Making, found: Found, services: Services, wire: respx.MockRouter
) -> None:
    payment = await make("Processed", tenge=100)
    wire.get("/refund/").mock(return_value=refunded())
    await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money(1000)))
    wire.get("/refund/").mock(return_value=httpx.Response(500))
    refund = (await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money(4050)))).refund
    [finding] = await found()
    assert (finding.kind, finding.refund_id, finding.amount) == (Kind.UNKNOWN_REFUND, refund.id, 4050)
    assert not finding.differs


async def test_payment_of_a_client_is_compared_and_its_missing_amount_is_told(
    shops: dict[int, str], services: Services, kaspi: Kaspi, found: Found
) -> None:
    await services.reports.write(FULL_ACCESS, Report(shop_id=SHOP, operation_type="create", external_id="12700000001"))
    kaspi.words["12700000001"] = ["Processed"]
    [finding] = await found(apply=True)
    assert (finding.kind, finding.became) == (Kind.PAID_THERE_OPEN_HERE, "paid")
    [finding] = await found()
    assert (finding.kind, finding.source) == (Kind.AMOUNT_NOT_REPORTED, "client")


async def test_merged_report_is_not_asked_about(
    make: Making, found: Found, kaspi: Kaspi, services: Services, sql: asyncpg.Connection
) -> None:
    await services.reports.write(FULL_ACCESS, Report(shop_id=SHOP, operation_type="create", external_id="12800000001"))
    await age(sql, -60)
    payment = await make(tenge=100)
    assert payment.external_id == "12800000001"
    assert await found() == []
    assert kaspi.asked == ["12800000001"]


# --- applying


async def test_applied_difference_moves_as_any_reading_does(
    make: Making, kaspi: Kaspi, found: Found, sql: asyncpg.Connection
) -> None:
    kaspi.says(await make(), "Processed")
    [finding] = await found(apply=True)
    assert (finding.here, finding.became, finding.differs) == ("pending", "paid", False)
    assert await audit_of(sql, "status") == [("status", "paid")]
    assert await found(apply=True) == []


async def test_unknown_payment_that_was_cancelled_is_put_right_in_two_moves(
    make: Making, kaspi: Kaspi, found: Found, sql: asyncpg.Connection
) -> None:
    payment = await make()
    kaspi.says(payment, "RemotePaymentCanceled")
    await set_state(sql, payment, state="unknown")
    [finding] = await found(apply=True)
    assert (finding.here, finding.became) == ("unknown", "cancelled")
    assert await audit_of(sql, "status") == [("status", "pending"), ("status", "cancelled")]


async def test_difference_that_no_move_puts_right_stays_for_people(
    make: Making, kaspi: Kaspi, found: Found, sql: asyncpg.Connection
) -> None:
    cases: list[tuple[str | None, str | httpx.Response]]
    cases = [("Processed", "Error"), ("RemotePaymentCanceled", "Processed"), (None, failure(-1601)), (None, "NewWord")]
    payments = []
    for before, there in cases:
        payments.append(await make(before))
        kaspi.says(payments[-1], there)
    audit = await audit_of(sql)
    findings = await found(apply=True)
    assert [(each.payment_id, each.differs) for each in findings] == [(payment.id, True) for payment in payments]
    assert [row["state"] for row in await sql.fetch("SELECT state FROM payment ORDER BY id")] == [
        payment.state for payment in payments
    ]
    assert await audit_of(sql) == audit


async def test_error_that_was_heard_once_is_not_yet_applied(
    make: Making, kaspi: Kaspi, services: Services, sql: asyncpg.Connection
) -> None:
    kaspi.says(await make(), "Error")
    walk = Walk()
    reconciliation = Reconciliation(services.database, services.providers, services.reading)
    await reconciliation.run(ALL, walk, apply=True, stopping=asyncio.Event(), moved_on=lambda: None)
    [finding] = walk.findings
    assert finding.differs
    assert await sql.fetchval("SELECT state FROM payment") == "pending"


# --- the period


async def test_period_holds_its_beginning_and_not_its_end(make: Making, reconciliation: Reconciliation) -> None:
    first, second = await make(), await make()
    assert await reconciliation.count(Period(first.created_at, second.created_at)) == 1
    assert await reconciliation.count(Period(first.created_at, second.created_at + timedelta(microseconds=1))) == 2


async def test_one_shop_is_walked_alone(make: Making, found: Found, kaspi: Kaspi) -> None:
    await make()
    other = await make(shop_id=OTHER_SHOP)
    assert await found(Period(LONG_AGO, FAR_AHEAD, OTHER_SHOP)) == []
    assert kaspi.asked == [other.external_id]


# --- pages, and taking up again


@pytest.fixture
async def twelve(make: Making, sql: asyncpg.Connection) -> list[Payment]:
    """Payments over several pages; some made at the very same moment."""
    payments = [await make() for _ in range(12)]
    for payment in payments[4:9]:
        await set_state(sql, payment, created_at=payments[4].created_at)
    return payments


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PAGE", 3)


def stop_after(count: int, walk: Walk, stopping: asyncio.Event) -> Callable[[], None]:
    return lambda: stopping.set() if walk.done >= count else None


@pytest.mark.usefixtures("small_pages")
async def test_every_payment_is_asked_about_once_over_all_pages(
    twelve: list[Payment], found: Found, kaspi: Kaspi
) -> None:
    assert await found() == []
    assert sorted(kaspi.asked) == sorted(str(payment.external_id) for payment in twelve)
    assert kaspi.most_at_once <= AT_ONCE


@pytest.mark.thorough
@pytest.mark.usefixtures("small_pages")
async def test_walk_that_is_stopped_anywhere_and_taken_up_again_finds_the_same(
    twelve: list[Payment], found: Found, kaspi: Kaspi, reconciliation: Reconciliation
) -> None:
    for payment in twelve[::2]:
        kaspi.says(payment, "Processed")
    undisturbed = await found()
    for count in range(12):
        walk, stopping = Walk(), asyncio.Event()
        stop = stop_after(count, walk, stopping)
        stop()
        assert not await reconciliation.run(ALL, walk, apply=False, stopping=stopping, moved_on=stop)
        assert count <= walk.done <= count + AT_ONCE
        assert await reconciliation.run(ALL, walk, apply=False, stopping=asyncio.Event(), moved_on=lambda: None)
        assert (walk.done, walk.findings) == (12, undisturbed)


async def test_stopping_does_not_wait_for_the_pauses_of_what_cannot_be_read(
    make: Making, kaspi: Kaspi, services: Services
) -> None:
    await make()
    kaspi.says(await make(), DOWN)
    walk, stopping = Walk(), asyncio.Event()
    reconciliation = Reconciliation(services.database, services.providers, services.reading, pauses_s=(3600,))
    ended = await reconciliation.run(ALL, walk, apply=False, stopping=stopping, moved_on=stopping.set)
    assert (ended, walk.done, walk.findings) == (False, 1, [])


async def test_payment_that_was_not_read_before_the_stop_is_read_when_the_walk_goes_on(
    make: Making, kaspi: Kaspi, services: Services, wire: respx.MockRouter
) -> None:
    await make()
    unread, stopping, walk = await make(), asyncio.Event(), Walk()
    kaspi.says(unread, DOWN, "Wait")
    reconciliation = Reconciliation(services.database, services.providers, services.reading, pauses_s=())

    async def stop_then(request: httpx.Request) -> httpx.Response:
        if request.url.params["externalId"] == unread.external_id:
            stopping.set()
        return await kaspi.status(request)

    wire.get("/status/").mock(side_effect=stop_then)
    assert not await reconciliation.run(ALL, walk, apply=False, stopping=stopping, moved_on=lambda: None)
    assert (walk.done, walk.findings) == (1, [])
    assert await reconciliation.run(ALL, walk, apply=False, stopping=asyncio.Event(), moved_on=lambda: None)
    assert (walk.done, walk.findings) == (2, [])


async def test_provider_that_answers_now_and_then_is_not_away(
    make: Making, kaspi: Kaspi, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "AWAY_AFTER", 2)
    for _ in range(3):
        kaspi.says(await make(), DOWN)
        await make()
    assert [finding.kind for finding in await found()] == [Kind.UNREAD] * 3


async def test_walk_ends_when_the_provider_is_away_and_goes_on_where_it_could_read(
    make: Making, kaspi: Kaspi, reconciliation: Reconciliation
) -> None:
    payments = [await make() for _ in range(AWAY_AFTER + 3)]
    for payment in payments[2:]:
        kaspi.says(payment, DOWN)
    walk = Walk()
    with pytest.raises(ProviderAwayError, match="http_500"):
        await reconciliation.run(ALL, walk, apply=False, stopping=asyncio.Event(), moved_on=lambda: None)
    assert (walk.done, walk.findings) == (2, [])
    kaspi.words.clear()
    assert await reconciliation.run(ALL, walk, apply=False, stopping=asyncio.Event(), moved_on=lambda: None)
    assert (walk.done, walk.findings) == (len(payments), [])
