"""Payments that clients made themselves: adopted once, completed once, believed by nobody, and in nobody's way."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.audit.models import AuditEntry
from payment_service.errors import (
    DeviceTokenMissing,
    PaymentIncomplete,
    PaymentNotFound,
    PaymentNotPaid,
    RefundExceedsRemainder,
    ShopNotConfigured,
    StillRunning,
)
from payment_service.money import Money
from payment_service.observability.context import Origin, origin
from payment_service.payments import queries
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves
from payment_service.payments.polling import Polling
from payment_service.providers.kaspi.mapping import NO_MONEY_MOVED
from payment_service.refunds.service import RefundAnswer, RefundRequest, Refunds
from payment_service.reports.service import Report
from payment_service.services import Services
from tests.support.asking import (
    KEY,
    OTHER_SHOP,
    SHOP,
    TESTS,
    Alarms,
    Gate,
    age,
    ask,
    audit_of,
    called,
    payments_of,
    refunded,
    two_shops,
)
from tests.support.due_work import work_off
from tests.support.replies import accepted, failure, status_reply
from tests.support.shops import SHOPS, device_token_of

pytestmark = pytest.mark.usefixtures("shops")
ID = "12800627774"
OWN_BIN, FOREIGN_BIN = SHOPS[SHOP], "891027350515"
WHOLE: dict[str, Any] = {"organization_bin": OWN_BIN, "amount": 10_000}


@pytest.fixture
async def shops(services: Services) -> dict[int, str]:
    """The two shops that these tests ask for."""
    return await two_shops(services)


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


async def report(
    services: Services, operation_type: str = "create", caller: Caller = FULL_ACCESS, **told: Any
) -> AuditEntry:
    words = {"shop_id": SHOP, "external_id": ID, **told}
    return await services.reports.write(caller, Report(operation_type=operation_type, **words))


async def adopted(services: Services, **told: Any) -> Payment:
    """The only payment, after this report."""
    await report(services, **told)
    [payment] = await payments_of(services)
    return payment


async def report_of_what_is_made_next(services: Services, sql: asyncpg.Connection, **told: Any) -> None:
    """A client's report that comes before the reply to the payment that it is of, and after its intent."""
    await report(services, **told)
    await age(sql, -60)


def tells(wire: respx.MockRouter, status: str) -> respx.Route:
    route = wire.get("/status/").mock(return_value=status_reply(ID, status))
    route.side_effect = None
    return route


async def planned(sql: asyncpg.Connection) -> int:
    """How many payments are asked about again."""
    return int(await sql.fetchval("SELECT count(*) FROM payment WHERE next_check_at IS NOT NULL"))


# --- adopting


async def test_payment_that_nobody_knows_is_adopted_and_asked_about_at_once(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await adopted(services, **WHOLE)
    assert (payment.source, payment.state, payment.external_id) == ("client", "unknown", ID)
    assert (payment.organization_bin, payment.amount, payment.method) == (OWN_BIN, 10_000, "phone")
    assert await planned(sql) == 1
    tells(wire, "Wait")
    await work_off(services.polling)
    assert await audit_of(sql) == [("create", None), ("status", "pending")]
    tells(wire, "Processed")
    await sql.execute("UPDATE payment SET next_check_at = now()")
    await work_off(services.polling)
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


async def test_what_the_client_says_of_its_state_is_not_believed(services: Services) -> None:
    payment = await adopted(services, status="Processed", **WHOLE)
    assert (payment.state, payment.status) == ("unknown", None)


@pytest.mark.parametrize("told", [{"external_id": None}, {"provider": "halyk"}], ids=str)
async def test_report_of_what_cannot_be_asked_about_is_only_written_down(
    services: Services, sql: asyncpg.Connection, told: dict[str, Any]
) -> None:
    await report(services, **told)
    assert await payments_of(services) == []
    assert await audit_of(sql) == [("create", None)]


async def test_report_of_a_foreign_shop_leaves_no_trace(services: Services, sql: asyncpg.Connection) -> None:
    with pytest.raises(ShopNotConfigured):
        await report(services, caller=Caller("other", FULL_ACCESS.scopes, frozenset({OTHER_SHOP})))
    assert (await payments_of(services), await audit_of(sql)) == ([], [])


async def test_report_of_a_key_of_some_shops_is_kept_and_nothing_is_adopted(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    own = Caller("own", FULL_ACCESS.scopes, frozenset({SHOP}))
    entry = await report(services, caller=own, **WHOLE)
    assert (entry.payment_id, await payments_of(services), await audit_of(sql)) == (None, [], [("create", None)])
    adopted_since = await adopted(services)
    entry = await report(services, caller=own)
    assert entry.payment_id == adopted_since.id


async def test_payment_that_the_provider_never_heard_of_stays_unknown_and_a_task(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await adopted(services)
    wire.get("/status/").mock(return_value=failure(-99000001))
    await work_off(services.polling)
    assert await sql.fetchrow("SELECT state, unread FROM payment") == ("unknown", 0)
    assert [task.id for task in await services.settling.tasks(FULL_ACCESS)] == [payment.id]


@pytest.mark.parametrize("shop_id", [SHOP, OTHER_SHOP])
async def test_report_of_a_payment_of_ours_changes_nothing_of_it(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms, shop_id: int
) -> None:
    wire.get("/create/").mock(return_value=accepted(ID))
    payment = (await services.payments.create(ask())).payment
    await report(services, shop_id=shop_id, amount=1, organization_bin=FOREIGN_BIN, status="Error")
    [after] = await payments_of(services)
    assert (after.amount, after.organization_bin, after.status) == (10_000, OWN_BIN, "Wait")
    of_payment = await sql.fetchval("SELECT payment_id FROM payment_log WHERE source = 'client'")
    assert of_payment == (payment.id if shop_id == SHOP else None)
    # Whoever is right: one of the two is told of the other's payment.
    assert alarms["report_of_another_shop"] == (shop_id != SHOP)


# --- completing


@pytest.mark.parametrize(
    ("operation_type", "told", "kept"),
    [
        ("create", {"amount": 500}, ("phone", 500, None)),
        ("create-link", {"amount": 500}, ("link", 500, None)),
        ("create", {"amount": 0}, ("phone", None, None)),
        ("create", {}, ("phone", None, None)),
        ("refund", {"amount": 500}, (None, None, None)),
        ("status", {"amount": 500, "organization_bin": OWN_BIN}, (None, None, OWN_BIN)),
        ("create", {"organization_bin": "920317450732"}, ("phone", None, None)),
        ("create", {"organization_bin": "000000000000"}, ("phone", None, None)),
        ("create", {"organization_bin": FOREIGN_BIN}, ("phone", None, FOREIGN_BIN)),
    ],
    ids=str,
)
async def test_only_what_a_report_says_for_certain_is_kept(
    services: Services, operation_type: str, told: dict[str, Any], kept: tuple[Any, ...]
) -> None:
    payment = await adopted(services, operation_type=operation_type, **told)
    assert (payment.method, payment.amount, payment.organization_bin) == kept


async def test_later_report_adds_what_is_missing_and_changes_nothing(services: Services) -> None:
    await report(services, "status")
    await report(services, amount=500)
    payment = await adopted(services, operation_type="create-link", amount=900, organization_bin=OWN_BIN)
    assert (payment.method, payment.amount, payment.organization_bin) == ("phone", 500, OWN_BIN)
    await report(services, amount=1, organization_bin=FOREIGN_BIN)
    [after] = await payments_of(services)
    assert (after.amount, after.organization_bin, after.device_token_id) == (500, OWN_BIN, payment.device_token_id)


async def test_bin_that_never_was_this_shops_is_told_and_opens_no_account(services: Services, alarms: Alarms) -> None:
    payment = await adopted(services, organization_bin=SHOPS[OTHER_SHOP])
    assert (payment.organization_bin, payment.route_version, payment.device_token_id) == (SHOPS[OTHER_SHOP], None, None)
    assert alarms["foreign_bin_reported"] == 1


async def test_bin_that_was_this_shops_opens_its_account_of_then(services: Services, alarms: Alarms) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"organization_bin": FOREIGN_BIN, "device_token": "another-token"})
    payment = await adopted(services, organization_bin=OWN_BIN)
    async with services.database.reading() as session:
        assert await services.routing.tokens.of(session, payment.device_token_id) == device_token_of(SHOP)
    assert alarms["foreign_bin_reported"] == 0


# --- refunds of adopted payments


async def refund(services: Services, tenge: int | None = None, **changes: Any) -> RefundAnswer:
    payment = await services.refunds.payment_of(FULL_ACCESS, SHOP, "kaspi", ID)
    amount = None if tenge is None else Money.from_tenge(tenge)
    return await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=amount, **changes))


async def test_adopted_payment_is_refunded_by_the_account_that_took_it(
    services: Services, wire: respx.MockRouter
) -> None:
    await report(services, **WHOLE)
    await services.routing.update(FULL_ACCESS, SHOP, {"organization_bin": FOREIGN_BIN, "device_token": "another-token"})
    tells(wire, "Processed")
    route = wire.get("/refund/").mock(return_value=refunded())
    answer = await refund(services)
    assert (answer.refund.state, answer.refund.amount) == ("succeeded", 10_000)
    query = route.calls.last.request.url.params
    assert (query["organizationBin"], query["deviceToken"]) == (OWN_BIN, device_token_of(SHOP))
    with pytest.raises(RefundExceedsRemainder):
        await refund(services, 1)
    assert route.call_count == 1


async def test_what_a_client_paid_back_itself_is_not_paid_back_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    """The provider would: it refuses only what exceeds the payment."""
    await report(services, **WHOLE)
    tells(wire, "Processed")
    route = wire.get("/refund/").mock(return_value=refunded())
    await report(services, "refund", amount=2_000)
    lost, refused = "Outcome unknown: the page ended before Kaspi answered.", "Kaspi -99000011: not paid"
    await report(services, "Refund", amount=1_000, error_message=lost, provider="Kaspi")
    await report(services, "refund", amount=1_000, error_message="cURL error 28: Operation timed out")
    await report(services, "refund", amount=2_000, error_message=refused)
    await report(services, "refund", amount=2_000, shop_id=OTHER_SHOP)
    with pytest.raises(RefundExceedsRemainder, match="60"):
        await refund(services, 61)
    answer = await refund(services)
    assert (answer.refund.amount, answer.left) == (6_000, Money(0))
    await sql.execute(
        "INSERT INTO payment_log (shop_id, operation_type, external_id, amount, actor, source)"
        " VALUES (NULL, 'refund', $1, 90000, 'legacy', 'legacy')",
        ID,
    )
    with pytest.raises(RefundExceedsRemainder):
        await refund(services, 1)
    assert route.call_count == 1


async def test_refund_that_is_reported_again_under_another_api_key_is_counted_once(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    """A journal is sent again after a key was replaced; what differs, or names no payment, is another report."""
    await report(services, **WHOLE)
    tells(wire, "Processed")
    for actor in ("bitrix", "bitrix-2"):
        token = origin.set(Origin(actor))
        try:
            caller = called(actor)
            await report(services, "refund", caller, amount=2_000, report_id="r1")
            await report(services, "refund", caller, amount=2_000, report_id="r2", error_message=actor)
            await report(services, "refund", caller, amount=2_000, report_id="r3", external_id=None)
        finally:
            origin.reset(token)
    kept = await sql.fetch("SELECT report_id, count(*)::int AS lines FROM report_taken GROUP BY report_id ORDER BY 1")
    assert [tuple(row) for row in kept] == [("r1", 1), ("r2", 2), ("r3", 2)]
    with pytest.raises(RefundExceedsRemainder, match="40"):
        await refund(services, 41)


NOTHING_PAID_BACK = (
    *(f"Kaspi {code}: no" for code in NO_MONEY_MOVED),
    '{"-99000005": "refund exceeds"}',
    "HTTP 403 without an answer of Kaspi",
    "Nothing was sent: Timeout was reached (curl 28)",
    "Couldn't connect to server (curl 7)",
    "cURL error 6: Could not resolve host",
)
MAY_HAVE_BEEN_PAID_BACK = (
    "Outcome unknown: Kaspi -999: after -1501",
    "Kaspi -999: technical",
    "Kaspi -99000006: try again or call the bank",
    "Kaspi -9900000: a code that nobody knows",
    "Kaspi -15011",
    "took 1501 ms",
    "2026-1501",
    "HTTP 500 without an answer of Kaspi",
    "read HTTP 403 from a proxy after a reset",
    "Timeout was reached (curl 28)",
    "cURL error 52: Empty reply from server",
    "Error",
    "",
)


async def test_only_an_error_that_says_so_means_that_nothing_was_paid_back(sql: asyncpg.Connection) -> None:
    said = [*NOTHING_PAID_BACK, *MAY_HAVE_BEEN_PAID_BACK]
    rows = await sql.fetch("SELECT text FROM unnest($1::text[]) AS text WHERE refund_was_refused(text)", said)
    assert {row["text"] for row in rows} == set(NOTHING_PAID_BACK)


NULL_THEN: dict[str, list[dict[str, Any]]] = {
    "nothing": [],
    "another": [{}, {"amount": 2_000}],
    "what a page began": [{"error_message": "Outcome unknown: the page ended before Kaspi answered."}],
}


@pytest.mark.parametrize("then", NULL_THEN)
async def test_refund_that_a_client_reports_without_its_amount_may_be_of_everything(
    services: Services, wire: respx.MockRouter, then: str
) -> None:
    await report(services, **WHOLE)
    tells(wire, "Processed")
    for told in ({}, *NULL_THEN[then]):
        await report(services, "refund", **told)
    with pytest.raises(RefundExceedsRemainder, match="without its amount"):
        await refund(services, 1)


@pytest.mark.parametrize(("answer", "left"), [({"amount": 2_000}, 8_000), ({"error_message": "Kaspi -1501"}, 10_000)])
async def test_amount_that_is_reported_later_is_what_a_client_paid_back(
    services: Services, wire: respx.MockRouter, answer: dict[str, Any], left: int
) -> None:
    await report(services, **WHOLE)
    tells(wire, "Processed")
    await report(services, "refund")
    await report(services, "refund", **answer)
    wire.get("/refund/").mock(return_value=refunded())
    assert (await refund(services)).refund.amount == left


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({}, PaymentIncomplete),
        ({"amount": 10_000}, PaymentIncomplete),
        ({"amount": 0, "organization_bin": OWN_BIN}, PaymentIncomplete),
        ({"organization_bin": OWN_BIN}, PaymentIncomplete),
        ({"amount": 10_000, "organization_bin": "920317450732"}, PaymentIncomplete),
        ({"amount": 10_000, "organization_bin": SHOPS[OTHER_SHOP]}, DeviceTokenMissing),
    ],
    ids=str,
)
async def test_adopted_payment_without_its_account_or_amount_is_not_refunded(
    services: Services, wire: respx.MockRouter, told: dict[str, Any], error: type[Exception]
) -> None:
    await report(services, **told)
    tells(wire, "Processed")
    route = wire.get("/refund/").mock(return_value=refunded())
    with pytest.raises(error):
        await refund(services, 1)
    assert not route.called


async def test_adopted_payment_that_is_not_paid_is_not_refunded(services: Services, wire: respx.MockRouter) -> None:
    await report(services, **WHOLE)
    tells(wire, "Wait")
    with pytest.raises(PaymentNotPaid):
        await refund(services)


async def test_adopted_payment_of_another_shop_is_not_refunded(services: Services) -> None:
    await report(services, shop_id=OTHER_SHOP)
    with pytest.raises(PaymentNotFound):
        await refund(services)


async def test_shop_that_had_no_token_when_it_took_the_payment_has_none_for_its_refund(
    services: Services, wire: respx.MockRouter
) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": None})
    await report(services, **WHOLE)
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": device_token_of(SHOP)})
    tells(wire, "Processed")
    with pytest.raises(DeviceTokenMissing):
        await refund(services)


# --- a report never keeps a payment of ours from its id


async def test_report_yields_to_the_payment_that_it_is_of(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    await report_of_what_is_made_next(services, sql, **WHOLE)
    wire.get("/create/").mock(return_value=accepted(ID))
    payment = (await services.payments.create(ask())).payment
    assert (payment.state, payment.external_id, alarms["crossed_reply"]) == ("pending", ID, 0)
    new, old = await payments_of(services)
    assert (old.same_as, old.next_check_at, old.state, new.id) == (payment.id, None, "unknown", payment.id)
    assert await audit_of(sql) == [("create", None), ("merge", None), ("create", "pending")]
    await report(services, status="Processed")
    assert await sql.fetchval("SELECT payment_id FROM payment_log ORDER BY id DESC LIMIT 1") == payment.id


@pytest.mark.parametrize(
    "told",
    [{"amount": 10_001}, {"shop_id": OTHER_SHOP}, {"organization_bin": SHOPS[OTHER_SHOP]}],
    ids=str,
)
async def test_reply_that_names_a_reported_payment_which_is_another_one_is_crossed(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms, told: dict[str, Any]
) -> None:
    await report_of_what_is_made_next(services, sql, **told)
    wire.get("/create/").mock(return_value=accepted(ID))
    payment = (await services.payments.create(ask())).payment
    assert (payment.state, payment.external_id) == ("unknown", None)
    assert alarms["crossed_reply"] == 1


async def test_reply_that_names_what_was_reported_before_is_crossed(
    services: Services, wire: respx.MockRouter, alarms: Alarms
) -> None:
    tells(wire, "Processed")
    await report(services, **WHOLE)
    await work_off(services.polling)
    wire.get("/create/").mock(return_value=accepted(ID))
    payment = (await services.payments.create(ask())).payment
    # The client's own payment is paid, and ours is not: it has another id, which nobody knows.
    assert (payment.state, payment.external_id, alarms["crossed_reply"]) == ("unknown", None, 1)


@pytest.mark.parametrize("reply", [refunded(), httpx.Response(500)], ids=["refunded", "maybe refunded"])
async def test_report_that_was_refunded_keeps_its_id(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms, reply: httpx.Response
) -> None:
    await report_of_what_is_made_next(services, sql, **WHOLE)
    tells(wire, "Processed")
    wire.get("/refund/").mock(return_value=reply)
    await refund(services, 1)
    wire.get("/create/").mock(return_value=accepted(ID))
    assert (await services.payments.create(ask())).payment.state == "unknown"
    assert alarms["crossed_reply"] == 1


async def test_of_two_payments_with_one_reply_only_the_first_gets_the_reports_id(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    await report_of_what_is_made_next(services, sql)
    wire.get("/create/").mock(return_value=accepted(ID))
    made = await asyncio.gather(*(services.payments.create(ask(tenge)) for tenge in (1, 2, 3)))
    assert sorted(answer.payment.state for answer in made) == ["pending", "unknown", "unknown"]
    assert alarms["crossed_reply"] == 2


# --- races


async def test_two_reports_at_once_adopt_once(services: Services, sql: asyncpg.Connection) -> None:
    told: list[dict[str, Any]] = [
        {},
        {"amount": 10_000},
        {"organization_bin": OWN_BIN},
        {"operation_type": "status"},
        {"amount": 10_000},
    ]
    await asyncio.gather(*(report(services, **one) for one in told))
    [payment] = await payments_of(services)
    assert (payment.amount, payment.organization_bin) == (10_000, OWN_BIN)
    assert await sql.fetchval("SELECT count(*) FROM payment_log WHERE payment_id = $1", payment.id) == len(told)
    assert await planned(sql) == 1


async def test_reports_of_two_shops_at_once_belong_to_one_of_them(services: Services, sql: asyncpg.Connection) -> None:
    await asyncio.gather(*(report(services, shop_id=shop_id, **WHOLE) for shop_id in (SHOP, OTHER_SHOP) * 3))
    [payment] = await payments_of(services)
    rows = await sql.fetch("SELECT shop_id, payment_id FROM payment_log WHERE subject IS NULL")
    assert {row["shop_id"] for row in rows if row["payment_id"]} == {payment.shop_id}


async def test_reports_while_the_same_payment_is_being_made_leave_it_its_id(
    services: Services, wire: respx.MockRouter, alarms: Alarms
) -> None:
    gate = Gate(accepted(ID))
    wire.get("/create/").mock(side_effect=gate)
    making = asyncio.create_task(services.payments.create(ask()))
    await gate.reached.wait()
    reporting = [asyncio.create_task(report(services, **WHOLE)) for _ in range(8)]
    gate.open.set()
    assert (await making).payment.external_id == ID
    await asyncio.gather(*reporting)
    assert sum(payment.same_as is None for payment in await payments_of(services)) == 1
    assert alarms["crossed_reply"] == 0


Arm = Callable[[], None]


@pytest.fixture
def merge_meanwhile(services: Services, wire: respx.MockRouter, monkeypatch: pytest.MonkeyPatch) -> Arm:
    """Once armed: our payment takes the report's id just before somebody writes over what they have read."""
    wire.get("/create/").mock(return_value=accepted(ID))
    merging: list[bool] = []

    def first(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def merge_first(*args: Any, **more: Any) -> Any:
            if not merging:
                merging.append(True)
                assert (await services.payments.create(ask())).payment.external_id == ID
            return await original(*args, **more)

        return merge_first

    def arm() -> None:
        for owner, name in (
            (queries, "locked"),
            (Moves, "apply"),
            (Refunds, "_try_intent"),
            (Polling, "_write_reading"),
        ):
            monkeypatch.setattr(owner, name, first(getattr(owner, name)))

    return arm


async def standing(sql: asyncpg.Connection) -> dict[str, tuple[str, bool | None]]:
    """The state of the report and of our payment, and whether it is their turn."""
    rows = await sql.fetch("SELECT source, state, next_check_at <= now() AS due FROM payment")
    return {row["source"]: (row["state"], row["due"]) for row in rows}


async def test_hint_about_a_report_that_is_merged_meanwhile_is_one_about_the_payment(
    services: Services, sql: asyncpg.Connection, merge_meanwhile: Arm
) -> None:
    await report_of_what_is_made_next(services, sql)
    merge_meanwhile()
    await services.polling.hint("kaspi", ID, shop_id=SHOP)
    assert await standing(sql) == {"client": ("unknown", None), "service": ("pending", True)}


async def test_reading_of_a_report_that_is_merged_meanwhile_is_one_of_the_payment(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, merge_meanwhile: Arm
) -> None:
    await report_of_what_is_made_next(services, sql)
    tells(wire, "Processed")
    merge_meanwhile()
    found = await services.reading.status(FULL_ACCESS, "kaspi", ID)
    assert isinstance(found, Payment)
    assert (found.source, found.state) == ("service", "paid")
    assert await standing(sql) == {"client": ("unknown", None), "service": ("paid", None)}


@pytest.mark.parametrize("reply", [status_reply(ID, "Processed"), httpx.Response(500)])
async def test_turn_of_a_report_that_is_merged_meanwhile_ends(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, merge_meanwhile: Arm, reply: httpx.Response
) -> None:
    await report_of_what_is_made_next(services, sql)
    wire.get("/status/").mock(return_value=reply)
    merge_meanwhile()
    await work_off(services.polling)
    assert await standing(sql) == {"client": ("unknown", None), "service": ("pending", False)}


async def test_report_of_a_report_that_is_merged_meanwhile_is_one_of_the_payment(
    services: Services, sql: asyncpg.Connection, merge_meanwhile: Arm
) -> None:
    await report_of_what_is_made_next(services, sql, operation_type="status")
    merge_meanwhile()
    await report(services, amount=1, organization_bin=FOREIGN_BIN)
    new, old = await payments_of(services)
    assert (old.amount, new.amount, new.organization_bin) == (None, 10_000, OWN_BIN)
    assert await sql.fetchval("SELECT payment_id FROM payment_log ORDER BY id DESC LIMIT 1") == new.id


async def test_refund_of_a_report_that_is_merged_meanwhile_is_asked_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, merge_meanwhile: Arm
) -> None:
    await report_of_what_is_made_next(services, sql, **WHOLE)
    tells(wire, "Processed")
    await services.reading.status(FULL_ACCESS, "kaspi", ID)
    route = wire.get("/refund/").mock(return_value=refunded())
    merge_meanwhile()
    with pytest.raises(StillRunning):
        await refund(services, 1, idempotency_key=KEY)
    assert not route.called
    assert (await refund(services, 1, idempotency_key=KEY)).payment.source == "service"


async def test_report_that_is_merged_meanwhile_is_not_merged_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, merge_meanwhile: Arm, alarms: Alarms
) -> None:
    await report_of_what_is_made_next(services, sql)
    merge_meanwhile()
    assert (await services.payments.create(ask(order_id="another"))).payment.state == "unknown"
    assert alarms["crossed_reply"] == 1


async def test_hint_about_a_merged_report_reaches_the_payment(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await report_of_what_is_made_next(services, sql)
    wire.get("/create/").mock(return_value=accepted(ID))
    await services.payments.create(ask())
    await services.polling.hint("kaspi", ID, shop_id=SHOP)
    assert await standing(sql) == {"client": ("unknown", None), "service": ("pending", True)}
