"""Settling refunds by hand: only what is unknown, once, and the amount follows what was found."""

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.errors import (
    InvalidInput,
    NothingToSettle,
    NothingToUndo,
    RefundExceedsRemainder,
    RefundNotFound,
    ServiceError,
    SettledByCaller,
    SettlementInUse,
    TooEarlyToSettle,
)
from payment_service.observability.context import Origin, origin
from payment_service.payments.models import Payment
from payment_service.refunds.lifecycle import RefundState, RefundStep
from payment_service.refunds.models import Refund
from payment_service.refunds.queries import Snapshot
from payment_service.refunds.settling import RefundSettlement
from payment_service.services import Services
from payment_service.settings import Settings
from tests.refunds.test_refunds import give_back, refunding, sums
from tests.support.asking import KEY, OTHER_SHOP, Alarms, Gate, age, audit_of, paid, refunded, two_shops
from tests.support.database import without_laws
from tests.support.replies import failure

pytestmark = pytest.mark.usefixtures("shops")
REASON = "Seen in the cabinet by Aigul"


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
    """A paid payment of 100 tenge."""
    return await paid(services, wire)


@pytest.fixture
async def unknown(services: Services, payment: Payment, wire: respx.MockRouter) -> Refund:
    """A refund of 60 tenge of which nobody knows whether it was made."""
    refunding(wire, httpx.Response(500))
    return (await services.refunds.refund(give_back(payment, 60, idempotency_key=KEY))).refund


@pytest.fixture
def alarms() -> Alarms:
    return Alarms()


async def settle(services: Services, refund: Refund, *, succeeded: bool, **changes: Any) -> Snapshot:
    found = RefundSettlement(succeeded=succeeded, reason=REASON, **changes)
    return await services.refund_settling.settle(FULL_ACCESS, refund.id, found)


@pytest.mark.parametrize(
    ("succeeded", "state", "failed_as", "after"),
    [(True, "succeeded", None, (6000, 0)), (False, "failed", "settled", (0, 0))],
)
async def test_unknown_refund_becomes_what_a_person_found(
    services: Services,
    unknown: Refund,
    sql: asyncpg.Connection,
    succeeded: bool,
    state: str,
    failed_as: str | None,
    after: tuple[int, int],
) -> None:
    done = (await settle(services, unknown, succeeded=succeeded)).refund
    assert (done.state, done.failure) == (state, failed_as)
    assert await sums(sql) == after
    rows = await sql.fetch("SELECT refund_id, state, reason, amount FROM payment_log WHERE operation_type = 'settle'")
    assert [tuple(row) for row in rows] == [(unknown.id, state, REASON, 6000)]
    assert await services.refund_settling.tasks(FULL_ACCESS) == []


@pytest.mark.parametrize("meanwhile", ["state = 'sending'", "version = version + 1"])
async def test_move_is_written_only_over_the_refund_that_it_was_decided_on(
    services: Services, unknown: Refund, payment: Payment, sql: asyncpg.Connection, meanwhile: str
) -> None:
    seen = await services.refund_settling._visible(FULL_ACCESS, unknown.id)
    async with without_laws(sql):
        await sql.execute(f"UPDATE refund SET {meanwhile}")
    step = RefundStep(RefundState.SUCCEEDED)
    assert await services.refund_settling.moves._write(seen, step, "settle", None) is False
    assert await sums(sql) == (0, 6000)
    assert await audit_of(sql, "settle") == []


async def test_unknown_refunds_are_tasks_with_their_payments(
    services: Services, payment: Payment, unknown: Refund
) -> None:
    [(refund, of)] = await services.refund_settling.tasks(FULL_ACCESS)
    assert (refund.id, of.id) == (unknown.id, payment.id)
    assert await services.refund_settling.tasks(Caller("stranger", FULL_ACCESS.scopes, frozenset({OTHER_SHOP}))) == []


async def test_id_of_the_refund_is_kept_and_is_only_its_own(
    services: Services, payment: Payment, unknown: Refund, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    data = {"externalId": payment.external_id, "returnOperationId": 777}
    refunding(wire, httpx.Response(200, json={"status": True, "data": data}))
    await services.refunds.refund(give_back(payment, 1))
    with pytest.raises(InvalidInput):
        await settle(services, unknown, succeeded=True, provider_refund_id="777")
    assert await sums(sql) == (100, 6000)
    done = await settle(services, unknown, succeeded=True, provider_refund_id="778")
    assert done.refund.provider_refund_id == "778"


# --- what cannot be settled


async def test_refund_that_may_still_be_made_is_not_called_failed(
    services: Services, unknown: Refund, sql: asyncpg.Connection
) -> None:
    rules = replace(services.refund_settling.rules, late_effect_s=300)
    patient = replace(services, refund_settling=replace(services.refund_settling, rules=rules))
    with pytest.raises(TooEarlyToSettle):
        await settle(patient, unknown, succeeded=False)
    assert await sums(sql) == (0, 6000)
    await age(sql, 301, "refund")
    assert (await settle(patient, unknown, succeeded=False)).refund.state == "failed"


@pytest.mark.parametrize("reply", [None, failure(-99000005)])
@pytest.mark.parametrize("succeeded", [True, False])
async def test_only_an_unknown_refund_is_settled(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, reply: Any, succeeded: bool
) -> None:
    refunding(wire, reply)
    refund = (await services.refunds.refund(give_back(payment))).refund
    before = await sums(sql)
    with pytest.raises(NothingToSettle):
        await settle(services, refund, succeeded=succeeded)
    assert await sums(sql) == before


async def test_no_refund_is_not_found(services: Services) -> None:
    with pytest.raises(RefundNotFound):
        await services.refund_settling.settle(FULL_ACCESS, uuid4(), RefundSettlement(succeeded=True, reason=REASON))


async def test_refund_of_another_shop_is_not_found(services: Services, unknown: Refund) -> None:
    stranger = Caller("stranger", FULL_ACCESS.scopes, frozenset({OTHER_SHOP}))
    with pytest.raises(RefundNotFound):
        await services.refund_settling.settle(stranger, unknown.id, RefundSettlement(succeeded=True, reason=REASON))


# --- asked for again


@pytest.mark.parametrize(("succeeded", "state"), [(True, "succeeded"), (False, "failed")])
async def test_same_key_gets_the_settled_refund_and_sends_nothing(
    services: Services, payment: Payment, unknown: Refund, wire: respx.MockRouter, succeeded: bool, state: str
) -> None:
    await settle(services, unknown, succeeded=succeeded)
    route = refunding(wire)
    before = route.call_count
    again = await services.refunds.refund(give_back(payment, 60, idempotency_key=KEY))
    assert (again.replayed, again.refund.id, again.refund.state) == (True, unknown.id, state)
    assert route.call_count == before


async def test_refund_that_was_never_made_may_be_asked_for_anew_within_what_is_left(
    services: Services, payment: Payment, unknown: Refund, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    refunding(wire)
    with pytest.raises(RefundExceedsRemainder):
        await services.refunds.refund(give_back(payment, 60, idempotency_key=f"{KEY}-2"))
    await settle(services, unknown, succeeded=False)
    await services.refunds.refund(give_back(payment, 60, idempotency_key=f"{KEY}-2"))
    with pytest.raises(RefundExceedsRemainder):
        await services.refunds.refund(give_back(payment, 41, idempotency_key=f"{KEY}-3"))
    assert await sums(sql) == (6000, 0)


async def test_refund_that_was_made_stays_within_what_is_left(
    services: Services, payment: Payment, unknown: Refund, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await settle(services, unknown, succeeded=True)
    refunding(wire)
    with pytest.raises(RefundExceedsRemainder) as caught:
        await services.refunds.refund(give_back(payment, 41))
    assert caught.value.extra == {"remaining_amount": 40}


# --- races


async def test_settled_twice_at_once_is_settled_once(
    services: Services, unknown: Refund, sql: asyncpg.Connection
) -> None:
    asked = [settle(services, unknown, succeeded=succeeded) for succeeded in (True, False, True, False)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(result, Snapshot | ServiceError) for result in results)
    assert sum(isinstance(result, NothingToSettle) for result in results) == 3
    assert len(await audit_of(sql, "settle")) == 1
    assert await sums(sql) in {(6000, 0), (0, 0)}


async def test_settling_while_other_refunds_are_made_keeps_the_sums(
    services: Services, payment: Payment, unknown: Refund, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    refunding(wire)
    others = [services.refunds.refund(give_back(payment, tenge)) for tenge in (1, 2, 3, 4)]
    await asyncio.gather(settle(services, unknown, succeeded=False), *others)
    assert await sums(sql) == (1000, 0)


@pytest.mark.parametrize(
    ("succeeded", "reply", "after", "told"),
    [
        (True, refunded(), (1000, 0), 0),
        (False, refunded(), (1000, 0), 1),
        (False, failure(-99000005), (0, 0), 0),
        (True, failure(-99000005), (1000, 0), 1),
        (True, httpx.Response(500), (1000, 0), 0),
    ],
)
async def test_reply_that_comes_after_a_person_settled_tells_a_contradiction_and_what_was_made_was_made(
    services: Services,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    alarms: Alarms,
    succeeded: bool,
    reply: httpx.Response,
    after: tuple[int, int],
    told: int,
) -> None:
    gate = Gate(reply)
    wire.get("/refund/").mock(side_effect=gate)
    asked = asyncio.create_task(services.refunds.refund(give_back(payment)))
    await gate.reached.wait()
    await age(sql, 31, "refund")
    await services.refund_settling.mark_lost_unknown()
    [(refund, _payment)] = await services.refund_settling.tasks(FULL_ACCESS)
    await settle(services, refund, succeeded=succeeded)
    gate.open.set()
    assert (await asked).refund.state == ("succeeded" if after[0] else "failed")
    assert await sums(sql) == after
    assert alarms["settled_wrongly"] == told


async def test_what_was_made_after_all_and_paid_back_again_since_stays_failed_with_alarms(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection, alarms: Alarms
) -> None:
    """More than the payment cannot be told of its refunds: people have to look."""
    gate = Gate(refunded())
    wire.get("/refund/").mock(side_effect=gate)
    asked = asyncio.create_task(services.refunds.refund(give_back(payment, 100)))
    await gate.reached.wait()
    await age(sql, 31, "refund")
    await services.refund_settling.mark_lost_unknown()
    [(refund, _payment)] = await services.refund_settling.tasks(FULL_ACCESS)
    await settle(services, refund, succeeded=False)
    refunding(wire, refunded())
    assert (await services.refunds.refund(give_back(payment, 1))).refund.state == "succeeded"
    gate.open.set()
    assert (await asked).refund.state == "failed"
    assert await sums(sql) == (100, 0)
    assert (alarms["settled_wrongly"], alarms["outcome_refused"]) == (1, 1)


# --- undoing


async def undo(services: Services, refund: Refund, *, actor: str = "another") -> Snapshot:
    token = origin.set(Origin(actor))
    try:
        return await services.refund_settling.undo(FULL_ACCESS, refund.id, "It was not so")
    finally:
        origin.reset(token)


@pytest.mark.parametrize("succeeded", [True, False])
async def test_undone_settlement_leaves_the_refund_unknown_and_its_amount_reserved(
    services: Services, unknown: Refund, sql: asyncpg.Connection, succeeded: bool
) -> None:
    await settle(services, unknown, succeeded=succeeded, **({"provider_refund_id": "15"} if succeeded else {}))
    with pytest.raises(SettledByCaller):
        await undo(services, unknown, actor=origin.get().actor)
    undone = (await undo(services, unknown)).refund
    assert (undone.state, undone.failure, undone.provider_refund_id) == ("unknown", None, None)
    assert await sums(sql) == (0, 6000)
    assert (await audit_of(sql, "settle%"))[-1] == ("settle-undo", "unknown")
    with pytest.raises(NothingToUndo):
        await undo(services, unknown)
    assert (await settle(services, unknown, succeeded=True)).refund.state == "succeeded"
    assert await sums(sql) == (6000, 0)


async def test_settlement_is_not_undone_when_its_amount_was_refunded_again(
    services: Services, payment: Payment, unknown: Refund, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    await settle(services, unknown, succeeded=False)
    refunding(wire, refunded())
    await services.refunds.refund(give_back(payment, 50, idempotency_key=f"{KEY}-2"))
    with pytest.raises(SettlementInUse):
        await undo(services, unknown)
    assert await sums(sql) == (5000, 0)


async def test_refund_that_nobody_settled_has_nothing_to_undo(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    refunding(wire, refunded())
    made = (await services.refunds.refund(give_back(payment, 60))).refund
    with pytest.raises(NothingToUndo):
        await undo(services, made)
