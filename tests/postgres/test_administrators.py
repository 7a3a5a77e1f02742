"""What those who look after PostgreSQL do while money runs: no payment is sent without its row, or beside another."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from structlog.testing import capture_logs

from payment_service.errors import DatabaseUnavailable
from payment_service.money import Money
from payment_service.refunds.service import RefundRequest
from payment_service.services import Services
from tests.support.asking import KEY, TESTS, ask
from tests.support.replies import GoodProxy
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
Trigger = Callable[[str, str], AbstractAsyncContextManager[None]]


@pytest.fixture
def trigger(emptied: asyncpg.Connection) -> Trigger:
    """Puts a trigger of somebody else on a table for a while: when it fires, and what it does with a row."""

    @asynccontextmanager
    async def put(when: str, does: str) -> AsyncIterator[None]:
        await emptied.execute(
            f"CREATE FUNCTION of_others() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {does} END$$;"
            f"CREATE TRIGGER zzz_of_others {when} FOR EACH ROW EXECUTE FUNCTION of_others()"
        )
        try:
            yield
        finally:
            await emptied.execute("DROP FUNCTION of_others CASCADE")

    return put


@pytest.mark.parametrize(
    ("table", "does"),
    [
        ("payment", "RETURN NULL;"),
        ("payment", "NEW.organization_bin := '891027350515'; RETURN NEW;"),
        ("payment", "NEW.amount := NEW.amount + 1; RETURN NEW;"),
        ("payment", "NEW.order_id := NULL; RETURN NEW;"),
        ("idempotency_claim", "RETURN NULL;"),
    ],
)
async def test_payment_whose_row_is_dropped_or_changed_is_not_sent(
    services: Services, proxy: GoodProxy, sql: asyncpg.Connection, trigger: Trigger, table: str, does: str
) -> None:
    async with trigger(f"BEFORE INSERT ON {table}", does):
        with pytest.raises(DatabaseUnavailable):
            await services.payments.create(ask(order_id="1", idempotency_key=KEY))
    assert proxy.money_calls == 0
    assert await sql.fetchval("SELECT count(*) FROM payment") == 0
    await services.payments.create(ask(order_id="1", idempotency_key=KEY))
    assert proxy.money_calls == 1


async def test_move_that_is_dropped_is_written_when_nobody_drops_it_any_more(
    services: Services, proxy: GoodProxy, trigger: Trigger
) -> None:
    paid = (await services.payments.create(ask())).payment
    proxy.statuses[str(paid.external_id)] = "Processed"
    paid = await services.reading.refresh(paid)
    with capture_logs() as logs:

        async def is_tried() -> bool:
            return [line.get("error") for line in logs].count("NotWrittenError") == 2

        async with trigger("BEFORE UPDATE ON payment", "RETURN NULL;"):
            under_way = services.inflight.begin(services.payments.create(ask(200)))
            await until(is_tried)
        assert (await under_way).payment.state == "pending"
        refund = RefundRequest(caller=TESTS, payment=paid, amount=Money.from_tenge(10))
        logs.clear()
        async with trigger("BEFORE UPDATE ON refund", "RETURN NULL;"):
            paying_back = services.inflight.begin(services.refunds.refund(refund))
            await until(is_tried)
        assert (await paying_back).refund.state == "succeeded"
    assert proxy.money_calls == 3
