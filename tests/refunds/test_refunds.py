"""Money going back: at most once, never more than was paid, by the route that the payment took."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import (
    DeviceTokenMissing,
    IdempotencyKeyReused,
    PaymentNotFound,
    PaymentNotPaid,
    RefundAlreadyOpen,
    RefundExceedsRemainder,
    StillRunning,
)
from payment_service.money import Money
from payment_service.payments import queries
from payment_service.payments.models import Payment
from payment_service.postgres.vault import new_key
from payment_service.refunds.service import RefundAnswer, RefundRequest
from payment_service.refunds.settling import RefundSettlement
from payment_service.refunds.views import RefundLine
from payment_service.routing.tokens import DeviceTokens
from payment_service.services import Services
from tests.support.alarms import alarms
from tests.support.asking import (
    KEY,
    OTHER_SHOP,
    SHOP,
    TERMINATE_OTHERS,
    TESTS,
    Alarms,
    Gate,
    age,
    ask,
    audit_of,
    busy,
    called,
    id_made,
    paid,
    refunded,
    taking,
)
from tests.support.replies import accepted, failure, status_reply
from tests.support.shops import device_token_of

pytestmark = pytest.mark.usefixtures("shops")


@pytest.fixture
async def payment(services: Services, wire: respx.MockRouter) -> Payment:
    """A paid payment of 100 tenge."""
    return await paid(services, wire)


def give_back(payment: Payment, tenge: int | str | None = 10, **changes: Any) -> RefundRequest:
    amount = None if tenge is None else Money.from_tenge(tenge)
    return RefundRequest(**{"caller": TESTS, "payment": payment, "amount": amount, **changes})


def refunding(wire: respx.MockRouter, reply: httpx.Response | Exception | None = None) -> respx.Route:
    """How the proxy answers every refund."""
    if isinstance(reply, Exception):
        return wire.get("/refund/").mock(side_effect=reply)
    return wire.get("/refund/").mock(return_value=reply or refunded())


async def sums(sql: asyncpg.Connection) -> tuple[int, int]:
    """What the payment says was refunded and what is reserved, in tiyn."""
    row = await sql.fetchrow("SELECT refunded_amount, reserved_amount FROM payment")
    assert row is not None
    return row["refunded_amount"], row["reserved_amount"]


# --- how a refund can end


@pytest.mark.parametrize(
    ("reply", "state", "failed_as", "after"),
    [
        (refunded(), "succeeded", None, (1000, 0)),
        (failure(-99000005), "failed", "rejected", (0, 0)),
        (failure(-99000011), "failed", "rejected", (0, 0)),
        (failure(-99000020), "failed", "rejected", (0, 0)),
        (httpx.Response(403), "failed", "refused", (0, 0)),
        (httpx.ConnectError("refused"), "failed", "not_sent", (0, 0)),
        (failure(-99000006), "unknown", None, (0, 1000)),
        (failure(-999), "unknown", None, (0, 1000)),
        (failure(12345), "unknown", None, (0, 1000)),
        (httpx.Response(500), "unknown", None, (0, 1000)),
        (httpx.Response(200, text="<html>"), "unknown", None, (0, 1000)),
    ],
)
async def test_outcome_frees_an_amount_only_when_nothing_was_paid_back(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    reply: httpx.Response | Exception,
    state: str,
    failed_as: str | None,
    after: tuple[int, int],
) -> None:
    alarms = Alarms()
    refunding(wire, reply)
    answer = await services.refunds.refund(give_back(payment))
    assert (answer.refund.state, answer.refund.failure) == (state, failed_as)
    assert await sums(sql) == after
    assert await audit_of(sql, "refund") == [("refund", state)]
    # Our record says that it is paid, and that much is left.
    contradicted = answer.refund.error_code in {"-99000005", "-99000011"}
    assert alarms["state_contradicted"] == contradicted


async def test_refund_reply_about_another_amount_is_unknown(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    data = {"externalId": payment.external_id, "returnOperationId": 1, "refundedAmount": 99}
    refunding(wire, httpx.Response(200, json={"status": True, "data": data}))
    assert (await services.refunds.refund(give_back(payment))).refund.state == "unknown"
    assert await sums(sql) == (0, 1000)


async def test_refund_reply_that_came_before_is_unknown(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    data = {"externalId": payment.external_id, "returnOperationId": 71, "refundedAmount": 10}
    refunding(wire, httpx.Response(200, json={"status": True, "data": data}))
    first = await services.refunds.refund(give_back(payment, idempotency_key=KEY))
    before = alarms("crossed_reply")
    cached = await services.refunds.refund(give_back(payment, idempotency_key=f"{KEY}-other"))
    assert (first.refund.state, cached.refund.state) == ("succeeded", "unknown")
    assert (cached.refund.error_code, alarms("crossed_reply")) == ("refund_id_of_another_refund", before + 1)
    about = await sql.fetch("SELECT error_message FROM payment_log WHERE refund_id = $1 ORDER BY id", cached.refund.id)
    assert about[-1]["error_message"] == "The reply to this refund named the refund 71, which it is not."
    assert await sums(sql) == (1000, 1000)


async def test_refund_keeps_the_providers_number(services: Services, payment: Payment, wire: respx.MockRouter) -> None:
    data = {"externalId": payment.external_id, "returnOperationId": 777, "refundedAmount": 10}
    refunding(wire, httpx.Response(200, json={"status": True, "data": data}))
    assert (await services.refunds.refund(give_back(payment))).refund.provider_refund_id == "777"


# --- how much


async def test_partial_refunds_repeat_until_nothing_is_left(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = refunding(wire)
    for tenge in ("33.33", "33.34", "33.33"):
        await services.refunds.refund(give_back(payment, tenge, idempotency_key=f"{KEY}-{tenge}-{route.call_count}"))
    assert await sums(sql) == (10_000, 0)
    with pytest.raises(RefundExceedsRemainder) as caught:
        await services.refunds.refund(give_back(payment, "0.01"))
    assert caught.value.extra == {"remaining_amount": 0}
    assert [call.request.url.params["amount"] for call in route.calls] == ["33.33", "33.34", "33.33"]


@pytest.mark.parametrize("tenge", ["100.01", 101, "99999999.99"])
async def test_more_than_what_is_left_is_refused(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, tenge: str
) -> None:
    route = refunding(wire)
    with pytest.raises(RefundExceedsRemainder) as caught:
        await services.refunds.refund(give_back(payment, tenge))
    assert caught.value.extra == {"remaining_amount": 100}
    assert not route.called
    assert await sql.fetchval("SELECT count(*) FROM refund") == 0


async def test_refund_without_an_amount_is_all_that_is_left(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = refunding(wire)
    await services.refunds.refund(give_back(payment, 30))
    await services.refunds.refund(give_back(payment, None))
    assert route.calls.last.request.url.params["amount"] == "70.00"
    with pytest.raises(RefundExceedsRemainder):
        await services.refunds.refund(give_back(payment, None, idempotency_key=KEY))
    assert await sums(sql) == (10_000, 0)


async def test_unknown_refund_keeps_its_amount_from_the_next(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    refunding(wire, httpx.Response(500))
    lost = await services.refunds.refund(give_back(payment, 60))
    assert lost.left == await services.refunds.left_of(lost.payment) == Money.from_tenge(40)
    route = refunding(wire)
    with pytest.raises(RefundExceedsRemainder) as caught:
        await services.refunds.refund(give_back(payment, 50))
    assert caught.value.extra == {"remaining_amount": 40}
    assert route.call_count == 1


# --- the route that the payment took


async def test_refund_uses_the_payments_bin_and_token_whatever_the_routing_says_today(
    services: Services, payment: Payment, wire: respx.MockRouter, shops: dict[int, str]
) -> None:
    await services.routing.update(
        FULL_ACCESS, SHOP, {"organization_bin": shops[OTHER_SHOP], "device_token": "another-token"}
    )
    await services.routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    route = refunding(wire)
    await services.refunds.refund(give_back(payment))
    query = route.calls.last.request.url.params
    assert (query["organizationBin"], query["deviceToken"]) == (shops[SHOP], device_token_of(SHOP))
    assert query["externalId"] == payment.external_id


async def test_payment_made_without_a_token_cannot_be_refunded(services: Services, wire: respx.MockRouter) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": None})
    payment = await paid(services, wire)
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": device_token_of(SHOP)})
    route = refunding(wire)
    with pytest.raises(DeviceTokenMissing):
        await services.refunds.refund(give_back(payment))
    assert not route.called


async def test_token_of_an_old_payment_is_opened_after_the_key_was_rotated(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    old = services.settings.encryption_keys[0].get_secret_value()
    new = new_key()
    async with services.database.transaction() as session:
        await DeviceTokens(type(services.vault)([new, old])).rotate(session)
    routing = replace(services.routing, tokens=DeviceTokens(type(services.vault)([new])))
    route = refunding(wire)
    await replace(services.refunds, routing=routing).refund(give_back(payment))
    assert route.calls.last.request.url.params["deviceToken"] == device_token_of(SHOP)


# --- which payment


@pytest.mark.parametrize("state", ["pending", "failed", "cancelled", "unknown"])
async def test_payment_that_is_not_paid_is_not_refunded(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, state: str
) -> None:
    taking(wire)
    payment = (await services.payments.create(ask())).payment
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        failed_as = "declined" if state == "failed" else None
        await sql.execute("UPDATE payment SET state = $1, failure = $2", state, failed_as)
    route = refunding(wire)
    with pytest.raises(PaymentNotPaid) as caught:
        await services.refunds.refund(give_back(payment))
    assert caught.value.extra == {"state": state}
    assert not route.called


async def test_payment_that_was_paid_meanwhile_is_asked_about_first(services: Services, wire: respx.MockRouter) -> None:
    taking(wire)
    payment = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(return_value=status_reply(str(payment.external_id), "Processed"))
    found = await services.refunds.payment_of(FULL_ACCESS, SHOP, "kaspi", str(payment.external_id))
    assert found.state == "paid"


@pytest.mark.parametrize(("shop_id", "external_id"), [(OTHER_SHOP, None), (SHOP, "999")])
async def test_payment_that_is_not_of_that_shop_is_not_found(
    services: Services, payment: Payment, shop_id: int, external_id: str | None
) -> None:
    with pytest.raises(PaymentNotFound):
        await services.refunds.payment_of(FULL_ACCESS, shop_id, "kaspi", external_id or str(payment.external_id))


async def test_payment_of_another_shop_is_not_refunded(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    route = refunding(wire)
    with pytest.raises(PaymentNotFound):
        await services.refunds.refund(give_back(payment, caller=replace(TESTS, shops=frozenset({OTHER_SHOP}))))
    assert not route.called


# --- never twice


async def test_same_key_and_request_refund_once_however_old(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = refunding(wire)
    first = await services.refunds.refund(give_back(payment, idempotency_key=KEY))
    await age(sql, 10 * 365 * 86400, "refund")
    again = await services.refunds.refund(give_back(payment, idempotency_key=KEY))
    assert (again.replayed, again.refund.id) == (True, first.refund.id)
    assert again.payment.refunded_amount == 1000
    assert route.call_count == 1


@pytest.mark.parametrize("key", [KEY, None])
async def test_refund_that_may_have_left_is_not_sent_again_for_another_caller(
    services: Services, payment: Payment, wire: respx.MockRouter, key: str | None
) -> None:
    route = refunding(wire, httpx.Response(500))
    first = await services.refunds.refund(give_back(payment, idempotency_key=key, caller=called("one")))
    again = await services.refunds.refund(give_back(payment, idempotency_key=key, caller=called("two")))
    assert (again.refund.id, again.refund.state, route.call_count) == (first.refund.id, "unknown", 1)


async def test_key_of_another_refund_is_refused(services: Services, payment: Payment, wire: respx.MockRouter) -> None:
    route = refunding(wire)
    await services.refunds.refund(give_back(payment, idempotency_key=KEY))
    for tenge in (11, None):
        with pytest.raises(IdempotencyKeyReused):
            await services.refunds.refund(give_back(payment, tenge, idempotency_key=KEY))
    assert route.call_count == 1


async def test_equal_refund_under_another_key_waits_until_the_end_of_the_first_is_known(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    """A page that is loaded anew makes another key, and nobody can tell its refund from the first one."""
    gate = Gate(httpx.Response(500))
    wire.get("/refund/").mock(side_effect=gate)
    first = asyncio.create_task(services.refunds.refund(give_back(payment, idempotency_key=KEY)))
    await gate.reached.wait()
    again = give_back(payment, idempotency_key="another-key", caller=called("another"))
    with pytest.raises(RefundAlreadyOpen) as sending:
        await services.refunds.refund(again)
    gate.open.set()
    made = (await first).refund
    with pytest.raises(RefundAlreadyOpen) as unknown:
        await services.refunds.refund(again)
    told = [{"refund_id": str(made.id), "state": state} for state in ("sending", "unknown")]
    assert ([sending.value.extra, unknown.value.extra], gate.calls) == (told, 1)
    refunding(wire)
    third = await services.refunds.refund(give_back(payment, 11, idempotency_key="a-third"))
    assert third.refund.state == "succeeded"
    await age(sql, 301, "refund")
    await services.refund_settling.settle(FULL_ACCESS, made.id, RefundSettlement(succeeded=False, reason="not there"))
    assert (await services.refunds.refund(again)).refund.state == "succeeded"


@pytest.mark.parametrize("key", [KEY, None])
async def test_refund_that_still_runs_says_so(
    services: Services, payment: Payment, wire: respx.MockRouter, key: str | None
) -> None:
    gate = Gate(refunded())
    wire.get("/refund/").mock(side_effect=gate)
    first = asyncio.create_task(services.refunds.refund(give_back(payment, idempotency_key=key)))
    await gate.reached.wait()
    with pytest.raises(StillRunning):
        await services.refunds.refund(give_back(payment, idempotency_key=key))
    gate.open.set()
    assert (await first).refund.state == "succeeded"
    assert gate.calls == 1


@pytest.mark.parametrize("key", [KEY, None])
async def test_fifty_equal_refunds_at_once_are_one_call(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, key: str | None
) -> None:
    route = refunding(wire)
    requests = [give_back(payment, 2, idempotency_key=key) for _ in range(50)]
    ended = await asyncio.gather(*(services.refunds.refund(request) for request in requests), return_exceptions=True)
    assert route.call_count == 1
    assert all(isinstance(end, RefundAnswer) or busy(end) for end in ended)
    assert await sums(sql) == (200, 0)


@pytest.mark.parametrize("key", [KEY, None])
async def test_refund_that_was_not_sent_may_be_asked_again(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, key: str | None
) -> None:
    refunding(wire, httpx.ConnectError("refused"))
    await services.refunds.refund(give_back(payment, idempotency_key=key))
    wire.get("/refund/").mock(side_effect=[refunded()])
    for _ in range(2):
        assert (await services.refunds.refund(give_back(payment, idempotency_key=key))).refund.state == "succeeded"
    assert await sums(sql) == (1000, 0)


@pytest.mark.parametrize(("seconds", "calls"), [(55, 1), (61, 2)])
async def test_window_for_refunds_without_a_key_ends(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, seconds: int, calls: int
) -> None:
    route = refunding(wire)
    await services.refunds.refund(give_back(payment))
    await age(sql, seconds, "refund")
    await services.refunds.refund(give_back(payment, id=id_made(seconds)))
    assert route.call_count == calls


async def test_equal_refund_of_another_caller_is_another_refund(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    route = refunding(wire)
    for caller in ("one", "two"):
        await services.refunds.refund(give_back(payment, caller=called(caller)))
    assert route.call_count == 2


# --- the process dies, the database goes away


@pytest.mark.parametrize("age_s", [31, -18_000])
async def test_refund_whose_sender_died_is_unknown_and_stays_reserved(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, age_s: int
) -> None:
    gate = Gate(refunded())
    wire.get("/refund/").mock(side_effect=gate)
    task = asyncio.create_task(services.refunds.refund(give_back(payment)))
    await gate.reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await services.refund_settling.mark_lost_unknown() == 0
    await age(sql, age_s, "refund")
    assert await services.refund_settling.mark_lost_unknown() == 1
    assert await sql.fetchval("SELECT state FROM refund") == "unknown"
    assert await sums(sql) == (0, 1000)
    assert await audit_of(sql, "refund") == [("refund", "unknown")]


@pytest.mark.parametrize(
    ("reply", "state", "after"),
    [
        (refunded(), "succeeded", (1000, 0)),
        (failure(-99000005), "failed", (0, 0)),
        (failure(-999), "unknown", (0, 1000)),
    ],
)
async def test_refund_outcome_that_comes_after_the_lease_is_still_written(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    reply: httpx.Response,
    state: str,
    after: tuple[int, int],
) -> None:
    gate = Gate(reply)
    wire.get("/refund/").mock(side_effect=gate)
    task = asyncio.create_task(services.refunds.refund(give_back(payment)))
    await gate.reached.wait()
    await age(sql, 31, "refund")
    await services.refund_settling.mark_lost_unknown()
    gate.open.set()
    assert (await task).refund.state == state
    assert await sums(sql) == after


async def test_database_that_went_away_during_the_refund_gets_the_outcome(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(refunded())
    wire.get("/refund/").mock(side_effect=gate)
    task = asyncio.create_task(services.refunds.refund(give_back(payment)))
    await gate.reached.wait()
    await sql.execute(TERMINATE_OTHERS)
    gate.open.set()
    assert (await task).refund.state == "succeeded"
    assert await sums(sql) == (1000, 0)
    assert await audit_of(sql, "refund") == [("refund", "succeeded")]


async def test_refunds_are_listed_oldest_first(services: Services, payment: Payment, wire: respx.MockRouter) -> None:
    refunding(wire)
    made = [(await services.refunds.refund(give_back(payment, tenge))).refund.id for tenge in (1, 2, 3)]
    assert [refund.id for refund in await services.refunds.of_payment(payment.id)] == made


async def test_refund_does_not_change_the_state_of_its_payment(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    refunding(wire)
    await services.refunds.refund(give_back(payment, None))
    async with services.database.reading() as session:
        found = await queries.by_external_id(session, "kaspi", str(payment.external_id))
    assert found is not None
    assert (found.state, found.status) == ("paid", "Processed")


async def test_event_of_a_refund_shows_its_payment_as_paid_however_early_it_was_read(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    early = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(return_value=status_reply(str(early.external_id), "Processed"))
    now = await services.reading.refresh(await services.reading.get(TESTS, early.id))
    refunding(wire)
    await services.refunds.refund(give_back(early))
    told = json.loads(await sql.fetchval("SELECT data -> 'payment' FROM event WHERE type = 'refund.succeeded'"))
    assert (told["state"], told["status"]) == ("paid", "Processed")
    assert datetime.fromisoformat(told["moved_at"]) == now.moved_at


async def test_event_of_a_refund_shows_it_as_get_does(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    refunding(wire)
    made = (await services.refunds.refund(give_back(payment))).refund
    told = json.loads(await sql.fetchval("SELECT data FROM event WHERE type = 'refund.succeeded'"))
    del told["payment"]
    assert set(told) == set(RefundLine.model_fields)
    assert RefundLine.model_validate(told) == RefundLine.of(made)


async def test_refund_of_one_payment_leaves_another_alone(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(side_effect=[accepted(555)])
    other = (await services.payments.create(ask(200))).payment
    refunding(wire)
    await services.refunds.refund(give_back(payment))
    assert await sql.fetchval("SELECT refunded_amount FROM payment WHERE id = $1", other.id) == 0
