"""Undoing a settlement: only one by hand, by somebody else, and nothing is known again afterwards."""

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import EVERYBODY, Caller
from payment_service.context import Origin, origin
from payment_service.errors import NothingToUndo, PaymentNotFound, SettledByCaller, SettlementInUse
from payment_service.main import House
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.reports import Report
from payment_service.payments.settling import Settlement
from payment_service.refunds.service import RefundRequest
from payment_service.settings import Settings
from tests.conftest import SHOPS, accepted, failure, status_reply
from tests.payments.asking import KEY, OTHER_SHOP, SHOP, ask, audit_of, paid, refunded, taking, two_shops

pytestmark = pytest.mark.usefixtures("shops")
FOUND = "12800627774"
WHY = "That was another bouquet"


@pytest.fixture
async def shops(house: House) -> dict[int, str]:
    """The two shops that these tests ask for."""
    return await two_shops(house)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A call has no effect any more as soon as its outcome is known."""
    return settings.model_copy(update={"late_effect_s": 0})


@pytest.fixture
async def payment(house: House, wire: respx.MockRouter) -> Payment:
    """A payment of which nobody knows anything."""
    wire.get("/create/").mock(side_effect=[httpx.Response(500)])
    return (await house.payments.create(ask(order_id="order-1", idempotency_key=KEY))).payment


def says(wire: respx.MockRouter, reply: str | httpx.Response) -> None:
    """What the provider says of the payment that a person found."""
    reply = status_reply(FOUND, reply) if isinstance(reply, str) else reply
    wire.get("/status/", params={"externalId": FOUND}).mock(return_value=reply)


async def settle(house: House, payment: Payment, state: State, external_id: str | None = None) -> Payment:
    found = Settlement(state=state, reason="Seen in the cabinet", external_id=external_id)
    return await house.settling.settle(EVERYBODY, payment.id, found)


async def undo(house: House, payment: Payment, *, actor: str = "another", caller: Caller = EVERYBODY) -> Payment:
    token = origin.set(Origin(actor))
    try:
        return await house.settling.undo(caller, payment.id, WHY)
    finally:
        origin.reset(token)


@pytest.mark.parametrize(
    ("state", "word", "since", "led_to"),
    [
        (State.PAID, "Processed", None, "paid"),
        (State.PENDING, "Wait", None, "pending"),
        (State.PENDING, "Wait", "Processed", "paid"),
        (State.PENDING, "Wait", "RemotePaymentCanceled", "cancelled"),
        (State.FAILED, None, None, "failed"),
    ],
)
async def test_undone_settlement_leaves_the_payment_as_unknown_as_before(
    house: House,
    payment: Payment,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    state: State,
    word: str | None,
    since: str | None,
    led_to: str,
) -> None:
    if word:
        says(wire, word)
    settled = await settle(house, payment, state, FOUND if word else None)
    if since:
        says(wire, since)
        settled = await house.following.refresh(settled)
    assert settled.state == led_to
    undone = await undo(house, payment)
    assert (undone.state, undone.external_id, undone.status, undone.failure) == ("unknown", None, None, None)
    assert await sql.fetchrow("SELECT next_check_at, id_from_settlement FROM payment") == (None, False)
    assert (await audit_of(sql))[-1] == ("settle-undo", "unknown")
    row = await sql.fetchrow("SELECT actor, reason FROM payment_log WHERE operation_type = 'settle-undo'")
    assert tuple(row or ()) == ("another", WHY)
    told = await sql.fetchrow("SELECT type, version FROM event ORDER BY version DESC LIMIT 1")
    assert tuple(told or ()) == ("payment.unknown", undone.version)
    says(wire, "Processed")
    assert (await settle(house, payment, State.PAID, FOUND)).state == "paid"  # its id is free again


async def test_undone_payment_blocks_its_like_and_sends_nothing(
    house: House, payment: Payment, wire: respx.MockRouter
) -> None:
    await settle(house, payment, State.FAILED)
    await undo(house, payment)
    route = taking(wire)
    again = await house.payments.create(ask(order_id="order-1", idempotency_key=KEY))
    assert (again.replayed, again.payment.state, route.call_count) == (True, "unknown", 1)


async def test_nobody_undoes_a_settlement_of_their_own(house: House, payment: Payment) -> None:
    await settle(house, payment, State.FAILED)
    with pytest.raises(SettledByCaller):
        await undo(house, payment, actor=origin.get().actor)
    assert (await house.following.get(EVERYBODY, payment.id)).state == "failed"


async def test_payment_of_another_shop_is_not_found(house: House, payment: Payment) -> None:
    await settle(house, payment, State.FAILED)
    with pytest.raises(PaymentNotFound):
        await undo(house, payment, caller=Caller("stranger", EVERYBODY.scopes, frozenset({OTHER_SHOP})))


async def test_what_the_provider_itself_said_is_not_undone(house: House, wire: respx.MockRouter) -> None:
    with pytest.raises(NothingToUndo):
        await undo(house, await paid(house, wire))


async def test_settlement_that_the_provider_overtook_is_not_undone(house: House, wire: respx.MockRouter) -> None:
    wire.get("/create-link/").mock(side_effect=[accepted(paymentId=FOUND)])
    known = (await house.payments.create(ask(phone=None))).payment
    says(wire, failure(-99000001))
    settled = await settle(house, known, State.FAILED)
    says(wire, "Processed")
    assert (await house.following.refresh(settled)).state == "paid"
    with pytest.raises(NothingToUndo):
        await undo(house, known)


async def test_settlement_is_not_undone_once_money_was_paid_back(
    house: House, payment: Payment, wire: respx.MockRouter
) -> None:
    says(wire, "Processed")
    settled = await settle(house, payment, State.PAID, FOUND)
    wire.get("/refund/").mock(return_value=refunded())
    await house.refunds.refund(RefundRequest(caller="tests", payment=settled, amount=None))
    with pytest.raises(SettlementInUse):
        await undo(house, payment)


async def test_settlement_is_not_undone_while_its_order_has_another_open_payment(
    house: House, payment: Payment, wire: respx.MockRouter
) -> None:
    await settle(house, payment, State.FAILED)
    taking(wire)
    other = (await house.payments.create(ask(order_id="order-1", idempotency_key=f"{KEY}-2"))).payment
    with pytest.raises(SettlementInUse) as caught:
        await undo(house, payment)
    assert caught.value.extra == {"id": str(other.id), "state": "pending"}


async def test_report_that_gave_its_id_to_the_wrong_payment_is_followed_again(
    house: House, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    told = Report(shop_id=SHOP, operation_type="create", external_id=FOUND, organization_bin=SHOPS[SHOP], amount=10_000)
    await house.reports.write(EVERYBODY, told)
    says(wire, "Processed")
    await settle(house, payment, State.PAID, FOUND)
    await undo(house, payment)
    report = await sql.fetchrow("SELECT id, same_as, next_check_at <= now() FROM payment WHERE source = 'client'")
    assert report is not None
    assert tuple(report)[1:] == (None, True)
    await house.following.follow(report["id"])
    assert (await house.following.get(EVERYBODY, report["id"])).state == "paid"
    assert [operation for operation, _ in await audit_of(sql)][-3:] == ["settle-undo", "unmerge", "status"]
