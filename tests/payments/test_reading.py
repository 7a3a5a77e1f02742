"""Following an open payment: whose turn it is, what is planned next, and jobs that get lost."""

import asyncio
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.payments.lifecycle import State, Step
from payment_service.payments.models import Payment
from payment_service.payments.moves import Moves
from payment_service.payments.polling import READING_LEASE_S
from payment_service.services import Services
from tests.support.asking import OTHER_SHOP, SHOP, Alarms, Gate, ask, audit_of, taking
from tests.support.database import without_laws
from tests.support.due_work import work_off
from tests.support.replies import accepted, failure, status_reply

pytestmark = pytest.mark.usefixtures("shops")
CREATED = 12800627774


@pytest.fixture
async def payment(services: Services, wire: respx.MockRouter) -> Payment:
    """An open payment that was taken on a moment ago."""
    wire.get("/create/").mock(return_value=accepted(CREATED))
    return (await services.payments.create(ask())).payment


async def due(sql: asyncpg.Connection, *, late_s: float = 0) -> None:
    """It is the turn of every open payment."""
    await sql.execute(
        "UPDATE payment SET next_check_at = now() - make_interval(secs => $1) WHERE next_check_at IS NOT NULL", late_s
    )


async def planned_s(sql: asyncpg.Connection) -> int | None:
    """In how many seconds the next reading was planned, as seen from the last change."""
    seconds = await sql.fetchval("SELECT round(extract(epoch FROM next_check_at - updated_at)) FROM payment")
    return None if seconds is None else int(seconds)


def tells(wire: respx.MockRouter, status: str) -> respx.Route:
    return wire.get("/status/").mock(return_value=status_reply(CREATED, status))


async def test_payment_that_was_taken_on_is_followed(
    services: Services, payment: Payment, sql: asyncpg.Connection
) -> None:
    assert await planned_s(sql) == services.reading.moves.plan.first_s


@pytest.mark.parametrize("reply", [failure(-99000001), httpx.ConnectError("refused"), httpx.Response(500)])
async def test_payment_without_an_external_id_is_not_followed(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, reply: httpx.Response | Exception
) -> None:
    wire.get("/create/").mock(side_effect=[reply])
    await services.payments.create(ask())
    assert await planned_s(sql) is None


@pytest.mark.parametrize(("status", "state"), [("Processed", "paid"), ("RemotePaymentCanceled", "cancelled")])
async def test_payment_that_ended_is_followed_no_more(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, status: str, state: str
) -> None:
    tells(wire, status)
    await due(sql)
    await work_off(services.polling)
    assert await sql.fetchrow("SELECT state, next_check_at FROM payment") == (state, None)
    assert await audit_of(sql, "status") == [("status", state)]


async def test_payment_that_is_not_due_is_not_asked_about(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    route = tells(wire, "Processed")
    await work_off(services.polling)
    assert not route.called


async def test_of_two_turns_at_once_only_one_asks(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = tells(wire, "Wait")
    await due(sql)
    await asyncio.gather(*(work_off(services.polling) for _ in range(10)))
    assert route.call_count == 1
    assert await sql.fetchval("SELECT checks FROM payment") == 1


async def test_payment_that_waits_is_asked_about_again(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Wait")
    await due(sql)
    await work_off(services.polling)
    assert await planned_s(sql) == services.reading.moves.plan.first_s
    assert await audit_of(sql, "status") == []


@pytest.mark.parametrize(
    "reply",
    [httpx.ConnectError("refused"), httpx.Response(500), httpx.Response(403), failure(-99000001), failure(-999)],
)
async def test_reading_that_failed_changes_nothing_and_is_repeated(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    reply: httpx.Response | Exception,
) -> None:
    wire.get("/status/").mock(side_effect=[reply])
    await due(sql)
    await work_off(services.polling)
    assert await sql.fetchval("SELECT state FROM payment") == "pending"
    assert await planned_s(sql) is not None


async def test_error_is_believed_only_at_a_second_later_reading(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Error")
    for _ in range(2):
        await due(sql)
        await work_off(services.polling)
        assert await sql.fetchval("SELECT state FROM payment") == "pending"
        assert await planned_s(sql) == services.reading.moves.plan.confirm_s
    await sql.execute("UPDATE payment SET error_seen_at = error_seen_at - interval '31 seconds'")
    await due(sql)
    await work_off(services.polling)
    assert await sql.fetchrow("SELECT state, failure, error_code FROM payment") == ("failed", "declined", "Error")
    assert await audit_of(sql, "status") == [("status", "failed")]


@pytest.mark.parametrize("asks", ["follow", pytest.param("refresh", marks=pytest.mark.thorough)])
async def test_error_that_was_asked_for_too_soon_is_not_believed_however_late_it_is_written(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, asks: str
) -> None:
    moves = replace(services.reading.moves, plan=replace(services.reading.moves.plan, confirm_s=1))
    reading, polling = replace(services.reading, moves=moves), replace(services.polling, moves=moves)
    tells(wire, "Error")
    await reading.refresh(payment)
    gate = Gate(status_reply(CREATED, "Error"))
    wire.get("/status/").mock(side_effect=gate)
    await due(sql)
    second = asyncio.create_task(work_off(polling) if asks == "follow" else reading.refresh(payment))
    await gate.reached.wait()
    await asyncio.sleep(1.1)
    gate.open.set()
    await second
    assert await sql.fetchval("SELECT state FROM payment") == "pending"
    await due(sql)
    await work_off(polling)
    assert await sql.fetchval("SELECT state FROM payment") == "failed"


async def test_error_that_was_taken_back_is_forgotten(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    for status in ("Error", "Wait"):
        tells(wire, status)
        await due(sql)
        await work_off(services.polling)
    assert await sql.fetchval("SELECT error_seen_at FROM payment") is None


async def test_payment_older_than_a_day_is_followed_no_more(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Wait")
    moves = replace(services.reading.moves, plan=replace(services.reading.moves.plan, follow_for_s=0))
    await due(sql)
    await work_off(replace(services.polling, moves=moves))
    assert await sql.fetchrow("SELECT state, next_check_at FROM payment") == ("pending", None)


async def test_unknown_payment_that_turns_out_cancelled_ends_at_its_next_turn(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create-link/").mock(return_value=accepted(paymentId=CREATED))
    payment = (await services.payments.create(ask(phone=None))).payment
    assert payment.state == "unknown"
    tells(wire, "RemotePaymentCanceled")
    for _ in range(2):
        await due(sql)
        await work_off(services.polling)
    assert await audit_of(sql, "status") == [("status", "pending"), ("status", "cancelled")]


async def test_final_word_that_cannot_be_read_again_does_not_ask_without_pause(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=accepted(CREATED, status="Processed"))
    await services.payments.create(ask())
    wire.get("/status/").mock(return_value=httpx.Response(500))
    await due(sql)
    await work_off(services.polling)
    assert await planned_s(sql) != 0


# --- turns


async def test_reading_whose_worker_died_is_made_again_when_its_lease_has_ended(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Processed")
    await due(sql)
    [turn] = await services.polling.claim(20)  # and then it dies
    assert (turn.payment.id, turn.payment.checks) == (payment.id, 1)
    lease_s = await sql.fetchval("SELECT extract(epoch FROM next_check_at - updated_at)::float FROM payment")
    assert lease_s == READING_LEASE_S
    assert await work_off(services.polling) == 0
    await due(sql)
    assert await work_off(services.polling) == 1
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


async def test_plan_of_a_reading_that_comes_late_is_not_written_over_a_newer_one(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Wait")
    await due(sql)
    [late] = await services.polling.claim(20)
    await services.polling.hint("kaspi", str(CREATED), shop_id=SHOP)
    planned = await sql.fetchval("SELECT next_check_at FROM payment")
    await services.polling.perform(late)
    assert await sql.fetchval("SELECT next_check_at FROM payment") == planned
    [newer] = await services.polling.claim(20)
    await services.polling.perform(newer)
    planned = await sql.fetchval("SELECT next_check_at FROM payment")
    await services.polling.perform(late)
    assert await sql.fetchval("SELECT next_check_at FROM payment") == planned


async def test_move_that_a_late_reading_teaches_is_written(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await due(sql)
    [late] = await services.polling.claim(20)
    tells(wire, "Error")
    await services.reading.refresh(payment)  # the payment is not any more as it was claimed
    tells(wire, "Processed")
    await services.polling.perform(late)
    assert await sql.fetchrow("SELECT state, next_check_at FROM payment") == ("paid", None)
    assert await audit_of(sql, "status") == [("status", "paid")]


@pytest.mark.parametrize(
    ("meanwhile", "writes"),
    [
        ("checks = checks + 1", True),
        ("state = 'unknown'", False),
        ("version = version + 1", False),
        ("external_id = '999'", False),
        ("error_seen_at = now()", False),
        ("source = 'client', same_as = gen_random_uuid(), next_check_at = NULL", False),
    ],
)
async def test_move_is_written_only_over_the_row_that_it_was_decided_on(
    services: Services, payment: Payment, sql: asyncpg.Connection, meanwhile: str, writes: bool
) -> None:
    async with without_laws(sql):
        await sql.execute(f"UPDATE payment SET {meanwhile}")
    state, step = payment.state, Step(State.PAID, status="Processed")
    is_written = await services.polling.moves.write(payment, step, "status", now=payment.created_at)
    found = "paid" if writes else "unknown" if meanwhile.startswith("state") else state
    assert (is_written, await sql.fetchval("SELECT state FROM payment")) == (writes, found)
    assert (await audit_of(sql, "status") == [("status", "paid")]) is writes


async def test_due_payments_are_claimed_together_from_both_ends_and_once(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    made = [(await services.payments.create(ask(tenge))).payment.id for tenge in range(1, 8)]
    for late_s, payment_id in enumerate(made):
        await sql.execute(
            "UPDATE payment SET next_check_at = now() - make_interval(secs => $1) WHERE id = $2", late_s, payment_id
        )
    first = await services.polling.claim(4)
    others = await asyncio.gather(*(services.polling.claim(3) for _ in range(4)))
    assert {turn.payment.id for turn in first} == {*made[:2], *made[-2:]}
    claimed = [turn.payment.id for turns in (first, *others) for turn in turns]
    assert len(claimed) == len(set(claimed)) == 7


async def test_shop_whose_readings_hang_leaves_half_of_the_slots_to_the_others(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    polling = replace(services.polling, slots=4)
    for tenge in range(1, 31):
        await services.payments.create(ask(tenge))
    await services.payments.create(ask(shop_id=OTHER_SHOP))
    await due(sql)
    await sql.execute("UPDATE payment SET next_check_at = now() - interval '1 hour' WHERE shop_id = $1", SHOP)
    claimed = await polling.claim(4)
    assert sorted(turn.payment.shop_id for turn in claimed) == sorted([SHOP, SHOP, OTHER_SHOP])
    assert await polling.claim(1) == []
    tells(wire, "Wait")
    await polling.perform(next(turn for turn in claimed if turn.payment.shop_id == SHOP))
    assert [turn.payment.shop_id for turn in await polling.claim(1)] == [SHOP]


async def test_buyer_of_now_does_not_wait_behind_all_that_was_due_while_no_worker_ran(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    for tenge in range(1, 31):
        await services.payments.create(ask(tenge))
    await sql.execute("UPDATE payment SET next_check_at = now() - interval '40 days' * random()")
    now = (await services.payments.create(ask(shop_id=OTHER_SHOP))).payment.id
    await sql.execute("UPDATE payment SET next_check_at = now() WHERE id = $1", now)
    assert now in {turn.payment.id for turn in await services.polling.claim(2)}


async def test_plans_that_cannot_be_written_together_are_written_alone(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    taking(wire)
    for tenge in range(1, 4):
        await services.payments.create(ask(tenge))
    await due(sql)
    bad, *good = await services.polling.claim(20)
    wire.get("/status/").mock(side_effect=lambda asked: status_reply(asked.url.params["externalId"], "Wait"))
    delay_s = type(services.polling.moves).delay_s

    def choke(self: Moves, payment: Payment, *rest: Any, **more: Any) -> float | None:
        if payment.id == bad.payment.id:
            raise RuntimeError("no plan for this one")
        return delay_s(self, payment, *rest, **more)

    monkeypatch.setattr(Moves, "delay_s", choke)
    alarms = Alarms()
    results = await asyncio.gather(*(services.polling.perform(turn) for turn in (bad, *good)), return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, type(None), type(None)]
    assert alarms["reading_not_written"] == 1
    planned = await sql.fetch("SELECT id FROM payment WHERE next_check_at < now() + interval '10 seconds'")
    assert {row["id"] for row in planned} == {turn.payment.id for turn in good}


# --- hints


async def test_hint_brings_the_turn_forward(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Processed")
    await services.polling.hint("kaspi", str(CREATED), shop_id=SHOP)
    await work_off(services.polling)
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


@pytest.mark.parametrize(("shop_id", "external_id"), [(OTHER_SHOP, str(CREATED)), (SHOP, "999")])
async def test_hint_about_another_payment_does_nothing(
    services: Services, payment: Payment, wire: respx.MockRouter, shop_id: int, external_id: str
) -> None:
    route = tells(wire, "Processed")
    await services.polling.hint("kaspi", external_id, shop_id=shop_id)
    await work_off(services.polling)
    assert not route.called


async def test_hint_about_a_cancelled_payment_that_is_paid_raises_an_alarm(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    alarms = Alarms()
    for word in ("RemotePaymentCanceled", "Processed"):
        tells(wire, word)
        await services.polling.hint("kaspi", str(CREATED))
        await work_off(services.polling)
    row = await sql.fetchrow("SELECT state, status, next_check_at FROM payment")
    assert tuple(row or ()) == ("cancelled", "RemotePaymentCanceled", None)
    assert alarms["state_contradicted"] == 1


# --- readings that race


@pytest.mark.parametrize("word", ["Error", "Wait"])
async def test_reading_that_comes_late_does_not_undo_what_is_known(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, word: str
) -> None:
    alarms = Alarms()
    gate = Gate(status_reply(CREATED, word))
    wire.get("/status/").mock(side_effect=gate)
    slow = asyncio.create_task(services.reading.refresh(payment))
    await gate.reached.wait()
    tells(wire, "Processed").side_effect = None
    await services.reading.refresh(payment)
    gate.open.set()
    late = await slow
    assert (late.state, late.status, alarms["state_contradicted"]) == ("paid", "Processed", 0)
    assert await audit_of(sql, "status") == [("status", "paid")]


async def test_many_readings_of_a_paid_payment_are_one_move(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Processed")
    await asyncio.gather(*(services.reading.refresh(payment) for _ in range(10)))
    assert await audit_of(sql, "status") == [("status", "paid")]


async def test_payments_of_many_shops_are_followed_each_by_its_own_id(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    taking(wire)
    made = [(await services.payments.create(ask(shop_id=shop_id))).payment for shop_id in (SHOP, OTHER_SHOP)]

    def tell(request: httpx.Request) -> httpx.Response:
        asked = request.url.params["externalId"]
        return status_reply(asked, "Processed" if asked == made[0].external_id else "Wait")

    wire.get("/status/").mock(side_effect=tell)
    await due(sql)
    await asyncio.gather(*(work_off(services.polling) for payment in made))
    rows = await sql.fetch("SELECT id, state FROM payment")
    assert {row["id"]: row["state"] for row in rows} == {made[0].id: "paid", made[1].id: "pending"}


def test_lease_of_a_reading_is_longer_than_a_call(services: Services) -> None:
    assert services.settings.kaspi_deadline_s < READING_LEASE_S
