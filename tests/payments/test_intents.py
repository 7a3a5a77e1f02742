"""Never twice, and never on yesterday's route: what happens before the one call."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import (
    DatabaseUnavailable,
    DeviceTokenMissing,
    IdempotencyKeyReused,
    NotAuthenticated,
    OrderAlreadyOpen,
    OrderAlreadyPaid,
    ShopInactive,
    ShopNotConfigured,
    StillRunning,
)
from payment_service.identifiers import new_id
from payment_service.money import Money
from payment_service.payments.lifecycle import State
from payment_service.payments.phones import PhoneLimit
from payment_service.payments.service import Payments
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.rates import Rate
from payment_service.refunds.service import RefundAnswer, RefundRequest
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.asking import (
    KEY,
    OTHER_SHOP,
    PHONE,
    SHOP,
    TESTS,
    Gate,
    age,
    all_of,
    ask,
    audit_of,
    busy,
    called,
    id_made,
    paid,
    refunded,
    taking,
)
from tests.support.books import beyond_the_law, change_by_hand
from tests.support.replies import accepted, failure
from tests.support.shops import device_token_of
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
REFUSED = httpx.ConnectError("nobody listens")


@pytest.fixture
def payments(services: Services) -> Payments:
    return services.payments


# --- Idempotency-Key


@pytest.mark.parametrize("link", [False, True])
async def test_same_key_and_request_give_the_first_payment_again(
    payments: Payments, wire: respx.MockRouter, link: bool
) -> None:
    route = taking(wire, link=link)
    phone = None if link else PHONE
    first = await payments.create(ask(idempotency_key=KEY, phone=phone))
    again = await payments.create(ask(idempotency_key=KEY, phone=phone))
    assert (first.replayed, again.replayed) == (False, True)
    assert again.payment.id == first.payment.id
    assert route.call_count == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"tenge": 101},
        {"phone": "77015211546"},
        {"message": "Other flowers"},
        {"shop_id": OTHER_SHOP},
        {"order_id": "order-1"},
        {"phone": None},
    ],
)
async def test_key_of_another_request_is_refused(
    payments: Payments, wire: respx.MockRouter, changes: dict[str, Any]
) -> None:
    route = taking(wire)
    await payments.create(ask(idempotency_key=KEY))
    with pytest.raises(IdempotencyKeyReused):
        await payments.create(ask(idempotency_key=KEY, **changes))
    assert route.call_count == 1


async def test_key_whose_request_still_runs_says_so(payments: Payments, wire: respx.MockRouter) -> None:
    gate = Gate(accepted())
    route = wire.get("/create/").mock(side_effect=gate)
    first = asyncio.create_task(payments.create(ask(idempotency_key=KEY)))
    await gate.reached.wait()
    with pytest.raises(StillRunning):
        await payments.create(ask(idempotency_key=KEY))
    gate.open.set()
    assert (await first).payment.id == (await payments.create(ask(idempotency_key=KEY))).payment.id
    assert route.call_count == 1


async def test_key_stands_for_its_payment_however_old(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    first = await payments.create(ask(idempotency_key=KEY))
    for table in ("payment", "idempotency_claim"):
        await age(sql, 10 * 365 * 86400, table)
    assert (await payments.create(ask(idempotency_key=KEY))).payment.id == first.payment.id
    assert route.call_count == 1


async def test_request_is_known_by_its_key_whoever_sends_it(payments: Payments, wire: respx.MockRouter) -> None:
    """A client whose API key was replaced by one with another name repeats what it does not know the end of."""
    route = taking(wire)
    first = await payments.create(ask(idempotency_key=KEY, caller=called("one")))
    again = await payments.create(ask(idempotency_key=KEY, caller=called("two")))
    assert (again.payment.id, again.replayed) == (first.payment.id, True)
    assert route.call_count == 1


async def test_other_words_under_the_key_of_another_caller_are_another_request(
    payments: Payments, wire: respx.MockRouter
) -> None:
    route = taking(wire)
    await payments.create(ask(idempotency_key=KEY, caller=called("one")))
    other = ask(idempotency_key=KEY, caller=called("two"), message="another")
    assert not (await payments.create(other)).replayed
    assert (await payments.create(other)).replayed
    assert route.call_count == 2


async def test_key_of_the_callers_own_request_is_not_that_of_another_caller(
    payments: Payments, wire: respx.MockRouter
) -> None:
    wire.get("/create/").mock(side_effect=REFUSED)
    await payments.create(ask(idempotency_key=KEY, caller=called("one"), message="another"))
    taking(wire)
    await payments.create(ask(idempotency_key=KEY, caller=called("two")))
    with pytest.raises(IdempotencyKeyReused):
        await payments.create(ask(idempotency_key=KEY, caller=called("one")))


async def test_two_callers_with_one_key_send_again_once_what_was_not_sent(
    payments: Payments, wire: respx.MockRouter
) -> None:
    """The claim of the first still names what was not sent, that of the second what was: it is the one that counts."""
    route = wire.get("/create/").mock(side_effect=REFUSED)
    assert (await payments.create(ask(idempotency_key=KEY, caller=called("one")))).payment.failure == "not_sent"
    taking(wire)
    sent = await payments.create(ask(idempotency_key=KEY, caller=called("two")))
    again = await payments.create(ask(idempotency_key=KEY, caller=called("one")))
    assert (again.payment.id, again.replayed, route.call_count) == (sent.payment.id, True, 2)


async def test_two_callers_at_once_with_one_key_are_one_call(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    asked = (payments.create(ask(idempotency_key=KEY, caller=called(name))) for name in ("one", "two") * 5)
    _answers, errors = await all_of(*asked)
    assert all(isinstance(error, StillRunning) for error in errors)
    assert route.call_count == 1


async def test_answer_to_an_earlier_request_is_no_invoice_to_its_phone(
    services: Services, wire: respx.MockRouter
) -> None:
    taking(wire)
    payments = replace(services.payments, phones=PhoneLimit(Rate(2, 60)))
    for _ in range(3):
        await payments.create(ask(idempotency_key=KEY))
    keys = (None, None, "another-key")  # by its words, and by its order
    answers = [await payments.create(ask(200, order_id="A-1", idempotency_key=key)) for key in keys]
    assert [answer.replayed for answer in answers] == [False, True, True]


async def test_no_words_run_into_each_other(services: Services) -> None:
    words: list[tuple[str | None, ...]] = [("a|b", None), ("a", "b|"), ("a", "b", ""), ("a", "b", None), ('a", "b', "")]
    assert len({await services.fingerprints.of(*one) for one in words}) == len(words)


async def both_wait(services: Services) -> bool:
    """Whether two statements of this database wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    row = await services.database.statements.fetchrow(waiting)
    return row is not None and row[0] == 2


@pytest.mark.parametrize("words", [{}, {"idempotency_key": KEY}], ids=["no key", "one key"])
async def test_of_two_equal_requests_the_second_looks_once_the_first_is_written(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    words: dict[str, Any],
) -> None:
    """The one that is to be written waits for its route: whoever had looked by then would find nothing."""
    monkeypatch.setattr("payment_service.idempotency.writing.INTENT_TIMEOUT_S", 20)
    route = taking(wire)
    await services.fingerprints.of()  # made by the first request ever
    async with sql.transaction():
        await sql.execute("SELECT FROM payment_config WHERE shop_id = $1 FOR UPDATE", SHOP)
        asked = [asyncio.create_task(services.payments.create(ask(**words))) for _ in range(2)]
        await until(partial(both_wait, services), within_s=4)
    answers, errors = await all_of(*asked)
    assert (len({answer.payment.id for answer in answers}), route.call_count) == (1, 1)
    assert [type(error) for error in errors] in ([], [StillRunning])


async def test_of_two_refunds_with_one_key_the_second_looks_once_the_first_is_written(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_service.idempotency.writing.INTENT_TIMEOUT_S", 20)
    payment = await paid(services, wire)
    route = wire.get("/refund/").mock(return_value=refunded())
    refund = partial(RefundRequest, caller=TESTS, payment=payment, amount=Money(100), idempotency_key=KEY)
    async with sql.transaction():
        await sql.execute("SELECT FROM payment WHERE id = $1 FOR UPDATE", payment.id)
        asked = [asyncio.create_task(services.refunds.refund(refund())) for _ in range(2)]
        await until(partial(both_wait, services), within_s=4)
    ended = await asyncio.gather(*asked, return_exceptions=True)
    assert [end for end in ended if not isinstance(end, RefundAnswer | StillRunning)] == []
    assert (await sql.fetchval("SELECT count(*) FROM refund"), route.call_count) == (1, 1)


@pytest.mark.parametrize("end", ["revoked_at", "expires_at"])
async def test_key_that_has_ended_since_it_was_looked_up_sends_nothing(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, end: str
) -> None:
    payment = await paid(services, wire)
    made = await services.access.create("shop", ["payments:write", "refunds:write"], shops=ALL_SHOPS)
    caller = await services.access.caller_with(made.key)
    await change_by_hand(sql, f"api_key:{made.row.id}", f"UPDATE api_key SET {end} = now()")
    route = taking(wire)
    with pytest.raises(NotAuthenticated):
        await services.payments.create(ask(caller=caller, message="another"))
    with pytest.raises(NotAuthenticated):
        await services.refunds.refund(RefundRequest(caller=caller, payment=payment, amount=None))
    assert route.call_count == 1  # of the payment before


async def test_two_keys_are_two_payments(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    for number in range(2):
        assert not (await payments.create(ask(idempotency_key=f"{KEY}-{number}"))).replayed
    assert route.call_count == 2


async def test_key_of_a_payment_cannot_refund(services: Services, wire: respx.MockRouter) -> None:
    payment = await paid(services, wire, ask(idempotency_key=KEY))
    refund = RefundRequest(caller=TESTS, payment=payment, amount=Money(payment.amount or 0), idempotency_key=KEY)
    with pytest.raises(IdempotencyKeyReused):
        await services.refunds.refund(refund)


async def test_key_of_a_refund_cannot_pay(services: Services, wire: respx.MockRouter) -> None:
    payment = await paid(services, wire)
    wire.get("/refund/").mock(return_value=refunded())
    await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=None, idempotency_key=KEY))
    with pytest.raises(IdempotencyKeyReused):
        await services.payments.create(ask(idempotency_key=KEY))


async def test_key_sends_again_exactly_once_after_nothing_was_sent(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = wire.get("/create/").mock(side_effect=REFUSED)
    first = await payments.create(ask(idempotency_key=KEY))
    assert (first.payment.state, first.payment.failure) == ("failed", "not_sent")
    taking(wire)
    answers, errors = await all_of(*(payments.create(ask(idempotency_key=KEY)) for _ in range(20)))
    assert route.call_count == 2
    assert {answer.payment.id for answer in answers} == {(await payments.create(ask(idempotency_key=KEY))).payment.id}
    assert all(isinstance(error, StillRunning) for error in errors)
    assert await sql.fetchval("SELECT count(*) FROM payment") == 2


@pytest.mark.parametrize(
    ("reply", "state"),
    [(failure(-99000001), "failed"), (httpx.Response(500), "unknown"), (httpx.Response(403), "failed")],
)
async def test_key_of_a_request_that_left_never_sends_again(
    payments: Payments, wire: respx.MockRouter, reply: httpx.Response, state: str
) -> None:
    route = wire.get("/create/").mock(return_value=reply)
    first = await payments.create(ask(idempotency_key=KEY))
    again = await payments.create(ask(idempotency_key=KEY))
    assert again.replayed
    assert (again.payment.id, again.payment.state) == (first.payment.id, state)
    assert route.call_count == 1


async def test_key_tells_the_state_of_today(services: Services, wire: respx.MockRouter) -> None:
    await paid(services, wire, ask(idempotency_key=KEY))
    assert (await services.payments.create(ask(idempotency_key=KEY))).payment.state == "paid"


async def test_failed_lookup_leaves_the_key_free(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    with pytest.raises(ShopNotConfigured):
        await payments.create(ask(idempotency_key=KEY, shop_id=404))
    assert not (await payments.create(ask(idempotency_key=KEY))).replayed
    assert route.call_count == 1


# --- the window for clients without a key


async def test_same_words_without_a_key_are_one_payment(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    first = await payments.create(ask())
    again = await payments.create(ask())
    assert again.replayed
    assert again.payment.id == first.payment.id
    assert route.call_count == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"tenge": 101},
        {"phone": "77015211546"},
        {"message": "Other"},
        {"shop_id": OTHER_SHOP},
        {"caller": called("other")},
    ],
)
async def test_other_words_without_a_key_are_another_payment(
    payments: Payments, wire: respx.MockRouter, changes: dict[str, Any]
) -> None:
    route = taking(wire)
    await payments.create(ask())
    assert not (await payments.create(ask(**changes))).replayed
    assert route.call_count == 2


@pytest.mark.parametrize(("seconds", "calls"), [(55, 1), (61, 2)])
async def test_window_ends(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection, seconds: int, calls: int
) -> None:
    route = taking(wire)
    await payments.create(ask())
    await age(sql, seconds)
    await payments.create(ask(id=id_made(seconds)))
    assert route.call_count == calls


async def test_window_of_zero_is_off(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    without = replace(payments, rules=replace(payments.rules, duplicate_window_s=0))
    for _ in range(2):
        assert not (await without.create(ask())).replayed
    assert route.call_count == 2


async def test_nothing_sent_may_be_asked_again_within_the_window(payments: Payments, wire: respx.MockRouter) -> None:
    route = wire.get("/create/").mock(side_effect=REFUSED)
    await payments.create(ask())
    route = taking(wire)
    assert (await payments.create(ask())).payment.state == "pending"
    assert route.calls.last.response.status_code == 200


async def test_window_is_not_over_because_the_clock_of_the_database_stepped_forward(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await paid(services, wire)
    calls = wire.calls.call_count
    await age(sql, 3600)
    again = await services.payments.create(ask())
    assert (again.replayed, again.payment.id, wire.calls.call_count) == (True, payment.id, calls)
    refunds = wire.get("/refund/").mock(return_value=refunded())
    request = RefundRequest(caller=TESTS, payment=payment, amount=Money(1000))
    first = await services.refunds.refund(request)
    await age(sql, 3600, "refund")
    second = await services.refunds.refund(replace(request, id=new_id()))
    assert (second.replayed, second.refund.id, refunds.call_count) == (True, first.refund.id, 1)


async def test_unknown_payment_is_not_sent_again_for_another_caller(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = wire.get("/create/").mock(return_value=httpx.Response(500))
    first = await payments.create(ask(caller=called("one")))
    await age(sql, 86400)
    again = await payments.create(ask(caller=called("two")))
    assert (again.payment.id, again.payment.state, route.call_count) == (first.payment.id, "unknown", 1)


async def test_unknown_payment_is_not_sent_again_within_the_window(payments: Payments, wire: respx.MockRouter) -> None:
    route = wire.get("/create/").mock(return_value=httpx.Response(500))
    first = await payments.create(ask())
    again = await payments.create(ask())
    assert (again.replayed, again.payment.id, again.payment.state) == (True, first.payment.id, "unknown")
    assert route.call_count == 1


# --- what the database refuses


@pytest.mark.parametrize(
    "setting",
    ["default_transaction_isolation = serializable", "default_transaction_read_only = on", "statement_timeout = 1"],
)
async def test_intent_that_the_database_refuses_is_told_as_not_sent(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, setting: str
) -> None:
    """Another client of a pooler, or a person, has set it in the session: nothing was written, so nothing was sent."""
    payment = await paid(services, wire)
    called_before, refunds = wire.calls.call_count, wire.get("/refund/").mock(return_value=refunded())
    for ask_for in (
        lambda: services.payments.create(ask(200, order_id="o", idempotency_key=KEY)),
        lambda: services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=Money(1000))),
    ):
        await services.database.statements.fetch(f"SET {setting}")
        async with sql.transaction():
            if "timeout" in setting:  # whatever the speed of the machine
                await sql.execute("LOCK TABLE payment IN EXCLUSIVE MODE")
            with pytest.raises(DatabaseUnavailable):
                await ask_for()
        await services.database.statements.close()
    assert await services.inflight.drain(10) == 0
    assert (wire.calls.call_count, refunds.call_count) == (called_before, 0)
    assert await sql.fetchval("SELECT count(*) FROM payment") == 1


# --- orders


async def test_order_with_an_open_payment_answers_with_it(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    first = await payments.create(ask(order_id="o", idempotency_key=f"{KEY}-1"))
    await age(sql, 3600)
    for key in (f"{KEY}-2", None):
        assert (await payments.create(ask(order_id="o", idempotency_key=key))).payment.id == first.payment.id
    # Its key stands for that payment from then on, also when the order is free again.
    await beyond_the_law(sql, "UPDATE payment SET state = 'failed', failure = 'declined'")
    again = await payments.create(ask(order_id="o", idempotency_key=f"{KEY}-2"))
    assert (again.payment.id, again.replayed, route.call_count) == (first.payment.id, True, 1)


async def test_order_with_an_open_payment_takes_no_other_request(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    first = await payments.create(ask(order_id="o"))
    with pytest.raises(OrderAlreadyOpen) as caught:
        await payments.create(ask(200, order_id="o"))
    assert caught.value.extra == {"id": str(first.payment.id), "state": "pending"}
    assert route.call_count == 1


async def test_refused_request_for_an_order_leaves_its_key_free(payments: Payments, wire: respx.MockRouter) -> None:
    taking(wire)
    await payments.create(ask(order_id="o"))
    with pytest.raises(OrderAlreadyOpen):
        await payments.create(ask(200, order_id="o", idempotency_key=KEY))
    assert not (await payments.create(ask(300, idempotency_key=KEY))).replayed


@pytest.mark.parametrize("changes", [{}, {"idempotency_key": KEY}])
async def test_unknown_payment_answers_an_equal_request_for_its_order(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection, changes: dict[str, Any]
) -> None:
    route = wire.get("/create/").mock(return_value=httpx.Response(500))
    first = await payments.create(ask(order_id="o"))
    await age(sql, 3600)
    again = await payments.create(ask(order_id="o", **changes))
    assert (again.replayed, again.payment.id) == (True, first.payment.id)
    assert route.call_count == 1


async def test_order_that_is_paid_is_not_paid_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await paid(services, wire, ask(order_id="o"))
    await age(sql, 3600)
    with pytest.raises(OrderAlreadyPaid) as caught:
        await services.payments.create(ask(order_id="o", message="Again"))
    assert caught.value.extra["id"] == str(payment.id)


async def test_order_that_is_paid_may_have_another_amount(services: Services, wire: respx.MockRouter) -> None:
    await paid(services, wire, ask(order_id="o"))
    assert not (await services.payments.create(ask(50, order_id="o"))).replayed


async def test_order_whose_payment_was_refunded_in_full_may_be_paid_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await paid(services, wire, ask(order_id="o"))
    wire.get("/refund/").mock(return_value=refunded())
    await services.refunds.refund(RefundRequest(caller=TESTS, payment=payment, amount=None))
    await age(sql, 3600)
    assert not (await services.payments.create(ask(order_id="o", id=id_made(3600)))).replayed


async def test_same_order_number_of_another_shop_is_another_order(payments: Payments, wire: respx.MockRouter) -> None:
    route = taking(wire)
    for shop_id in (SHOP, OTHER_SHOP):
        assert not (await payments.create(ask(order_id="o", shop_id=shop_id))).replayed
    assert route.call_count == 2


# --- at once


@pytest.mark.parametrize(
    "words",
    [{"idempotency_key": KEY}, {}, {"order_id": "o"}, {"order_id": "o", "idempotency_key": "each-its-own"}],
    ids=["one key", "no key", "one order", "one order, 50 keys"],
)
async def test_fifty_equal_requests_at_once_are_one_call(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection, words: dict[str, Any]
) -> None:
    route = taking(wire)
    each = [{**words, "idempotency_key": uuid4().hex} if len(words) == 2 else words for _ in range(50)]
    answers, errors = await all_of(*(payments.create(ask(**its)) for its in each))
    assert route.call_count == 1
    assert await sql.fetchval("SELECT count(*) FROM payment") == 1
    assert len({answer.payment.id for answer in answers}) == 1
    assert all(busy(error) for error in errors)


async def test_fifty_different_requests_of_one_order_are_one_call(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    _, errors = await all_of(*(payments.create(ask(100 + number, order_id="o")) for number in range(50)))
    assert route.call_count == 1
    assert all(isinstance(error, OrderAlreadyOpen) or busy(error) for error in errors)
    assert await sql.fetchval("SELECT count(*) FROM payment") == 1


# --- today's route and only it


@pytest.fixture
async def trusting(services: Services) -> Services:
    """A services whose memory is trusted although nobody tells it of changes."""
    services.routing.cache.trust(trusted=True)
    await services.routing.route_of(FULL_ACCESS, SHOP)
    return services


@pytest.fixture
async def elsewhere(settings: Settings) -> AsyncIterator[Services]:
    """Another process."""
    services = build(settings)
    yield services
    await services.close()


NEW_ROUTE = {"organization_bin": "991011000048", "device_token": device_token_of(71691)}


async def test_payment_uses_the_route_of_this_moment_and_not_a_stale_memory(
    trusting: Services, elsewhere: Services, wire: respx.MockRouter
) -> None:
    await elsewhere.routing.update(FULL_ACCESS, SHOP, NEW_ROUTE)
    assert (await trusting.routing.route_of(FULL_ACCESS, SHOP)).version == 1
    route = taking(wire)
    payment = (await trusting.payments.create(ask())).payment
    assert (payment.organization_bin, payment.route_version) == ("991011000048", 2)
    [call] = route.calls
    query = call.request.url.params
    assert (query["organizationBin"], query["deviceToken"]) == tuple(NEW_ROUTE.values())


async def test_shop_switched_off_between_lookup_and_intent_sends_nothing(
    trusting: Services, elsewhere: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await elsewhere.routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    route = taking(wire)
    with pytest.raises(ShopInactive):
        await trusting.payments.create(ask())
    assert not route.called
    assert await sql.fetchval("SELECT count(*) FROM payment") == 0


async def test_token_removed_between_lookup_and_intent_makes_no_link(
    trusting: Services, elsewhere: Services, wire: respx.MockRouter
) -> None:
    await elsewhere.routing.update(FULL_ACCESS, SHOP, {"device_token": None})
    route = taking(wire, link=True)
    with pytest.raises(DeviceTokenMissing):
        await trusting.payments.create(ask(phone=None))
    assert not route.called


async def test_routing_that_never_rests_sends_nothing(
    trusting: Services, elsewhere: Services, wire: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = trusting.payments._route
    turns = iter(range(100))

    async def look_up_too_early(self: Payments, request: Any) -> Any:
        route = await look_up(request)
        await elsewhere.routing.update(FULL_ACCESS, SHOP, {"description": f"version {next(turns)}"})
        return route

    monkeypatch.setattr(Payments, "_route", look_up_too_early)
    route = taking(wire)
    with pytest.raises(DatabaseUnavailable):
        await trusting.payments.create(ask())
    assert not route.called


async def test_change_of_routing_waits_for_a_payment_that_is_being_written(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    await services.fingerprints.of()  # made by the first request ever
    changes = (services.routing.update(FULL_ACCESS, SHOP, {"description": f"{number}"}) for number in range(10))
    creates = (services.payments.create(ask(100 + number)) for number in range(20))
    await asyncio.gather(*changes, *creates)
    wrong = """
        SELECT count(*) FROM payment JOIN payment_config_history AS route
        ON (route.shop_id, route.version) = (payment.shop_id, payment.route_version)
        WHERE route.organization_bin <> payment.organization_bin OR route.device_token_id <> payment.device_token_id
    """
    assert await sql.fetchval(wrong) == 0


@pytest.mark.parametrize(
    ("shop_id", "error"), [(404, ShopNotConfigured), (SHOP, ShopInactive)], ids=["no routing", "inactive"]
)
async def test_shop_without_a_route_sends_nothing(
    services: Services, wire: respx.MockRouter, shop_id: int, error: type[Exception]
) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    route = taking(wire)
    with pytest.raises(error):
        await services.payments.create(ask(shop_id=shop_id))
    assert not route.called


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("order_id", [None, "A-1"])
async def test_shop_that_was_switched_off_answers_the_same_request_and_refuses_another(
    services: Services, wire: respx.MockRouter, order_id: str | None, key: str | None
) -> None:
    create, route = services.payments.create, taking(wire)
    first = await create(ask(order_id=order_id, idempotency_key=key))
    await services.routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    again = await create(ask(order_id=order_id, idempotency_key=key))
    assert (again.payment.id, again.replayed) == (first.payment.id, True)
    for other in (ask(order_id=order_id, idempotency_key="another-key"), ask(101, order_id=order_id)):
        with pytest.raises(ShopInactive):
            await create(other)
    assert route.call_count == 1


async def test_shop_that_was_switched_off_says_that_the_outcome_is_unknown_without_a_key(
    services: Services, wire: respx.MockRouter
) -> None:
    """It must not hear that nothing was sent: a caller that is told so asks elsewhere."""
    route = wire.get("/create/").mock(return_value=failure("-999"))
    await services.payments.create(ask())
    await services.routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    again = await services.payments.create(ask())
    assert (again.payment.state, again.replayed) == (State.UNKNOWN, True)
    assert route.call_count == 1


async def test_phone_payment_without_a_token_sends_none(services: Services, wire: respx.MockRouter) -> None:
    await services.routing.update(FULL_ACCESS, SHOP, {"device_token": None})
    route = taking(wire)
    await services.payments.create(ask())
    assert "deviceToken" not in route.calls.last.request.url.params


# --- what is written down


async def test_whole_phone_is_kept_nowhere(payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection) -> None:
    taking(wire)
    await payments.create(ask(idempotency_key=KEY))
    for table in ("payment", "payment_log", "idempotency_claim"):
        rows = await sql.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} AS t")
        assert not [row for row in rows if PHONE[1:] in row["row"]], table
    assert await sql.fetchval("SELECT phone_last4 FROM payment") == PHONE[-4:]


async def test_intent_leaves_no_line_before_its_outcome(
    payments: Payments, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(accepted())
    wire.get("/create/").mock(side_effect=gate)
    task = asyncio.create_task(payments.create(ask()))
    await gate.reached.wait()
    assert await sql.fetchval("SELECT state FROM payment") == "sending"
    assert await audit_of(sql) == []
    gate.open.set()
    await task
    assert await audit_of(sql) == [("create", "pending")]


async def test_intent_whose_sender_stopped_waiting_is_not_written(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement waits for a lock longer than its sender does; it would commit by itself afterwards."""
    payment = await paid(services, wire)
    refund = wire.get("/refund/").mock(return_value=refunded())
    route = taking(wire)
    monkeypatch.setattr("payment_service.idempotency.writing.INTENT_TIMEOUT_S", 0.3)
    request = ask(200)
    fingerprint = await services.payments._fingerprint(request)
    async with sql.transaction():
        await sql.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", fingerprint)
        await sql.execute("SELECT FROM payment WHERE id = $1 FOR UPDATE", payment.id)
        asked = RefundRequest(caller=TESTS, payment=payment, amount=None)
        asking = (services.payments.create(request), services.refunds.refund(asked))
        ended = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(end) for end in ended] == [DatabaseUnavailable] * 2
    assert await services.inflight.drain(10) == 0
    await sql.execute("SELECT pg_sleep(0.2)")  # the server may still run the statements for nobody
    rows = "SELECT (SELECT count(*) FROM payment), (SELECT count(*) FROM refund)"
    assert await sql.fetchrow(rows) == (1, 0)
    assert (route.call_count, refund.called) == (1, False)
