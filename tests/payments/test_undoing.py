"""UndoRequest a settlement: only one by hand, by somebody else, and nothing is known again afterwards."""

import asyncio

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.errors import NothingToUndo, PaymentNotFound, SettledByCaller, SettlementInUse
from payment_service.observability.context import Origin, origin
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.settling import Settlement
from payment_service.refunds.service import RefundRequest
from payment_service.reports.service import Report
from payment_service.services import Services
from payment_service.settings import Settings
from tests.support.asking import KEY, OTHER_SHOP, SHOP, TESTS, Gate, ask, audit_of, paid, refunded, taking, two_shops
from tests.support.due_work import work_off
from tests.support.replies import accepted, failure, status_reply
from tests.support.shops import SHOPS

pytestmark = pytest.mark.usefixtures("shops")
FOUND = "12800627774"
WHY = "That was another bouquet"


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


def says(wire: respx.MockRouter, reply: str | httpx.Response) -> None:
    """What the provider says of the payment that a person found."""
    reply = status_reply(FOUND, reply) if isinstance(reply, str) else reply
    wire.get("/status/", params={"externalId": FOUND}).mock(return_value=reply)


async def settle(services: Services, payment: Payment, state: State, external_id: str | None = None) -> Payment:
    found = Settlement(state=state, reason="Seen in the cabinet", external_id=external_id)
    return await services.settling.settle(FULL_ACCESS, payment.id, found)


async def undo(
    services: Services, payment: Payment, *, actor: str = "another", caller: Caller = FULL_ACCESS
) -> Payment:
    token = origin.set(Origin(actor))
    try:
        return await services.settling.undo(caller, payment.id, WHY)
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
    services: Services,
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
    settled = await settle(services, payment, state, FOUND if word else None)
    if since:
        says(wire, since)
        settled = await services.reading.refresh(settled)
    assert settled.state == led_to
    undone = await undo(services, payment)
    assert (undone.state, undone.external_id, undone.status, undone.failure) == ("unknown", None, None, None)
    assert await sql.fetchrow("SELECT next_check_at, id_from_settlement FROM payment") == (None, False)
    assert (await audit_of(sql))[-1] == ("settle-undo", "unknown")
    row = await sql.fetchrow("SELECT actor, reason FROM payment_log WHERE operation_type = 'settle-undo'")
    assert tuple(row or ()) == ("another", WHY)
    told = await sql.fetchrow("SELECT type, version FROM event ORDER BY version DESC LIMIT 1")
    assert tuple(told or ()) == ("payment.unknown", undone.version)
    says(wire, "Processed")
    assert (await settle(services, payment, State.PAID, FOUND)).state == "paid"  # its id is free again


@pytest.mark.parametrize("by_worker", [False, True])
async def test_reading_of_the_id_of_an_undone_settlement_says_nothing_of_the_payment(
    services: Services, payment: Payment, wire: respx.MockRouter, by_worker: bool
) -> None:
    says(wire, "Wait")
    wrong = await settle(services, payment, State.PENDING, FOUND)
    gate = Gate(status_reply(FOUND, "Processed"))
    wire.get("/status/", params={"externalId": FOUND}).mock(side_effect=gate)
    await services.polling.hint("kaspi", FOUND)
    reading = asyncio.create_task(work_off(services.polling) if by_worker else services.reading.refresh(wrong))
    await gate.reached.wait()
    await undo(services, payment)
    right = "12800627775"
    wire.get("/status/", params={"externalId": right}).mock(return_value=status_reply(right, "Wait"))
    await settle(services, payment, State.PENDING, right)
    gate.open.set()
    await reading
    settled = await services.reading.get(FULL_ACCESS, payment.id)
    assert (settled.state, settled.external_id, settled.status) == ("pending", right, "Wait")


async def test_undone_payment_blocks_its_like_and_sends_nothing(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    await settle(services, payment, State.FAILED)
    await undo(services, payment)
    route = taking(wire)
    again = await services.payments.create(ask(order_id="order-1", idempotency_key=KEY))
    assert (again.replayed, again.payment.state, route.call_count) == (True, "unknown", 1)


async def test_nobody_undoes_a_settlement_of_their_own(services: Services, payment: Payment) -> None:
    await settle(services, payment, State.FAILED)
    with pytest.raises(SettledByCaller):
        await undo(services, payment, actor=origin.get().actor)
    assert (await services.reading.get(FULL_ACCESS, payment.id)).state == "failed"


async def test_payment_of_another_shop_is_not_found(services: Services, payment: Payment) -> None:
    await settle(services, payment, State.FAILED)
    with pytest.raises(PaymentNotFound):
        await undo(services, payment, caller=Caller("stranger", FULL_ACCESS.scopes, frozenset({OTHER_SHOP})))


async def test_what_the_provider_itself_said_is_not_undone(services: Services, wire: respx.MockRouter) -> None:
    with pytest.raises(NothingToUndo):
        await undo(services, await paid(services, wire))


async def test_settlement_that_the_provider_overtook_is_not_undone(services: Services, wire: respx.MockRouter) -> None:
    wire.get("/create-link/").mock(side_effect=[accepted(paymentId=FOUND)])
    known = (await services.payments.create(ask(phone=None))).payment
    says(wire, failure(-99000001))
    settled = await settle(services, known, State.FAILED)
    says(wire, "Processed")
    assert (await services.reading.refresh(settled)).state == "paid"
    with pytest.raises(NothingToUndo):
        await undo(services, known)


@pytest.mark.parametrize("reply", [refunded(), httpx.Response(500)], ids=["paid back", "maybe paid back"])
async def test_settlement_is_not_undone_once_money_was_paid_back_or_may_have_been(
    services: Services, payment: Payment, wire: respx.MockRouter, reply: httpx.Response
) -> None:
    says(wire, "Processed")
    settled = await settle(services, payment, State.PAID, FOUND)
    wire.get("/refund/").mock(return_value=reply)
    await services.refunds.refund(RefundRequest(caller=TESTS, payment=settled, amount=None))
    with pytest.raises(SettlementInUse):
        await undo(services, payment)


async def test_settlement_is_not_undone_while_its_order_has_another_open_payment(
    services: Services, payment: Payment, wire: respx.MockRouter
) -> None:
    await settle(services, payment, State.FAILED)
    taking(wire)
    other = (await services.payments.create(ask(order_id="order-1", idempotency_key=f"{KEY}-2"))).payment
    with pytest.raises(SettlementInUse) as caught:
        await undo(services, payment)
    assert caught.value.extra == {"id": str(other.id), "state": "pending"}


async def test_report_that_gave_its_id_to_the_wrong_payment_is_followed_again(
    services: Services, payment: Payment, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    told = Report(shop_id=SHOP, operation_type="create", external_id=FOUND, organization_bin=SHOPS[SHOP], amount=10_000)
    await services.reports.write(FULL_ACCESS, told)
    says(wire, "Processed")
    await settle(services, payment, State.PAID, FOUND)
    await undo(services, payment)
    report = await sql.fetchrow("SELECT id, same_as, next_check_at <= now() FROM payment WHERE source = 'client'")
    assert report is not None
    assert tuple(report)[1:] == (None, True)
    await work_off(services.polling)
    assert (await services.reading.get(FULL_ACCESS, report["id"])).state == "paid"
    assert [operation for operation, _ in await audit_of(sql)][-3:] == ["settle-undo", "unmerge", "status"]
