"""Never twice, also when the database forgets what it committed: nothing more is sent until a person has looked."""

import asyncio
from dataclasses import replace

import asyncpg
import httpx
import pytest
import respx

from payment_service.errors import SendingHeld
from payment_service.idempotency.holding import Holding, HoldReason, OtherProviderError, _add
from payment_service.identifiers import new_id
from payment_service.money import Money
from payment_service.postgres.database import RowLost
from payment_service.programs import StartError
from payment_service.programs.start import check_provider
from payment_service.refunds.service import RefundAnswer, RefundRequest
from payment_service.services import Services
from payment_service.worker.service import worker_over
from tests.support.asking import KEY, TESTS, Alarms, Gate, ask, audit_of, paid, refunded, taking
from tests.support.database import without_laws
from tests.support.replies import accepted
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
CREATED = 12800627774


async def forget(sql: asyncpg.Connection, *tables: str) -> None:
    """As a replica that was promoted before these rows had reached it."""
    async with without_laws(sql):
        for table in tables:
            await sql.execute(f"DELETE FROM {table}")


async def come_from(sql: asyncpg.Connection, *, system: int = 0, timeline: int = 0, replicas: bool = False) -> None:
    """As if sending had been released on another server, or before a promotion."""
    async with without_laws(sql):
        await sql.execute(
            "INSERT INTO sending_hold (actor, is_held, reason, system_identifier, timeline, replicas_have_all)"
            " VALUES ('tests', false, 'then', this_system() + $1, this_timeline() + $2, $3)",
            system,
            timeline,
            replicas,
        )


async def test_payment_that_was_lost_while_it_was_sent_is_written_again_and_nothing_else_is_sent(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(accepted(CREATED))
    route = wire.get("/create/").mock(side_effect=gate)
    alarms = Alarms()
    asked = ask(idempotency_key=KEY, order_id="7")
    task = services.inflight.begin(services.payments.create(asked))
    await gate.reached.wait()
    await forget(sql, "payment", "idempotency_claim")
    gate.open.set()

    payment = (await task).payment
    assert (payment.id, payment.state, payment.external_id) == (asked.id, "pending", str(CREATED))
    assert dict(await sql.fetchrow("SELECT id, state, external_id, order_id FROM payment") or {}) == {
        "id": asked.id,
        "state": "pending",
        "external_id": str(CREATED),
        "order_id": "7",
    }
    assert alarms["intent_lost"] == 1
    assert await audit_of(sql) == [("sending-hold", None), ("create", "pending")]

    again = await services.payments.create(ask(idempotency_key=KEY, order_id="7"))
    assert (again.replayed, again.payment.id) == (True, asked.id)
    with pytest.raises(SendingHeld):
        await services.payments.create(ask(200))
    assert route.call_count == 1

    await services.holding.release("the cabinet shows nothing else")
    taking(wire)
    assert (await services.payments.create(ask(200))).payment.state == "pending"


async def refund_on_its_way(
    services: Services, wire: respx.MockRouter
) -> tuple[RefundRequest, Gate, asyncio.Task[RefundAnswer]]:
    """A refund whose reply waits for its gate."""
    payment = await paid(services, wire)
    gate = Gate(refunded())
    wire.get("/refund/").mock(side_effect=gate)
    asked = RefundRequest(caller=TESTS, payment=payment, amount=Money.from_tenge(40), idempotency_key=KEY)
    task = services.inflight.begin(services.refunds.refund(asked))
    await gate.reached.wait()
    return asked, gate, task


async def test_refund_that_was_lost_while_it_was_sent_is_written_again(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    asked, gate, task = await refund_on_its_way(services, wire)
    async with without_laws(sql):
        await sql.execute("DELETE FROM refund")
        await sql.execute("DELETE FROM idempotency_claim")
        await sql.execute("UPDATE payment SET reserved_amount = 0")
    gate.open.set()

    assert (await task).refund.state == "succeeded"
    assert await sql.fetchrow("SELECT id, state, amount FROM refund") == (asked.id, "succeeded", 4000)
    assert await sql.fetchrow("SELECT refunded_amount, reserved_amount FROM payment") == (4000, 0)
    with pytest.raises(SendingHeld):
        await services.refunds.refund(replace(asked, idempotency_key="another", amount=Money.from_tenge(5)))


async def test_refund_that_was_lost_is_written_again_beside_its_like_that_was_sent_since(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    asked, gate, task = await refund_on_its_way(services, wire)
    async with without_laws(sql):
        await sql.execute("DELETE FROM refund")
        await sql.execute("UPDATE payment SET reserved_amount = 0")
    wire.get("/refund/").mock(side_effect=None, return_value=httpx.Response(500))
    again = await services.refunds.refund(replace(asked, id=new_id(), idempotency_key="another"))
    assert again.refund.state == "unknown"
    gate.open.set()
    assert (await task).refund.state == "succeeded"
    assert await sql.fetchrow("SELECT refunded_amount, reserved_amount FROM payment") == (4000, 4000)


async def test_payment_that_was_lost_and_sent_again_elsewhere_is_never_answered_as_if_nothing_was_sent(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    gate = Gate(accepted(CREATED))
    wire.get("/create/").mock(side_effect=gate)
    asked = ask(idempotency_key=KEY)
    task = services.inflight.begin(services.payments.create(asked))
    await gate.reached.wait()
    await forget(sql, "payment", "idempotency_claim")
    wire.get("/create/").mock(return_value=accepted(CREATED + 1))
    assert not (await services.payments.create(ask(idempotency_key=KEY))).replayed
    gate.open.set()

    with pytest.raises(RowLost):
        await task
    assert await services.holding.hold_reason() is HoldReason.HELD


@pytest.mark.parametrize(
    ("system", "timeline", "replicas", "because"),
    [
        (1, 0, False, HoldReason.OTHER_SYSTEM),
        (1, 0, True, HoldReason.OTHER_SYSTEM),
        (0, 1, False, HoldReason.OTHER_TIMELINE),
        (0, 1, True, HoldReason.OTHER_TIMELINE),
        (0, 0, True, HoldReason.NOT_SYNCHRONOUS),
        (0, 0, False, None),
    ],
)
async def test_copy_or_promoted_replica_sends_nothing_until_it_is_released(
    services: Services,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    system: int,
    timeline: int,
    replicas: bool,
    because: HoldReason | None,
) -> None:
    route = taking(wire)
    payment = (await services.payments.create(ask(idempotency_key=KEY))).payment
    await come_from(sql, system=system, timeline=timeline, replicas=replicas)
    assert await services.holding.hold_reason() is because

    assert (await services.payments.create(ask(idempotency_key=KEY))).payment.id == payment.id
    if because is None:
        await services.payments.create(ask(200))
        return
    with pytest.raises(SendingHeld):
        await services.payments.create(ask(200))
    assert route.call_count == 1
    worker = worker_over(services)
    await worker._look_at_database()
    assert {kind for kind, held in worker.dispatchers.items() if held.is_held} == {"deliveries", "messages"}

    await services.holding.release("looked at")
    await worker._look_at_database()
    assert not any(held.is_held for held in worker.dispatchers.values())
    assert not (await services.payments.create(ask(200))).replayed


async def test_worker_tells_nobody_before_it_has_looked_whether_this_is_a_copy(services: Services) -> None:
    worker = worker_over(services)
    working = asyncio.create_task(worker.run())
    await asyncio.sleep(0)
    assert {kind for kind, one in worker.dispatchers.items() if one.is_held} == {"deliveries", "messages"}

    async def released() -> bool:
        return not any(one.is_held for one in worker.dispatchers.values())

    await until(released)
    worker.stop()
    await working


async def test_refused_payment_leaves_nothing_and_its_key_stays_free(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    route = taking(wire)
    await services.holding.hold("a restore is under way")
    await services.holding.hold("a restore is under way")
    with pytest.raises(SendingHeld):
        await services.payments.create(ask(idempotency_key=KEY))
    assert await sql.fetchval("SELECT count(*) FROM payment") == 0
    assert not route.called
    await services.holding.release("done")
    assert not (await services.payments.create(ask(idempotency_key=KEY))).replayed
    assert await audit_of(sql, "sending-%") == [("sending-hold", None), ("sending-release", None)]


async def test_database_is_used_with_the_provider_of_its_payments(services: Services, sql: asyncpg.Connection) -> None:
    """A stand-in, or another environment's proxy, would tell states that are written over those of real payments."""
    here, there, elsewhere = (
        Holding(services.database, address) for address in (None, "https://proxy.example.kz", "https://test.example.kz")
    )
    for fitting in (here, there, there):
        await fitting.check_provider()
    assert await sql.fetchval("SELECT count(*) FROM sending_hold WHERE provider IS NOT NULL") == 1
    for other in (here, elsewhere):
        await there.hold("a hold forgets nothing")
        with pytest.raises(OtherProviderError, match=r"https://proxy\.example\.kz"):
            await other.check_provider()
        await there.release("nothing was lost")
        with pytest.raises(StartError, match=r"https://proxy\.example\.kz"):
            await check_provider(replace(services, holding=other))
    for other in (here, elsewhere):
        # Of an operator who restored a backup, on a machine with the settings of a test.
        with pytest.raises(OtherProviderError, match="--proxy-moved"):
            await other.release("the cabinet was compared")
    await there.check_provider()
    await elsewhere.release("the new data centre", proxy_moved=True)
    await elsewhere.check_provider()
    with pytest.raises(OtherProviderError):
        await there.check_provider()


async def test_copy_is_not_released_by_whoever_starts_on_it(services: Services, sql: asyncpg.Connection) -> None:
    await come_from(sql, system=1)
    await Holding(services.database, "https://test.example.kz").check_provider()
    assert await services.holding.hold_reason() is HoldReason.OTHER_SYSTEM


async def test_hold_of_another_person_is_kept_and_told_when_it_ends(services: Services) -> None:
    await services.holding.hold("a restore is under way, Dana")
    await services.holding.hold("the proxy answers strangely, Aigul")
    ended = await services.holding.release("restored, Dana")
    assert [one.reason for one in ended] == ["a restore is under way, Dana", "the proxy answers strangely, Aigul"]
    assert await services.holding.release("again") == []


async def test_hold_that_meets_a_release_holds(services: Services, sql: asyncpg.Connection) -> None:
    """What is not committed yet is not seen: the hold would be taken for said, and the release would end it."""
    await services.holding.hold("a restore is under way, Dana")
    async with services.database.transaction() as session:
        await _add(session, "restored, Dana", replicas_have_all=False, provider=None)
        await session.flush()
        holding = asyncio.create_task(services.holding.hold("a restore is under way, Dana"))
        await asyncio.wait([holding], timeout=0.5)
    await holding
    assert await services.holding.hold_reason() is HoldReason.HELD


async def test_hold_and_release_have_their_audit_entry_and_are_never_taken_back(
    services: Services, sql: asyncpg.Connection
) -> None:
    await services.holding.hold("why not")
    with pytest.raises(asyncpg.PostgresError) as unaudited:
        await sql.execute("INSERT INTO sending_hold (actor, is_held, reason) VALUES ('tests', false, 'quietly')")
    assert unaudited.value.constraint_name == "change_is_audited"
    for statement in ("UPDATE sending_hold SET is_held = false", "DELETE FROM sending_hold", "TRUNCATE sending_hold"):
        with pytest.raises(asyncpg.PostgresError):
            await sql.execute(statement)
