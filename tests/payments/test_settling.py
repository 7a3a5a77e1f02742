"""Settling by hand: only what is unknown, never against the provider, never against the record, once."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.errors import (
    ExternalIdNotProven,
    ExternalIdTaken,
    InvalidInput,
    NothingToSettle,
    OrderAlreadyOpen,
    PaymentNotFound,
    ProviderRefused,
    ProviderUnavailable,
    ServiceError,
    SettlementContradicted,
    TooEarlyToSettle,
)
from payment_service.observability.context import Origin, origin
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.settling import Settlement, check_age
from payment_service.reports.service import Report
from payment_service.services import Services
from payment_service.settings import Settings
from tests.support.asking import (
    KEY,
    OTHER_SHOP,
    SHOP,
    Alarms,
    Gate,
    age,
    ask,
    audit_of,
    paid,
    payments_of,
    taking,
    two_shops,
)
from tests.support.due_work import work_off
from tests.support.replies import accepted, failure, status_reply
from tests.support.shops import SHOPS

pytestmark = pytest.mark.usefixtures("shops")
FOUND = "12800627774"
"""The id that a person read in the merchant cabinet."""
NO_SUCH = failure(-99000001)
PAID, PENDING, FAILED = State.PAID, State.PENDING, State.FAILED


@pytest.fixture
async def shops(services: Services) -> dict[int, str]:
    """The two shops that these tests ask for."""
    return await two_shops(services)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A call has no effect any more as soon as its outcome is known."""
    return settings.model_copy(update={"late_effect_s": 0})


@pytest.fixture
async def payment(services: Services, wire: respx.MockRouter) -> Payment:
    """A payment of which nobody knows anything."""
    wire.get("/create/").mock(side_effect=[httpx.Response(500)])
    return (await services.payments.create(ask(order_id="order-1", idempotency_key=KEY))).payment


@pytest.fixture
async def known(services: Services, wire: respx.MockRouter) -> Payment:
    """An unknown payment whose id is known: a link that nobody can use."""
    wire.get("/create-link/").mock(side_effect=[accepted(paymentId=FOUND)])
    return (await services.payments.create(ask(phone=None))).payment


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


def says(wire: respx.MockRouter, reply: str | httpx.Response, external_id: str = FOUND) -> respx.Route:
    """What the provider says of a payment: a status, or a reply."""
    reply = status_reply(external_id, reply) if isinstance(reply, str) else reply
    return wire.get("/status/", params={"externalId": external_id}).mock(return_value=reply)


async def settle(services: Services, payment: Payment, state: State, external_id: str | None = None) -> Payment:
    found = Settlement(state=state, reason="Seen in the cabinet by Aigul", external_id=external_id)
    return await services.settling.settle(FULL_ACCESS, payment.id, found)


async def ended(*asked: Any) -> list[Any]:
    """What each ended with: an answer, or an error that a caller is told."""
    results = await asyncio.gather(*asked, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, ServiceError):
            raise result
    return list(results)


async def planned(sql: asyncpg.Connection) -> int:
    """How many payments are asked about again."""
    return int(await sql.fetchval("SELECT count(*) FROM payment WHERE next_check_at IS NOT NULL"))


# --- what can be said


@pytest.mark.parametrize(
    ("state", "external_id", "status", "failed_as"),
    [
        (PAID, FOUND, "Processed", None),
        (PENDING, FOUND, "Wait", None),
        (PENDING, FOUND, "Error", None),
        (PENDING, FOUND, "NobodyKnowsThis", None),
        (FAILED, None, None, "settled"),
    ],
)
async def test_unknown_payment_becomes_what_a_person_found(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    state: State,
    external_id: str | None,
    status: str | None,
    failed_as: str | None,
) -> None:
    if status:
        says(wire, status)
    done = await settle(services, payment, state, external_id)
    assert (done.state, done.external_id, done.status, done.failure) == (state, external_id, status, failed_as)
    assert await audit_of(sql, "settle") == [("settle", state)]


@pytest.mark.parametrize(
    ("reply", "state", "failed_as"),
    [
        ("Processed", PAID, None),
        ("Wait", PENDING, None),
        ("Error", FAILED, "declined"),
        ("RemotePaymentCanceled", FAILED, "declined"),
        (NO_SUCH, FAILED, "settled"),
    ],
)
async def test_unknown_payment_with_an_external_id_is_asked_about(
    services: Services,
    known: Payment,
    wire: respx.MockRouter,
    reply: str | httpx.Response,
    state: State,
    failed_as: str,
) -> None:
    route = says(wire, reply)
    done = await settle(services, known, state)
    assert (done.state, done.failure, done.external_id) == (state, failed_as, FOUND)
    assert route.call_count == 1


async def test_payment_that_was_paid_since_a_person_looked_is_paid(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    says(wire, "Processed")
    assert (await settle(services, payment, PENDING, FOUND)).state == "paid"


async def test_settlement_keeps_its_reason_and_who_gave_it(
    services: Services, payment: Payment, sql: asyncpg.Connection
) -> None:
    token = origin.set(Origin("aigul"))
    await settle(services, payment, FAILED)
    origin.reset(token)
    row = await sql.fetchrow("SELECT actor, reason, source FROM payment_log WHERE operation_type = 'settle'")
    assert tuple(row or ()) == ("aigul", "Seen in the cabinet by Aigul", "service")


async def test_payment_that_was_found_open_is_followed(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    says(wire, "Wait")
    await settle(services, payment, PENDING, FOUND)
    assert await sql.fetchval("SELECT next_check_at > now() FROM payment")
    assert await planned(sql) == 1


async def test_payment_that_was_found_open_after_a_weekend_is_followed_from_then_on(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, payment: Payment
) -> None:
    await age(sql, 3 * 86400)
    says(wire, "Wait")
    await settle(services, payment, PENDING, FOUND)
    assert await planned(sql) > 0
    says(wire, "Processed")
    await sql.execute("UPDATE payment SET next_check_at = now()")
    await work_off(services.polling)
    assert await sql.fetchval("SELECT state FROM payment") == PAID


async def test_payment_that_was_never_made_frees_its_order(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    await settle(services, payment, FAILED)
    taking(wire)
    again = await services.payments.create(ask(order_id="order-1", idempotency_key=f"{KEY}-2"))
    assert (again.replayed, again.payment.state) == (False, "pending")


@pytest.mark.parametrize("key", [KEY, None])
async def test_same_request_gets_the_settled_payment_and_sends_nothing(
    services: Services, wire: respx.MockRouter, key: str | None
) -> None:
    wire.get("/create/").mock(side_effect=[httpx.Response(500)])
    payment = (await services.payments.create(ask(idempotency_key=key))).payment
    await settle(services, payment, FAILED)
    route = taking(wire)
    again = await services.payments.create(ask(idempotency_key=key))
    assert (again.replayed, again.payment.id, again.payment.failure) == (True, payment.id, "settled")
    assert route.call_count == 1  # the first one


# --- what cannot be said


@pytest.mark.parametrize(
    ("state", "reply"),
    [
        (PAID, "Wait"),
        (PAID, "Error"),
        (PAID, "RemotePaymentCanceled"),
        (PAID, "NobodyKnowsThis"),
        (PAID, NO_SUCH),
        (PENDING, NO_SUCH),
    ],
)
async def test_provider_has_the_last_word_about_an_id_that_was_found(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    state: State,
    reply: str | httpx.Response,
) -> None:
    says(wire, reply)
    with pytest.raises(SettlementContradicted):
        await settle(services, payment, state, FOUND)
    assert await sql.fetchrow("SELECT state, external_id FROM payment") == ("unknown", None)
    assert await audit_of(sql, "settle") == []


@pytest.mark.parametrize("reply", ["Processed", "Wait", "NobodyKnowsThis"])
async def test_payment_that_the_provider_has_is_not_settled_as_failed(
    services: Services, known: Payment, wire: respx.MockRouter, reply: str
) -> None:
    says(wire, reply)
    with pytest.raises(SettlementContradicted):
        await settle(services, known, FAILED)


@pytest.mark.parametrize(
    ("state", "reply", "error"),
    [
        (PAID, httpx.Response(500), ProviderUnavailable),
        (PENDING, httpx.Response(200, text="<html>"), ProviderUnavailable),
        (FAILED, failure(-999), ProviderUnavailable),
        (PAID, status_reply("999", "Processed"), ProviderUnavailable),
        (FAILED, httpx.Response(403), ProviderRefused),
    ],
)
async def test_what_cannot_be_asked_is_not_settled(
    services: Services,
    known: Payment,
    wire: respx.MockRouter,
    state: State,
    reply: httpx.Response,
    error: type[Exception],
) -> None:
    says(wire, reply)
    with pytest.raises(error):
        await settle(services, known, state)


@pytest.mark.parametrize(("state", "external_id"), [(PAID, None), (PENDING, None), (FAILED, FOUND)])
async def test_id_is_given_exactly_when_the_payment_was_made(
    services: Services, payment: Payment, wire: respx.MockRouter, state: State, external_id: str | None
) -> None:
    route = says(wire, "Processed")
    with pytest.raises(InvalidInput):
        await settle(services, payment, state, external_id)
    assert not route.called


async def test_another_id_than_the_known_one_is_refused(
    services: Services, known: Payment, wire: respx.MockRouter
) -> None:
    says(wire, "Processed", "999")
    with pytest.raises(InvalidInput):
        await settle(services, known, PAID, "999")


@pytest.mark.parametrize("word", ["Wait", "Processed", "RemotePaymentCanceled"])
async def test_only_an_unknown_payment_is_settled(services: Services, wire: respx.MockRouter, word: str) -> None:
    taking(wire)
    payment = (await services.payments.create(ask())).payment
    says(wire, word, str(payment.external_id))
    await services.reading.refresh(payment)
    with pytest.raises((NothingToSettle, SettlementContradicted)):
        await settle(services, payment, PAID)
    with pytest.raises((NothingToSettle, SettlementContradicted)):
        await settle(services, payment, PENDING)


async def test_payment_that_is_being_sent_is_not_settled(services: Services, wire: respx.MockRouter) -> None:
    gate = Gate(accepted())
    wire.get("/create/").mock(side_effect=gate)
    sending = asyncio.create_task(services.payments.create(ask()))
    await gate.reached.wait()
    [payment] = await payments_of(services)
    with pytest.raises(NothingToSettle):
        await settle(services, payment, FAILED)
    gate.open.set()
    assert (await sending).payment.state == "pending"


async def test_no_payment_is_not_found(services: Services) -> None:
    with pytest.raises(PaymentNotFound):
        await services.settling.settle(FULL_ACCESS, uuid4(), Settlement(state=FAILED, reason="never made"))


async def test_payment_of_another_shop_is_not_found(services: Services, payment: Payment) -> None:
    stranger = Caller("stranger", FULL_ACCESS.scopes, frozenset({OTHER_SHOP}))
    with pytest.raises(PaymentNotFound):
        await services.settling.settle(stranger, payment.id, Settlement(state=FAILED, reason="never made"))


# --- a call that may still take effect


@pytest.fixture
def patient(services: Services) -> Services:
    """A call may take effect for five minutes."""
    rules = replace(services.settling.rules, late_effect_s=300)
    return replace(services, settling=replace(services.settling, rules=rules))


async def test_call_that_may_still_take_effect_is_not_called_failed(
    patient: Services, payment: Payment, sql: asyncpg.Connection
) -> None:
    with pytest.raises(TooEarlyToSettle) as caught:
        await settle(patient, payment, FAILED)
    assert 290 < int(str(caught.value.extra["retry_after_s"])) <= 300
    await age(sql, 301)
    assert (await settle(patient, payment, FAILED)).state == "failed"


@pytest.mark.parametrize(
    ("age_s", "in_state_s", "wait_s"),
    [(0, 0, 300), (298.5, 1, 2), (299.999, 1, 1), (300, 0, None), (-18000, 298.5, 2), (-18000, 300, None)],
)
def test_it_is_told_how_long_a_call_may_still_take_effect(age_s: float, in_state_s: float, wait_s: int | None) -> None:
    """Below zero the database's clock was ahead then, and has been set right since."""
    now = datetime(2026, 11, 30, tzinfo=UTC)
    told = None
    try:
        check_age(now - timedelta(seconds=age_s), now - timedelta(seconds=in_state_s), now, 300)
    except TooEarlyToSettle as too_early:
        told = too_early.extra["retry_after_s"]
    assert told == wait_s


async def test_payment_that_was_found_is_settled_at_once(
    patient: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    says(wire, "Processed")
    assert (await settle(patient, payment, PAID, FOUND)).state == "paid"


# --- whose id it is


@pytest.mark.parametrize("shop_id", [SHOP, OTHER_SHOP])
async def test_id_of_another_payment_is_never_taken(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, shop_id: int
) -> None:
    other = await paid(services, wire, ask(shop_id=shop_id))
    with pytest.raises(ExternalIdTaken) as caught:
        await settle(services, payment, PAID, str(other.external_id))
    assert caught.value.extra == {"id": str(other.id)}
    assert await sql.fetchval("SELECT state FROM payment WHERE id = $1", payment.id) == "unknown"


OWN = Caller("own", FULL_ACCESS.scopes, frozenset({SHOP}))
"""An admin of the one shop."""


@pytest.mark.parametrize(
    "said", ["Processed", "Wait", "Error", NO_SUCH, httpx.Response(500), httpx.Response(403), None]
)
@pytest.mark.parametrize("state", [PAID, PENDING])
async def test_admin_of_some_shops_names_no_id_and_learns_nothing_of_any(
    services: Services, payment: Payment, wire: respx.MockRouter, said: str | httpx.Response | None, state: State
) -> None:
    external_id = FOUND
    if said is None:
        external_id = str((await paid(services, wire, ask(shop_id=OTHER_SHOP))).external_id)
    route = says(wire, said or "Processed", external_id)
    asked = route.call_count
    found = Settlement(state=state, reason="Seen in the cabinet", external_id=external_id)
    with pytest.raises(ExternalIdNotProven) as caught:
        await services.settling.settle(OWN, payment.id, found)
    assert (caught.value.detail, caught.value.extra) == (ExternalIdNotProven().detail, {})
    assert route.call_count == asked
    assert (await services.reading.get(OWN, payment.id)).state == "unknown"


async def test_admin_of_some_shops_settles_what_needs_no_id_or_has_its_own(
    services: Services, known: Payment, wire: respx.MockRouter
) -> None:
    says(wire, "Processed")
    found = Settlement(state=PAID, reason="Seen in the cabinet", external_id=FOUND)
    assert (await services.settling.settle(OWN, known.id, found)).state == "paid"
    wire.get("/create/").mock(return_value=httpx.Response(500))
    lost = (await services.payments.create(ask())).payment
    never_made = Settlement(state=FAILED, reason="Not in the cabinet")
    assert (await services.settling.settle(OWN, lost.id, never_made)).state == "failed"


async def reported(services: Services, **told: Any) -> None:
    words = {"shop_id": SHOP, "operation_type": "create", "external_id": FOUND, **told}
    await services.reports.write(FULL_ACCESS, Report(**words))


async def test_report_of_the_same_payment_gives_its_id_to_it(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await reported(services, amount=10_000, organization_bin=SHOPS[SHOP])
    says(wire, "Processed")
    done = await settle(services, payment, PAID, FOUND)
    assert (done.state, done.external_id) == ("paid", FOUND)
    report = await sql.fetchrow("SELECT same_as, next_check_at FROM payment WHERE source = 'client'")
    assert tuple(report or ()) == (payment.id, None)


@pytest.mark.parametrize(
    "told", [{"amount": 10_001}, {"shop_id": OTHER_SHOP}, {"organization_bin": SHOPS[OTHER_SHOP]}], ids=str
)
async def test_report_that_is_of_something_else_keeps_its_id(
    services: Services, payment: Payment, wire: respx.MockRouter, told: dict[str, Any]
) -> None:
    await reported(services, **told)
    says(wire, "Processed")
    with pytest.raises(ExternalIdTaken):
        await settle(services, payment, PAID, FOUND)


async def test_merged_report_is_not_settled(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await reported(services)
    says(wire, "Processed")
    await settle(services, payment, PAID, FOUND)
    report = next(one for one in await payments_of(services) if one.same_as)
    with pytest.raises(NothingToSettle):
        await settle(services, report, PAID)


# --- races


async def test_settled_twice_at_once_is_settled_once(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    says(wire, "Processed")
    results = await ended(
        settle(services, payment, PAID, FOUND),
        settle(services, payment, FAILED),
        settle(services, payment, PAID, FOUND),
    )
    # Who sees the id that another has just named is told that the provider knows the payment.
    assert sum(isinstance(result, NothingToSettle | SettlementContradicted) for result in results) == 2
    assert len(await audit_of(sql, "settle")) == 1


async def test_two_payments_are_not_settled_with_one_id(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=httpx.Response(500))
    payments = [(await services.payments.create(ask(tenge))).payment for tenge in (1, 2, 3)]
    says(wire, "Processed")
    results = await ended(*(settle(services, payment, PAID, FOUND) for payment in payments))
    assert sum(isinstance(result, ExternalIdTaken) for result in results) == 2
    assert await sql.fetchval("SELECT count(*) FROM payment WHERE state = 'paid'") == 1


@pytest.mark.parametrize(("word", "state"), [("Processed", "paid"), ("Wait", "pending")])
async def test_reading_that_moves_first_leaves_nothing_to_settle(
    services: Services, known: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, word: str, state: str
) -> None:
    gate = Gate(status_reply(FOUND, word))
    wire.get("/status/").mock(side_effect=gate)
    settling = asyncio.create_task(settle(services, known, State(state)))
    await gate.reached.wait()
    wire.get("/status/").mock(return_value=status_reply(FOUND, word)).side_effect = None
    await services.reading.refresh(known)
    gate.open.set()
    with pytest.raises(NothingToSettle):
        await settling
    assert await audit_of(sql) == [("create-link", "unknown"), ("status", state)]


async def test_reading_that_comes_after_the_settlement_does_not_undo_it(
    services: Services, known: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(status_reply(FOUND, "Wait"))
    wire.get("/status/").mock(side_effect=gate)
    reading = asyncio.create_task(services.reading.refresh(known))
    await gate.reached.wait()
    wire.get("/status/").mock(return_value=status_reply(FOUND, "Processed")).side_effect = None
    await settle(services, known, PAID)
    gate.open.set()
    assert (await reading).state == "paid"


@pytest.fixture
async def late(services: Services, wire: respx.MockRouter, sql: asyncpg.Connection) -> "Late":
    """A call that outlived its lease: the payment is unknown, and its reply is still to come."""
    return await Late.begin(services, wire, sql)


class Late:
    """A call whose reply comes when the test says so."""

    def __init__(self, payment: Payment, gate: Gate, sending: "asyncio.Task[Any]") -> None:
        self.payment, self._gate, self._sending = payment, gate, sending

    @classmethod
    async def begin(
        cls,
        services: Services,
        wire: respx.MockRouter,
        sql: asyncpg.Connection,
        *,
        link: bool = False,
        order_id: str | None = None,
    ) -> "Late":
        gate = Gate(accepted(paymentId=777) if link else accepted(777))
        wire.get("/create-link/" if link else "/create/").mock(side_effect=gate)
        sending = asyncio.create_task(services.payments.create(ask(phone=None) if link else ask(order_id=order_id)))
        await gate.reached.wait()
        await age(sql, 31)
        await services.polling.mark_lost_unknown()
        [payment] = await payments_of(services)
        assert payment.state == "unknown"
        return cls(payment, gate, sending)

    async def replies(self) -> Payment:
        self._gate.open.set()
        answer = await self._sending
        assert isinstance(answer.payment, Payment)
        return answer.payment


async def test_late_reply_about_the_same_id_changes_nothing(
    services: Services, wire: respx.MockRouter, late: Late, alarms: Alarms
) -> None:
    says(wire, "Processed", "777")
    await settle(services, late.payment, PAID, "777")
    assert (await late.replies()).state == "paid"
    assert alarms["settled_wrongly"] == 0


async def test_late_reply_that_tells_no_more_than_the_id_of_what_was_settled_as_never_made_is_followed(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    late = await Late.begin(services, wire, sql, link=True)  # its reply has an id and no link
    await settle(services, late.payment, FAILED)
    after = await late.replies()
    assert (after.state, after.external_id, alarms["settled_wrongly"]) == ("failed", "777", 1)
    says(wire, "Processed", "777")
    assert (await services.reading.refresh(after)).state == "paid"


async def test_late_reply_to_what_was_settled_as_never_made_opens_it_again_and_is_told(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    """Its invoice is on the buyer's phone: another one for its order would be paid, too."""
    late = await Late.begin(services, wire, sql, order_id="A-1")
    await settle(services, late.payment, FAILED)
    after = await late.replies()
    assert (after.state, after.external_id, after.failure) == ("pending", "777", None)
    assert alarms["settled_wrongly"] == 1
    with pytest.raises(OrderAlreadyOpen):
        await services.payments.create(ask(5, order_id="A-1"))
    assert await sql.fetchval("SELECT next_check_at IS NOT NULL FROM payment")
    says(wire, "Processed", "777")
    assert (await services.reading.refresh(after)).state == "paid"


async def test_late_reply_to_what_was_settled_as_never_made_is_followed_beside_the_next_payment_of_its_order(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    late = await Late.begin(services, wire, sql, order_id="A-1")
    await settle(services, late.payment, FAILED)
    wire.get("/create/").mock(return_value=accepted(778))
    await services.payments.create(ask(5, order_id="A-1"))
    after = await late.replies()
    assert (after.state, after.external_id) == ("failed", "777")
    assert alarms["settled_wrongly"] == 1
    says(wire, "Processed", "777")
    assert (await services.reading.refresh(after)).state == "paid"
    assert alarms["late_success"] == 1


@pytest.mark.parametrize("link", [False, True], ids=["accepted", "unknown, with an id"])
async def test_late_reply_that_names_another_id_than_the_settlement_is_told_and_recorded(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms, link: bool
) -> None:
    late = await Late.begin(services, wire, sql, link=link)
    says(wire, "Processed")
    await settle(services, late.payment, PAID, FOUND)
    after = await late.replies()
    assert (after.state, after.external_id) == ("paid", FOUND)
    assert alarms["settled_wrongly"] == 1
    assert await sql.fetchval("SELECT payment_id FROM payment_log WHERE external_id = '777'") == after.id


@pytest.mark.parametrize(("state", "external_id"), [(PAID, FOUND), (PENDING, FOUND), (FAILED, None)])
async def test_id_that_becomes_known_meanwhile_is_not_settled_by_another_ones_reading(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    state: State,
    external_id: str | None,
) -> None:
    late = await Late.begin(services, wire, sql, link=True)
    says(wire, "Processed")
    write = type(services.settling)._write

    async def after_the_reply(*what: Any) -> Payment:
        assert (await late.replies()).external_id == "777"
        return await write(*what)

    monkeypatch.setattr(type(services.settling), "_write", after_the_reply)
    with pytest.raises(InvalidInput):
        await settle(services, late.payment, state, external_id)
    assert await sql.fetchrow("SELECT state, external_id FROM payment") == ("unknown", "777")


# --- what waits for people


async def test_tasks_are_what_is_unknown_and_what_stayed_open(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    stale = (await services.payments.create(ask(1))).payment
    await services.payments.create(ask(2))
    await sql.execute("UPDATE payment SET next_check_at = NULL WHERE id = $1", stale.id)
    assert [task.id for task in await services.settling.tasks(FULL_ACCESS)] == [payment.id, stale.id]
    stranger = Caller("stranger", FULL_ACCESS.scopes, frozenset({OTHER_SHOP}))
    assert await services.settling.tasks(stranger) == []
    assert await services.settling.tasks(replace(stranger, shops=frozenset())) == []


async def test_settled_payment_is_no_task(services: Services, payment: Payment) -> None:
    await settle(services, payment, FAILED)
    assert await services.settling.tasks(FULL_ACCESS) == []


async def test_merged_report_is_no_task(services: Services, payment: Payment, wire: respx.MockRouter) -> None:
    await reported(services)
    assert len(await services.settling.tasks(FULL_ACCESS)) == 2
    says(wire, "Processed")
    await settle(services, payment, PAID, FOUND)
    assert await services.settling.tasks(FULL_ACCESS) == []
