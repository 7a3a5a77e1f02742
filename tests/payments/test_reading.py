"""Following an open payment: whose turn it is, what is planned next, and jobs that get lost."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import respx
from sqlalchemy import text

from payment_service.payments import moves
from payment_service.payments.models import Payment
from payment_service.payments.polling import READING_LEASE_S
from payment_service.postgres.queue import enqueue
from payment_service.services import Services
from tests.conftest import accepted, failure, status_reply
from tests.payments.asking import OTHER_SHOP, SHOP, Gate, ask, audit_of, taking

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


async def jobs(sql: asyncpg.Connection) -> list[UUID]:
    rows = await sql.fetch("SELECT payload FROM pgqueuer WHERE status = 'queued' ORDER BY id")
    return [UUID(row["payload"].decode()) for row in rows]


async def planned_s(sql: asyncpg.Connection) -> int | None:
    """In how many seconds the next reading was planned, as seen from the last change."""
    seconds = await sql.fetchval("SELECT round(extract(epoch FROM next_check_at - updated_at)) FROM payment")
    return None if seconds is None else int(seconds)


def tells(wire: respx.MockRouter, status: str) -> respx.Route:
    return wire.get("/status/").mock(return_value=status_reply(CREATED, status))


async def test_payment_that_was_taken_on_is_followed(
    services: Services, payment: Payment, sql: asyncpg.Connection
) -> None:
    assert await jobs(sql) == [payment.id]
    assert await planned_s(sql) == services.reading.moves.plan.first_s


@pytest.mark.parametrize("reply", [failure(-99000001), httpx.ConnectError("refused"), httpx.Response(500)])
async def test_payment_without_an_external_id_is_not_followed(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, reply: httpx.Response | Exception
) -> None:
    wire.get("/create/").mock(side_effect=[reply])
    await services.payments.create(ask())
    assert await jobs(sql) == []
    assert await planned_s(sql) is None


@pytest.mark.parametrize(("status", "state"), [("Processed", "paid"), ("RemotePaymentCanceled", "cancelled")])
async def test_payment_that_ended_is_followed_no_more(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, status: str, state: str
) -> None:
    tells(wire, status)
    await due(sql)
    await services.polling.follow(payment.id)
    assert await sql.fetchrow("SELECT state, next_check_at FROM payment") == (state, None)
    assert await jobs(sql) == [payment.id]  # the first one; it finds nothing to do
    assert await audit_of(sql, "status") == [("status", state)]


async def test_job_out_of_turn_asks_nothing(services: Services, payment: Payment, wire: respx.MockRouter) -> None:
    route = tells(wire, "Processed")
    await services.polling.follow(payment.id)
    assert not route.called


async def test_job_of_no_payment_does_nothing(services: Services) -> None:
    await services.polling.follow(uuid4())


async def test_of_two_turns_at_once_only_one_asks(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = tells(wire, "Wait")
    await due(sql)
    await asyncio.gather(*(services.polling.follow(payment.id) for _ in range(10)))
    assert route.call_count == 1
    assert await sql.fetchval("SELECT checks FROM payment") == 1


async def test_payment_that_waits_is_asked_about_again(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Wait")
    await due(sql)
    await services.polling.follow(payment.id)
    assert await planned_s(sql) == services.reading.moves.plan.first_s
    assert await jobs(sql) == [payment.id, payment.id]
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
    await services.polling.follow(payment.id)
    assert await sql.fetchval("SELECT state FROM payment") == "pending"
    assert len(await jobs(sql)) == 2


async def test_error_is_believed_only_at_a_second_later_reading(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Error")
    for _ in range(2):
        await due(sql)
        await services.polling.follow(payment.id)
        assert await sql.fetchval("SELECT state FROM payment") == "pending"
        assert await planned_s(sql) == services.reading.moves.plan.confirm_s
    await sql.execute("UPDATE payment SET error_seen_at = error_seen_at - interval '31 seconds'")
    await due(sql)
    await services.polling.follow(payment.id)
    assert await sql.fetchrow("SELECT state, failure, error_code FROM payment") == ("failed", "declined", "Error")
    assert await audit_of(sql, "status") == [("status", "failed")]


@pytest.mark.parametrize("asks", ["follow", "refresh"])
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
    second = asyncio.create_task(polling.follow(payment.id) if asks == "follow" else reading.refresh(payment))
    await gate.reached.wait()
    await asyncio.sleep(1.1)
    gate.open.set()
    await second
    assert await sql.fetchval("SELECT state FROM payment") == "pending"
    await due(sql)
    await polling.follow(payment.id)
    assert await sql.fetchval("SELECT state FROM payment") == "failed"


async def test_error_that_was_taken_back_is_forgotten(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    for status in ("Error", "Wait"):
        tells(wire, status)
        await due(sql)
        await services.polling.follow(payment.id)
    assert await sql.fetchval("SELECT error_seen_at FROM payment") is None


async def test_payment_older_than_a_day_is_followed_no_more(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Wait")
    moves = replace(services.reading.moves, plan=replace(services.reading.moves.plan, follow_for_s=0))
    await due(sql)
    await replace(services.polling, moves=moves).follow(payment.id)
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
        await services.polling.follow(payment.id)
    assert await audit_of(sql, "status") == [("status", "pending"), ("status", "cancelled")]


async def test_final_word_that_cannot_be_read_again_does_not_ask_without_pause(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=accepted(CREATED, status="Processed"))
    payment = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(return_value=httpx.Response(500))
    await due(sql)
    await services.polling.follow(payment.id)
    assert await planned_s(sql) != 0


# --- the schedule and the move are one transaction


async def test_schedule_that_cannot_be_written_undoes_the_move(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def crash(*_what: Any, **_how: Any) -> None:
        raise RuntimeError("crash")

    tells(wire, "Error")
    await due(sql)
    monkeypatch.setattr(moves, "enqueue", crash)
    with pytest.raises(RuntimeError, match="crash"):
        await services.polling.follow(payment.id)
    assert await sql.fetchrow("SELECT status, error_seen_at FROM payment") == ("Wait", None)


async def test_turn_that_died_is_taken_up_by_the_sweep(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(status_reply(CREATED, "Processed"))
    wire.get("/status/").mock(side_effect=gate)
    await due(sql)
    turn = asyncio.create_task(services.polling.follow(payment.id))
    await gate.reached.wait()
    turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)
    await sql.execute("DELETE FROM pgqueuer")
    assert await services.polling.wake_overdue() == 0  # the turn is still that of the dead
    await due(sql, late_s=READING_LEASE_S + 1)
    assert await services.polling.wake_overdue() == 1
    assert await jobs(sql) == [payment.id]
    gate.open.set()
    await services.polling.follow(payment.id)
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


async def test_sweeping_twice_wakes_once(services: Services, payment: Payment, sql: asyncpg.Connection) -> None:
    await due(sql, late_s=READING_LEASE_S + 1)
    await sql.execute("DELETE FROM pgqueuer")
    for _ in range(2):
        await services.polling.wake_overdue()
    assert await jobs(sql) == [payment.id]


@pytest.mark.parametrize("first_statement", [True, False])
async def test_job_of_a_transaction_that_was_rolled_back_is_gone(
    services: Services, sql: asyncpg.Connection, first_statement: bool
) -> None:
    async def enqueue_and_fail() -> None:
        async with services.database.transaction() as session:
            if not first_statement:
                await session.execute(text("SELECT 1"))
            await enqueue(session, "follow_payment", uuid4(), key="k")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await enqueue_and_fail()
    assert await jobs(sql) == []


async def test_job_with_the_same_key_waits_once(services: Services, sql: asyncpg.Connection) -> None:
    subject = uuid4()
    for _ in range(2):
        async with services.database.transaction() as session:
            await enqueue(session, "follow_payment", subject, key="k")
    assert await jobs(sql) == [subject]


# --- hints


async def test_hint_brings_the_turn_forward(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Processed")
    await services.polling.hint(str(CREATED), shop_id=SHOP)
    await services.polling.follow(payment.id)
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


@pytest.mark.parametrize(("shop_id", "external_id"), [(OTHER_SHOP, str(CREATED)), (SHOP, "999")])
async def test_hint_about_another_payment_does_nothing(
    services: Services, payment: Payment, wire: respx.MockRouter, shop_id: int, external_id: str
) -> None:
    route = tells(wire, "Processed")
    await services.polling.hint(external_id, shop_id=shop_id)
    await services.polling.follow(payment.id)
    assert not route.called


# --- readings that race


async def test_reading_that_comes_late_does_not_undo_what_is_known(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(status_reply(CREATED, "Error"))
    wire.get("/status/").mock(side_effect=gate)
    slow = asyncio.create_task(services.reading.refresh(payment))
    await gate.reached.wait()
    tells(wire, "Processed").side_effect = None
    await services.reading.refresh(payment)
    gate.open.set()
    assert (await slow).state == "paid"
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
    await asyncio.gather(*(services.polling.follow(payment.id) for payment in made))
    rows = await sql.fetch("SELECT id, state FROM payment")
    assert {row["id"]: row["state"] for row in rows} == {made[0].id: "paid", made[1].id: "pending"}


def test_lease_of_a_reading_is_longer_than_a_call(services: Services) -> None:
    assert services.settings.kaspi_deadline_s < READING_LEASE_S
