"""Whatever may have left blocks its like until its end is known, and an outcome that came is never lost."""

import asyncio
import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import asyncpg
import httpx
import pytest
import respx
from hypothesis import HealthCheck, given
from hypothesis import settings as checking
from hypothesis import strategies as st

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import (
    DatabaseUnavailable,
    IdempotencyKeyReused,
    NothingToSettle,
    OrderAlreadyOpen,
    OrderAlreadyPaid,
    StillRunning,
)
from payment_service.idempotency.decisions import Earlier, Verdict, decisive, verdict_for_equal
from payment_service.idempotency.outcomes import PAUSE_S
from payment_service.idempotency.sending import SendingWindow
from payment_service.money import Money
from payment_service.observability.metrics import OUTCOMES_UNWRITTEN
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves
from payment_service.payments.service import Payments
from payment_service.payments.settling import Settlement
from payment_service.postgres.database import constraint_of
from payment_service.providers import deadline
from payment_service.providers.interface import Outcome, PaymentReceipt, Unknown
from payment_service.refunds.service import RefundRequest, Refunds
from payment_service.refunds.settling import RefundSettlement
from payment_service.services import Services
from payment_service.settings import Settings
from tests.support.asking import (
    FIRST_ID,
    KEY,
    TESTS,
    Alarms,
    Gate,
    age,
    ask,
    audit_of,
    id_made,
    paid,
    refunded,
    taking,
    two_shops,
)
from tests.support.books import beyond_the_law
from tests.support.due_work import work_off
from tests.support.replies import accepted, status_reply
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
OTHER_KEY = "key-of-another-request"
EMOJI = "🩷"


@pytest.fixture
async def shops(services: Services) -> dict[int, str]:
    """The two shops that these tests ask for."""
    return await two_shops(services)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A call has no effect any more as soon as its sender is given up."""
    return settings.model_copy(update={"late_effect_s": 0})


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


async def sender_dies(services: Services, wire: respx.MockRouter, **changes: Any) -> Gate:
    """A payment whose process died in mid-call."""
    gate = Gate(httpx.Response(500))
    wire.get("/create/" if changes.get("phone", "") is not None else "/create-link/").mock(side_effect=gate)
    task = asyncio.create_task(services.payments.create(ask(**changes)))
    await gate.reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return gate


def give_back(payment: Payment, tenge: int | None = 10, **changes: Any) -> RefundRequest:
    amount = None if tenge is None else Money.from_tenge(tenge)
    return RefundRequest(**{"caller": TESTS, "payment": payment, "amount": amount, **changes})


async def refunder_dies(services: Services, wire: respx.MockRouter, payment: Payment, **changes: Any) -> Gate:
    """A refund whose process died in mid-call."""
    gate = Gate(refunded())
    wire.get("/refund/").mock(side_effect=gate)
    task = asyncio.create_task(services.refunds.refund(give_back(payment, **changes)))
    await gate.reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return gate


# --- sending blocks as unknown does

WINDOWS = pytest.mark.parametrize("window_s", [60, 0])
KEYS: list[dict[str, Any]] = [{}, {"idempotency_key": KEY}, {"order_id": "o"}, {"phone": None}]


@WINDOWS
@pytest.mark.parametrize("words", KEYS)
async def test_payment_whose_sender_died_is_not_sent_again_however_late_it_is_asked(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, words: dict[str, Any], window_s: int
) -> None:
    payments = replace(services.payments, rules=replace(services.payments.rules, duplicate_window_s=window_s))
    gate = await sender_dies(services, wire, **words)
    with pytest.raises(StillRunning):
        await payments.create(ask(**words))
    for seconds in (40, 30, 3600, 86400):
        await age(sql, seconds)
        again = await payments.create(ask(**words))
        assert (again.replayed, again.payment.state) == (True, "sending")
    assert gate.calls == 1


@WINDOWS
@pytest.mark.parametrize("words", [{}, {"idempotency_key": KEY}, {"tenge": None}])
async def test_refund_whose_sender_died_is_not_sent_again_however_late_it_is_asked(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, words: dict[str, Any], window_s: int
) -> None:
    payment = await paid(services, wire)
    refunds = replace(services.refunds, rules=replace(services.refunds.rules, duplicate_window_s=window_s))
    gate = await refunder_dies(services, wire, payment, **words)
    with pytest.raises(StillRunning):
        await refunds.refund(give_back(payment, **words))
    for seconds in (40, 30, 3600):
        await age(sql, seconds, "refund")
        again = await refunds.refund(give_back(payment, **words))
        assert (again.replayed, again.refund.state) == (True, "sending")
    assert gate.calls == 1


async def test_later_equal_payment_does_not_hide_the_one_in_flight(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await sender_dies(services, wire)
    await age(sql, 3600)
    route = taking(wire)
    await services.payments.create(ask(idempotency_key=KEY))  # equal words, and a key that says: another one
    again = await services.payments.create(ask())
    assert again.payment.state == "sending"
    assert route.call_count == 1


STATES = {
    "sending": "state = 'sending'",
    "unknown": "state = 'unknown'",
    "pending": "state = 'pending', external_id = id::text",
    "paid": "state = 'paid', external_id = id::text",
    "rejected": "state = 'failed', failure = 'rejected'",
    "not_sent": "state = 'failed', failure = 'not_sent'",
}


@checking(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.sampled_from(sorted(STATES)), st.integers(0, 9)), min_size=1, max_size=4))
async def test_database_finds_the_equal_payment_that_the_decision_means(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, rows: list[tuple[str, int]]
) -> None:
    taking(wire)
    await beyond_the_law(sql, "DELETE FROM idempotency_claim", "DELETE FROM payment")
    fingerprint = ""
    for number, (kind, minutes) in enumerate(rows):
        payment = (await services.payments.create(ask(idempotency_key=f"key-number-{number}"))).payment
        fingerprint = payment.fingerprint or ""
        known = f"now() - interval '{minutes} minutes'"
        made = f"created_at = now() - interval '20 minutes' + interval '{number} seconds', known_at = {known}"
        if kind in {"sending", "unknown"}:
            made = f"created_at = {known}, known_at = NULL"
        await beyond_the_law(sql, f"UPDATE payment SET {STATES[kind]}, {made} WHERE id = '{payment.id}'")
    candidates = [
        Earlier(row["state"], row["failure"], float(row["age"]), float(row["known"]))
        for row in await sql.fetch(
            "SELECT state, failure, extract(epoch FROM now() - created_at) AS age,"
            " extract(epoch FROM now() - coalesce(known_at, created_at)) AS known FROM payment ORDER BY id"
        )
    ]
    found = await services.payments._intend(ask(id=id_made(3600)), None, fingerprint)
    meant = decisive(candidates)
    verdict = verdict_for_equal(meant, services.payments.rules, by_key=False)
    assert found["obstacle"] == ("not_allowed" if verdict is Verdict.GO_ON else "alike")
    if verdict is not Verdict.GO_ON and meant is not None:
        assert (found["state"], found["failure"]) == (meant.state, meant.failure)
        assert found["known_s"] == pytest.approx(meant.known_s, abs=5)


@pytest.mark.parametrize("state", ["sending", "unknown"])
async def test_database_itself_refuses_an_equal_payment_while_one_is_in_flight(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, state: str
) -> None:
    await sender_dies(services, wire)
    if state == "unknown":
        await age(sql, 31)
        await services.polling.mark_lost_unknown()
    with pytest.raises(asyncpg.PostgresError, match="equal payment") as refused:
        await sql.execute(
            "INSERT INTO payment (id, method, shop_id, route_version, provider, organization_bin, device_token_id,"
            " amount, phone_last4, short_code, caller, fingerprint, keyed, state)"
            " SELECT gen_random_uuid(), method, shop_id, route_version, provider, organization_bin, device_token_id,"
            " amount, phone_last4, short_code, caller, fingerprint, false, 'sending' FROM payment"
        )
    assert constraint_of(refused.value) == "payment_like_in_flight"


async def test_equal_request_right_after_a_long_doubt_ended_is_the_same_one(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(accepted(FIRST_ID))
    route = wire.get("/create/").mock(side_effect=gate)
    slow = asyncio.create_task(services.payments.create(ask()))
    await gate.reached.wait()
    await age(sql, 3600)  # the database was away for so long, and the process still knows
    gate.open.set()
    first = (await slow).payment
    assert first.state == "pending"
    again = await services.payments.create(ask())
    assert (again.replayed, again.payment.id) == (True, first.id)
    assert route.call_count == 1
    await beyond_the_law(sql, "UPDATE payment SET known_at = known_at - interval '61 seconds'")
    gate = Gate(accepted(FIRST_ID + 1))
    gate.open.set()
    wire.get("/create/").mock(side_effect=gate)
    assert not (await services.payments.create(ask(id=id_made(61)))).replayed


async def test_equal_refund_right_after_a_long_doubt_ended_is_the_same_one(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await paid(services, wire)
    await refunder_dies(services, wire, payment)
    await age(sql, 3600, "refund")
    await services.refund_settling.mark_lost_unknown()
    refund_id = await sql.fetchval("SELECT id FROM refund")
    await services.refund_settling.settle(
        FULL_ACCESS, refund_id, RefundSettlement(succeeded=True, reason="Seen in the cabinet")
    )
    route = wire.get("/refund/").mock(return_value=refunded())
    again = await services.refunds.refund(give_back(payment))
    assert (again.replayed, again.refund.id) == (True, refund_id)
    assert not route.called


# --- an order whose payment is open or unknown


@pytest.mark.parametrize("state", ["sending", "unknown", "pending"])
@pytest.mark.parametrize(
    "changes",
    [{"tenge": 2000}, {"idempotency_key": OTHER_KEY, "tenge": 2000}, {"phone": None}, {"message": "Other"}],
)
async def test_other_request_for_an_open_order_is_refused_and_its_key_stands_for_nothing(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, state: str, changes: dict[str, Any]
) -> None:
    if state == "pending":
        taking(wire)
        await services.payments.create(ask(order_id="o"))
    else:
        await sender_dies(services, wire, order_id="o")
        await age(sql, 31)
        if state == "unknown":
            await services.polling.mark_lost_unknown()
    with pytest.raises(OrderAlreadyOpen) as caught:
        await services.payments.create(ask(order_id="o", **changes))
    assert caught.value.extra["state"] == state
    assert caught.value.extra["id"] == str(await sql.fetchval("SELECT id FROM payment"))
    assert await sql.fetchval("SELECT count(*) FROM idempotency_claim") == 0
    assert await sql.fetchval("SELECT count(*) FROM payment") == 1


async def test_equal_request_under_another_key_gets_the_orders_payment(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    first = await services.payments.create(ask(order_id="o", idempotency_key=KEY))
    again = await services.payments.create(ask(order_id="o", idempotency_key=OTHER_KEY))
    assert (again.replayed, again.payment.id) == (True, first.payment.id)
    assert route.call_count == 1


# --- metadata is part of what a key stands for


@pytest.mark.parametrize("metadata", [{}, {"a": "2"}, {"a": "1", "b": "1"}])
async def test_same_key_with_other_metadata_is_another_request(
    services: Services, wire: respx.MockRouter, metadata: dict[str, str]
) -> None:
    route = taking(wire)
    await services.payments.create(ask(idempotency_key=KEY, metadata={"a": "1"}))
    with pytest.raises(IdempotencyKeyReused):
        await services.payments.create(ask(idempotency_key=KEY, metadata=metadata))
    assert (await services.payments.create(ask(idempotency_key=KEY, metadata={"a": "1"}))).replayed
    assert route.call_count == 1


async def test_metadata_makes_no_other_request_of_one_without_a_key(services: Services, wire: respx.MockRouter) -> None:
    route = taking(wire)
    await services.payments.create(ask(metadata={"sent_at": "10:00:00"}))
    assert (await services.payments.create(ask(metadata={"sent_at": "10:00:01"}))).replayed
    assert route.call_count == 1


async def test_order_under_another_key_with_other_metadata_is_another_request(
    services: Services, wire: respx.MockRouter
) -> None:
    taking(wire)
    await services.payments.create(ask(order_id="o", metadata={"a": "1"}, idempotency_key=KEY))
    with pytest.raises(OrderAlreadyOpen):
        await services.payments.create(ask(order_id="o", metadata={"a": "2"}, idempotency_key=OTHER_KEY))


# --- a process that stood still


def stands_still(seconds: float, service: Payments | Refunds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps while the intent is written, as it does for a process that was stopped."""
    jumped = 0.0
    write = type(service)._write_intent

    async def written_then_stopped(*args: Any, **more: Any) -> Any:
        nonlocal jumped
        answer = await write(*args, **more)
        jumped = seconds
        return answer

    monkeypatch.setattr(type(service), "_write_intent", written_then_stopped)
    clocks = SimpleNamespace(clock_gettime=lambda _clock: time.monotonic() + jumped)
    monkeypatch.setattr("payment_service.providers.deadline.time", clocks)


BEGUN_IN_TIME = pytest.mark.parametrize(("seconds", "calls"), [(20, 1), (23, 0), (3600, 0)])


@BEGUN_IN_TIME
async def test_call_that_comes_too_late_after_its_intent_is_not_made(
    services: Services, wire: respx.MockRouter, monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int
) -> None:
    route = taking(wire)
    stands_still(seconds, services.payments, monkeypatch)
    payment = (await services.payments.create(ask())).payment
    assert (payment.state, route.call_count) == ("pending" if calls else "failed", calls)
    assert (payment.failure, payment.error_code) == ((None, None) if calls else ("not_sent", "too_late_to_send"))


@BEGUN_IN_TIME
async def test_refund_that_comes_too_late_after_its_intent_is_not_made(
    services: Services, wire: respx.MockRouter, monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int
) -> None:
    payment = await paid(services, wire)
    route = wire.get("/refund/").mock(return_value=refunded())
    stands_still(seconds, services.refunds, monkeypatch)
    refund = (await services.refunds.refund(give_back(payment))).refund
    assert (refund.state, route.call_count) == ("succeeded" if calls else "failed", calls)
    assert (refund.failure, refund.error_code) == ((None, None) if calls else ("not_sent", "too_late_to_send"))


async def test_call_that_stands_still_on_its_way_ends_with_its_lease() -> None:
    window = SendingWindow(begin_within_s=1, lease_s=0.05)
    never: asyncio.Future[Outcome[PaymentReceipt]] = asyncio.get_running_loop().create_future()
    assert await window.send(lambda: never) == Unknown("lease_over")


async def test_first_byte_of_a_call_knows_when_its_lease_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    jumped, over = 0.0, []
    clocks = SimpleNamespace(clock_gettime=lambda _clock: time.monotonic() + jumped)
    monkeypatch.setattr("payment_service.providers.deadline.time", clocks)

    async def stands_still_before_it() -> Outcome[PaymentReceipt]:
        nonlocal jumped
        for moment in (29, 31):
            jumped = moment
            over.append(deadline.is_over())
        return Unknown("late")

    await SendingWindow(begin_within_s=1, lease_s=30).send(stands_still_before_it)
    assert over == [False, True]
    assert not deadline.is_over()  # of no other call


# --- what transaction 2 could refuse

LARGEST: dict[str, Any] = {
    "message": EMOJI * 200,
    "order_id": EMOJI * 64,
    # 20 keys and values of 4-byte characters: 8 kB of JSON.
    "metadata": {f"{EMOJI}{number:02d}": EMOJI * 96 for number in range(20)},
}


async def test_largest_payment_is_paid_refunded_and_told(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    assert 7900 < await sql.fetchval("SELECT octet_length($1::jsonb::text)", json.dumps(LARGEST["metadata"])) <= 8192
    payment = await paid(services, wire, ask("99999999.99", **LARGEST))
    wire.get("/refund/").mock(return_value=refunded())
    for tenge in (10, None):
        assert (await services.refunds.refund(give_back(payment, tenge))).refund.state == "succeeded"
    assert await sql.fetchval("SELECT count(*) FROM event WHERE octet_length(data::text) > 8192") == 4


@pytest.mark.parametrize("words", [{}, {"phone": None}])
async def test_largest_payment_that_is_unknown_is_unknown(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, words: dict[str, Any]
) -> None:
    await sender_dies(services, wire, **LARGEST, **words)
    await age(sql, 31)
    assert await services.polling.mark_lost_unknown() == 1
    assert await sql.fetchval("SELECT state FROM payment") == "unknown"


async def test_metadata_beyond_its_limit_sends_nothing(services: Services, wire: respx.MockRouter) -> None:
    route = taking(wire)
    with pytest.raises(DatabaseUnavailable) as told:
        await services.payments.create(ask(metadata={str(number): EMOJI * 110 for number in range(20)}))
    assert told.value.__cause__ is not None
    assert constraint_of(told.value.__cause__) == "payment_metadata_fits"
    assert not route.called


REFUSES: dict[str, str] = {
    "law": "PERFORM break_law('nobody_foresaw_this', 'no');",
    "value": "PERFORM 'x'::integer;",
}


async def refuse(sql: asyncpg.Connection, table: str, when: str, how: str) -> None:
    """A law that only the outcome meets, in this test's database."""
    await sql.execute(
        f"CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {REFUSES[how]} RETURN NEW; END $$;"
        f"CREATE TRIGGER planted BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION planted()"
    )


@pytest.fixture
async def planted(sql: asyncpg.Connection) -> Any:
    """Takes the planted law out again."""
    yield
    await sql.execute("DROP FUNCTION IF EXISTS planted() CASCADE")


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("how", REFUSES)
async def test_outcome_that_the_database_refuses_is_unknown_and_keeps_its_id(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms, how: str
) -> None:
    taking(wire)
    await refuse(sql, "payment", "NEW.state = 'pending' AND OLD.state = 'sending'", how)
    payment = (await services.payments.create(ask())).payment
    assert (payment.state, payment.external_id, payment.error_code) == ("unknown", str(FIRST_ID), "outcome_refused")
    assert alarms["outcome_refused"] == 1
    assert await audit_of(sql) == [("create", "unknown")]


async def test_outcome_that_a_mistake_of_ours_keeps_from_being_written_is_unknown(
    services: Services, wire: respx.MockRouter, monkeypatch: pytest.MonkeyPatch, alarms: Alarms
) -> None:
    taking(wire)
    write = Moves.write

    async def mistaken(*args: Any, **more: Any) -> bool:
        if args[2].state is State.PENDING:
            raise KeyError("mistake")
        return await write(*args, **more)

    monkeypatch.setattr(Moves, "write", mistaken)
    payment = (await services.payments.create(ask())).payment
    assert (payment.state, payment.external_id) == ("unknown", str(FIRST_ID))
    assert alarms["outcome_refused"] == 1


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("how", REFUSES)
async def test_refund_outcome_that_the_database_refuses_is_unknown_and_stays_reserved(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms, how: str
) -> None:
    payment = await paid(services, wire)
    wire.get("/refund/").mock(return_value=refunded())
    await refuse(sql, "refund", "NEW.state = 'succeeded'", how)
    done = await services.refunds.refund(give_back(payment))
    assert (done.refund.state, done.payment.reserved_amount) == ("unknown", 1000)
    assert alarms["outcome_refused"] == 1


# --- a database that takes intents and no outcomes


def _later(services: Services, by_s: float) -> None:
    """Let the pause of the breaker of outcomes pass."""
    services.payments.outcomes.breaker.clock = lambda: time.monotonic() + by_s


@pytest.mark.usefixtures("planted")
async def test_nothing_new_is_sent_while_no_outcome_can_be_written(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    """A right that is missing, a trigger that fails: each payment was sent all the same, and none recorded."""
    payment = await paid(services, wire, ask(order_id="earlier"))
    route, refunds = taking(wire), wire.get("/refund/").mock(return_value=refunded())
    await refuse(sql, "payment", "OLD.state = 'sending'", "law")
    under_way = [services.inflight.begin(services.payments.create(ask(tenge))) for tenge in (1, 2, 3)]
    await until(lambda: asyncio.sleep(0, services.payments.outcomes.breaker.is_blocking))
    sent = route.call_count
    for operation in (services.payments.create(ask(4)), services.refunds.refund(give_back(payment))):
        with pytest.raises(DatabaseUnavailable):
            await operation
    with pytest.raises(StillRunning):  # what was sent is not said to be unsent
        await services.payments.create(ask(1))
    with pytest.raises(OrderAlreadyPaid):
        await services.payments.create(ask(message="Again", order_id="earlier"))
    assert (route.call_count, refunds.call_count) == (sent, 0)
    assert OUTCOMES_UNWRITTEN._value.get() == 3
    await sql.execute("DROP FUNCTION planted() CASCADE")
    assert {(await each).payment.state for each in under_way} == {"unknown"}
    assert OUTCOMES_UNWRITTEN._value.get() == 0


@pytest.mark.usefixtures("planted")
async def test_after_a_pause_one_payment_tries_whether_outcomes_can_be_written(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    """Those before it are unknown for good, so that no write of theirs can show it."""
    taking(wire)
    await refuse(sql, "payment", "NEW.state = 'pending' AND OLD.state = 'sending'", "law")
    for tenge in (1, 2, 3):
        assert (await services.payments.create(ask(tenge))).payment.state == "unknown"
    with pytest.raises(DatabaseUnavailable):
        await services.payments.create(ask(4))
    _later(services, PAUSE_S + 1)
    assert (await services.payments.create(ask(5))).payment.state == "unknown"
    with pytest.raises(DatabaseUnavailable):
        await services.payments.create(ask(6))
    await sql.execute("DROP FUNCTION planted() CASCADE")
    _later(services, 3 * PAUSE_S)
    for tenge in (7, 8):
        assert (await services.payments.create(ask(tenge))).payment.state == "pending"


@pytest.mark.usefixtures("planted")
async def test_rows_that_somebody_locked_stop_nobody_else(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    await refuse(sql, "payment", "NEW.state = 'pending' AND OLD.state = 'sending' AND NEW.amount < 1000", "law")
    for tenge in (1, 2, 100, 3, 200, 4, 5, 300):
        state = (await services.payments.create(ask(tenge))).payment.state
        assert state == ("pending" if tenge >= 10 else "unknown")


# --- sweeps


@pytest.mark.usefixtures("planted")
async def test_payment_that_cannot_be_settled_keeps_no_other_back(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    for tenge in (1, 2, 3):
        await sender_dies(services, wire, tenge=tenge)
    await age(sql, 31)
    await refuse(sql, "payment", "NEW.amount = 200", "law")
    assert await services.polling.mark_lost_unknown() == 2
    assert alarms["payment_not_settled"] == 1
    assert await sql.fetch("SELECT amount FROM payment WHERE state = 'sending'") == [(200,)]
    tasks = [(task.amount, task.state) for task in await services.settling.tasks(FULL_ACCESS)]
    assert sorted(tasks, key=str) == [(100, "unknown"), (200, "sending"), (300, "unknown")]


@pytest.mark.usefixtures("planted")
async def test_refund_that_cannot_be_settled_keeps_no_other_back(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    payment = await paid(services, wire)
    for tenge in (1, 2, 3):
        await refunder_dies(services, wire, payment, tenge=tenge)
    await age(sql, 31, "refund")
    await refuse(sql, "refund", "NEW.amount = 200", "law")
    assert await services.refund_settling.mark_lost_unknown() == 2
    assert alarms["refund_not_settled"] == 1
    tasks = [(refund.amount, refund.state) for refund, _payment in await services.refund_settling.tasks(FULL_ACCESS)]
    assert sorted(tasks) == [(100, "unknown"), (200, "sending"), (300, "unknown")]


@pytest.mark.usefixtures("planted")
async def test_payment_whose_end_cannot_be_written_is_told(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    taking(wire)
    await services.payments.create(ask())
    wire.get("/status/").mock(return_value=status_reply(FIRST_ID, "Processed"))
    await refuse(sql, "payment", "NEW.state = 'paid'", "law")
    await beyond_the_law(sql, "UPDATE payment SET next_check_at = now()")
    with pytest.raises(asyncpg.CheckViolationError):
        await work_off(services.polling)
    assert alarms["reading_not_written"] == 1


# --- people


@pytest.mark.parametrize("age_s", [31, -18_000])
async def test_payment_whose_sender_died_is_settled_by_a_person_without_a_worker(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, age_s: int
) -> None:
    """Also when the database's clock was five hours ahead then."""
    await sender_dies(services, wire)
    payment_id = await sql.fetchval("SELECT id FROM payment")
    found = Settlement(state=State.PAID, reason="Seen in the cabinet", external_id="777")
    wire.get("/status/").mock(return_value=status_reply("777", "Processed"))
    with pytest.raises(NothingToSettle):
        await services.settling.settle(FULL_ACCESS, payment_id, found)
    await age(sql, age_s)
    assert (await services.settling.settle(FULL_ACCESS, payment_id, found)).state == "paid"
    assert await audit_of(sql) == [("settle", "unknown"), ("settle", "paid")]


@pytest.mark.parametrize(
    ("age_s", "succeeded", "state"), [(31, True, "succeeded"), (31, False, "failed"), (-18_000, True, "succeeded")]
)
async def test_refund_whose_sender_died_is_settled_by_a_person_without_a_worker(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, age_s: int, succeeded: bool, state: str
) -> None:
    payment = await paid(services, wire)
    await refunder_dies(services, wire, payment)
    refund_id = await sql.fetchval("SELECT id FROM refund")
    found = RefundSettlement(succeeded=succeeded, reason="Seen in the cabinet")
    with pytest.raises(NothingToSettle):
        await services.refund_settling.settle(FULL_ACCESS, refund_id, found)
    await age(sql, age_s, "refund")
    assert (await services.refund_settling.settle(FULL_ACCESS, refund_id, found)).refund.state == state
