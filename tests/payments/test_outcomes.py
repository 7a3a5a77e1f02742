"""Nothing lost from the record: what happens after the one call, whatever dies on the way."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import DatabaseUnavailable, PaymentNotFound
from payment_service.money import Money
from payment_service.payments.service import Answer
from payment_service.refunds.service import RefundRequest
from payment_service.scheduling.operations import NotEndedYet
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.alarms import alarms
from tests.support.asking import (
    KEY,
    OTHER_SHOP,
    PHONE,
    SHOP,
    TERMINATE_OTHERS,
    TESTS,
    Gate,
    age,
    ask,
    audit_of,
    paid,
    refunded,
    taking,
)
from tests.support.relay import Relay
from tests.support.replies import accepted, failure, status_reply
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
CREATED = 12800627774


async def begun(services: Services, gate: Gate, **changes: Any) -> asyncio.Task[Answer]:
    """A payment whose call has left and is not answered."""
    task = services.inflight.begin(services.payments.create(ask(**changes)))
    await gate.reached.wait()
    return task


@pytest.fixture
def gate(wire: respx.MockRouter) -> Gate:
    gate = Gate(accepted(CREATED))
    wire.get("/create/").mock(side_effect=gate)
    return gate


# --- one line of the record for each move


@pytest.mark.parametrize(
    ("reply", "state", "failure_kind"),
    [
        (accepted(CREATED), "pending", None),
        (failure(-99000001), "failed", "rejected"),
        (httpx.Response(403), "failed", "refused"),
        (httpx.ConnectError("refused"), "failed", "not_sent"),
        (failure(-999), "unknown", None),
        (httpx.Response(502), "unknown", None),
    ],
)
async def test_outcome_is_one_move_and_one_line(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    reply: httpx.Response | Exception,
    state: str,
    failure_kind: str | None,
) -> None:
    wire.get("/create/").mock(side_effect=[reply])
    payment = (await services.payments.create(ask())).payment
    assert (payment.state, payment.failure) == (state, failure_kind)
    assert await audit_of(sql) == [("create", state)]


async def test_line_of_the_record_tells_whose_money_it_was(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, shops: dict[int, str]
) -> None:
    wire.get("/create/").mock(return_value=accepted(CREATED))
    payment = (await services.payments.create(ask("12.34"))).payment
    line = await sql.fetchrow(
        "SELECT shop_id, organization_bin, external_id, amount, status, payment_id, source FROM payment_log"
        " WHERE subject IS NULL"
    )
    assert line is not None
    assert tuple(line) == (SHOP, shops[SHOP], str(CREATED), 1234, "Wait", payment.id, "service")


async def test_reading_that_moves_nothing_leaves_no_line(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=accepted(CREATED))
    payment = (await services.payments.create(ask())).payment
    for status in ("Wait", "RemotePaymentCreated", "NobodyKnowsThis"):
        wire.get("/status/").mock(return_value=status_reply(CREATED, status))
        assert (await services.reading.refresh(payment)).status == status
    assert await audit_of(sql) == [("create", "pending")]


async def test_status_nobody_knows_raises_an_alarm(services: Services, wire: respx.MockRouter) -> None:
    wire.get("/create/").mock(return_value=accepted(CREATED))
    payment = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(return_value=status_reply(CREATED, "NobodyKnowsThis"))
    before = alarms("unheard_of_status")
    assert (await services.reading.refresh(payment)).state == "pending"
    assert alarms("unheard_of_status") == before + 1


async def test_late_success_of_a_failed_payment_wins_with_an_alarm(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    moves = replace(services.reading.moves, plan=replace(services.reading.moves.plan, confirm_s=-1))
    following = replace(services.reading, moves=moves)
    wire.get("/create/").mock(return_value=accepted(CREATED))
    payment = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(return_value=status_reply(CREATED, "Error"))
    payment = await following.refresh(await following.refresh(payment))
    assert (payment.state, payment.failure) == ("failed", "declined")
    wire.get("/status/").mock(return_value=status_reply(CREATED, "Processed"))
    before = alarms("late_success")
    payment = await following.refresh(payment)
    assert (payment.state, payment.failure, payment.error_code) == ("paid", None, None)
    assert alarms("late_success") == before + 1
    assert await audit_of(sql) == [("create", "pending"), ("status", "failed"), ("status", "paid")]


async def test_failed_payment_that_can_be_paid_again_raises_an_alarm(
    services: Services, wire: respx.MockRouter
) -> None:
    moves = replace(services.reading.moves, plan=replace(services.reading.moves.plan, confirm_s=-1))
    following = replace(services.reading, moves=moves)
    wire.get("/create/").mock(return_value=accepted(CREATED))
    payment = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(return_value=status_reply(CREATED, "Error"))
    payment = await following.refresh(await following.refresh(payment))
    wire.get("/status/").mock(return_value=status_reply(CREATED, "Wait"))
    before = alarms("state_contradicted")

    async def is_told() -> bool:
        """An answer that was asked for as the payment ended was only overtaken: on a busy machine the first one is."""
        again = await following.refresh(payment)
        assert (again.state, again.status) == ("failed", "Error")
        return alarms("state_contradicted") > before

    await until(is_told)


# --- a reply that belongs to another payment


@pytest.mark.parametrize("link", [False, True])
async def test_crossed_reply_leaves_the_payment_unknown_with_an_alarm(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection, link: bool
) -> None:
    wire.get("/create/").mock(return_value=accepted(CREATED))
    wire.get("/create-link/").mock(return_value=accepted(paymentId=CREATED, paymentLink="https://pay.kaspi.kz/1"))
    first = (await services.payments.create(ask())).payment
    before = alarms("crossed_reply")
    second = (await services.payments.create(ask(shop_id=OTHER_SHOP, phone=None if link else PHONE))).payment
    assert (second.state, second.external_id) == ("unknown", None)
    assert alarms("crossed_reply") == before + 1
    assert await sql.fetchval("SELECT shop_id FROM payment WHERE external_id = $1", str(CREATED)) == first.shop_id
    operation = "create-link" if link else "create"
    assert (await audit_of(sql))[1:] == [(operation, "unknown"), (operation, None)]
    named = "SELECT external_id FROM payment_log WHERE payment_id = $1 AND state IS NULL"
    assert await sql.fetchval(named, second.id) == str(CREATED)


async def test_link_without_a_link_keeps_the_id_that_came(services: Services, wire: respx.MockRouter) -> None:
    wire.get("/create-link/").mock(return_value=accepted(paymentId=CREATED))
    payment = (await services.payments.create(ask(phone=None))).payment
    assert (payment.state, payment.external_id) == ("unknown", str(CREATED))
    assert payment.next_check_at is not None


# --- the process dies, or is slow


async def test_sender_that_died_leaves_the_payment_unknown(
    services: Services, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(services, gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await services.polling.mark_lost_unknown() == 0
    await age(sql, 31)
    assert await services.polling.mark_lost_unknown() == 1
    assert await sql.fetchval("SELECT state FROM payment") == "unknown"
    assert await audit_of(sql) == [("settle", "unknown")]
    assert await services.polling.mark_lost_unknown() == 0


async def test_payment_whose_sender_died_is_never_sent_again(
    services: Services, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(services, gate, idempotency_key=KEY)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await age(sql, 31)
    await services.polling.mark_lost_unknown()
    again = await services.payments.create(ask(idempotency_key=KEY))
    assert (again.replayed, again.payment.state) == (True, "unknown")
    assert gate.calls == 1


@pytest.mark.parametrize(
    ("reply", "state", "lines"),
    [
        (accepted(CREATED), "pending", ["settle", "create"]),
        (failure(-99000001), "failed", ["settle", "create"]),
        (httpx.ConnectError("refused"), "failed", ["settle", "create"]),
        (httpx.Response(500), "unknown", ["settle"]),
    ],
)
async def test_outcome_that_comes_after_the_lease_is_still_written(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    reply: httpx.Response | Exception,
    state: str,
    lines: list[str],
) -> None:
    gate = Gate(reply)
    wire.get("/create/").mock(side_effect=gate)
    task = await begun(services, gate)
    await age(sql, 31)
    assert await services.polling.mark_lost_unknown() == 1
    gate.open.set()
    assert (await task).payment.state == state
    assert [operation for operation, _ in await audit_of(sql)] == lines


async def test_client_that_hangs_up_does_not_stop_the_payment(
    services: Services, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(services, gate)
    waiting = asyncio.create_task(services.inflight.wait(task, until=asyncio.get_running_loop().time() + 60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open.set()
    assert (await task).payment.state == "pending"
    assert await audit_of(sql) == [("create", "pending")]


async def test_wait_that_ends_does_not_stop_the_payment(
    services: Services, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(services, gate)
    with pytest.raises(NotEndedYet):
        await services.inflight.wait(task, until=asyncio.get_running_loop().time())
    assert await services.inflight.drain(0) == 1
    gate.open.set()
    assert await services.inflight.drain(10) == 0
    assert await sql.fetchval("SELECT state FROM payment") == "pending"


# --- the database goes away


@pytest.fixture
async def relay(settings: Settings) -> AsyncIterator[Relay]:
    relay = Relay(settings.database_url.get_secret_value())
    await relay.start()
    yield relay
    await relay.stop()


@pytest.fixture
async def relayed(settings: Settings, relay: Relay, sql: asyncpg.Connection) -> AsyncIterator[Services]:
    """A services whose database is behind a relay that can cut the line."""
    services = build(settings.model_copy(update={"database_url": type(settings.database_url)(relay.url)}))
    yield services
    await services.inflight.drain(10)
    await services.close()


async def test_database_that_went_away_during_the_call_gets_the_outcome(
    services: Services, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(services, gate)
    await sql.execute(TERMINATE_OTHERS)
    gate.open.set()
    assert (await task).payment.external_id == str(CREATED)
    assert await audit_of(sql) == [("create", "pending")]


async def test_line_cut_while_the_outcome_is_committed_leaves_one_line_of_it(
    relayed: Services, relay: Relay, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(relayed, gate)
    relay.lose_next_commit()
    gate.open.set()
    assert (await task).payment.state == "pending"
    assert relay.lost == 1
    assert await audit_of(sql) == [("create", "pending")]


async def test_intent_whose_commit_was_not_heard_is_taken_back_and_sends_nothing(
    relayed: Services, relay: Relay, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    await relayed.fingerprints.of()  # made by the first request ever, in a commit of its own
    relay.lose_next_commit()
    with pytest.raises(DatabaseUnavailable):
        await relayed.payments.create(ask(idempotency_key=KEY))
    assert not route.called
    assert await relayed.inflight.drain(10) == 0
    assert await sql.fetchrow("SELECT state, failure FROM payment") == ("failed", "not_sent")
    assert await audit_of(sql) == [("create", "failed")]
    again = await relayed.payments.create(ask(idempotency_key=KEY))
    assert (again.replayed, again.payment.state) == (False, "pending")
    assert route.call_count == 1


async def test_intent_that_finds_no_database_sends_nothing(
    relayed: Services, relay: Relay, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    await relayed.fingerprints.of()
    relayed.routing.cache.trust(trusted=True)
    await relayed.routing.route_of(FULL_ACCESS, SHOP)
    relay.refuse(refused=True)
    with pytest.raises(DatabaseUnavailable):
        await relayed.payments.create(ask())
    relay.refuse(refused=False)
    assert await relayed.inflight.drain(10) == 0
    assert not route.called
    assert await sql.fetchval("SELECT count(*) FROM payment") == 0


async def test_refund_whose_commit_was_not_heard_is_taken_back_and_sends_nothing(
    relayed: Services, relay: Relay, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    payment = await paid(relayed, wire)
    route = wire.get("/refund/").mock(return_value=refunded())
    request = RefundRequest(caller=TESTS, payment=payment, amount=Money(1000), idempotency_key=KEY)
    relay.lose_next_commit()
    with pytest.raises(DatabaseUnavailable):
        await relayed.refunds.refund(request)
    assert not route.called
    assert await relayed.inflight.drain(10) == 0
    assert await sql.fetchrow("SELECT state, failure FROM refund") == ("failed", "not_sent")
    assert await sql.fetchval("SELECT reserved_amount FROM payment") == 0


async def test_outcome_waits_for_a_database_that_comes_back(
    relayed: Services, relay: Relay, gate: Gate, sql: asyncpg.Connection
) -> None:
    task = await begun(relayed, gate)
    relay.refuse(refused=True)
    gate.open.set()

    async def was_refused() -> bool:
        return relay.refusals > 0

    await until(was_refused)
    relay.refuse(refused=False)
    assert (await task).payment.state == "pending"
    assert await audit_of(sql) == [("create", "pending")]


async def test_outcome_that_the_database_refuses_for_long_is_written_when_it_may_be(
    services: Services, gate: Gate, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GRANT that was forgotten after an upgrade: what the provider said stood in a log line alone."""
    monkeypatch.setattr("payment_service.postgres.database.RETRY_S", -1)
    refusals = itertools.count()
    write = type(services.payments.moves).write

    async def no_grant(*args: Any, **options: Any) -> bool:
        if next(refusals) < 3:
            raise asyncpg.InsufficientPrivilegeError("permission denied for table event")
        return await write(*args, **options)

    monkeypatch.setattr(type(services.payments.moves), "write", no_grant)
    task = await begun(services, gate)
    gate.open.set()
    assert (await task).payment.external_id == str(CREATED)
    assert await audit_of(sql) == [("create", "unknown")]


async def test_taking_back_what_was_never_written_does_nothing(services: Services, sql: asyncpg.Connection) -> None:
    await services.payments._fail_unconfirmed(ask())
    assert await audit_of(sql) == []


# --- who may see it


async def test_payment_of_a_foreign_shop_looks_like_none(services: Services, wire: respx.MockRouter) -> None:
    taking(wire)
    payment = (await services.payments.create(ask())).payment
    stranger = (await services.access.create("other", ["payments:read"], shops=frozenset({OTHER_SHOP}))).key
    caller = await services.access.caller_with(stranger)
    for asked in (
        services.reading.get(caller, payment.id),
        services.reading.status(caller, "kaspi", str(payment.external_id)),
        services.reading.status(caller, "kaspi", "999"),
        services.refunds.payment_of(caller, SHOP, "kaspi", str(payment.external_id)),
        services.refunds.payment_of(caller, OTHER_SHOP, "kaspi", str(payment.external_id)),
    ):
        with pytest.raises(PaymentNotFound):
            await asked
