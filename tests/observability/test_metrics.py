"""What alert rules read changes with what they warn of: a metric that nobody sets is an alarm that cannot ring."""

import asyncio
import hashlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.api.throttle import Throttle
from payment_service.errors import RateLimited
from payment_service.events.outbox import EventType
from payment_service.observability import lag, metrics
from payment_service.observability.metrics import values_of
from payment_service.payments.phones import PhoneLimit
from payment_service.postgres.statement_pool import StatementPool
from payment_service.rates import Rate
from payment_service.services import Services, build
from payment_service.settings import Settings
from payment_service.worker.service import worker_over
from tests.events.webhooks import REFUSED, world_of
from tests.support.asking import OTHER_SHOP, SHOP, ask, paid, taking
from tests.support.books import beyond_the_law
from tests.support.replies import accepted, failure, status_reply
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with which endpoints may be on this machine."""
    return settings.model_copy(update={"webhooks_stay_here": True})


class Counts:
    """How much series of a metric have grown since this was made."""

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        self._before = values_of(metric)

    def __getitem__(self, labels: tuple[str, ...]) -> float:
        return values_of(self._metric).get(labels, 0) - self._before.get(labels, 0)


async def test_sending_held(services: Services) -> None:
    worker = worker_over(services)
    await worker._look_at_database()
    assert values_of(metrics.SENDING_HELD) == {(): 0}
    await services.holding.hold("to look")
    await worker._look_at_database()
    assert values_of(metrics.SENDING_HELD) == {(): 1}


async def test_clock_of_the_database(services: Services) -> None:
    metrics.DATABASE_CLOCK_AHEAD.set(1000)
    await worker_over(services)._look_at_clock()
    assert abs(values_of(metrics.DATABASE_CLOCK_AHEAD)[()]) < 1


async def test_rows_for_a_month_that_nobody_made(services: Services, sql: asyncpg.Connection) -> None:
    worker = worker_over(services)
    await worker._make_months()
    assert values_of(metrics.LOG_ROWS_ASTRAY) == {(): 0}
    astray = "INSERT INTO payment_log (operation_type, actor, source, created_at) VALUES ('t', 't', 'client', $1)"
    await sql.execute(astray, datetime(2999, 1, 1, tzinfo=UTC))
    await worker._make_months()
    assert values_of(metrics.LOG_ROWS_ASTRAY) == {(): 1}


async def test_tasks_and_open_payments(services: Services, wire: respx.MockRouter, sql: asyncpg.Connection) -> None:
    wire.get("/create/").mock(return_value=failure(-999))
    await services.payments.create(ask())
    await beyond_the_law(sql, "UPDATE payment SET created_at = created_at - interval '1000 s'")
    payment = await paid(services, wire, ask(shop_id=OTHER_SHOP))
    await beyond_the_law(
        sql,
        "INSERT INTO refund (id, payment_id, amount, state, caller, fingerprint, keyed)"
        f" VALUES (gen_random_uuid(), '{payment.id}', 100, 'unknown', 'tests', 'f', false)",
    )
    worker = worker_over(services)
    await worker._count()
    assert values_of(metrics.TASKS) == {("payment",): 1, ("refund",): 1}
    assert values_of(metrics.OPEN)["payment", "unknown"] == values_of(metrics.OPEN)["refund", "unknown"] == 1
    assert 1000 <= values_of(metrics.OLDEST_OPEN)["payment", "unknown"] < 2000
    await beyond_the_law(sql, "UPDATE payment SET state = 'failed', failure = 'declined' WHERE state = 'unknown'")
    await worker._count()
    assert values_of(metrics.TASKS)["payment",] == values_of(metrics.OPEN)["payment", "unknown"] == 0
    assert values_of(metrics.OLDEST_OPEN)["payment", "unknown"] == 0


async def test_work_that_is_late(services: Services) -> None:
    worker = worker_over(services)
    since = datetime.now(UTC) - timedelta(seconds=500)

    async def due_since() -> dict[str, datetime | None]:
        return {**dict.fromkeys(await services.due_since()), "readings": since}

    worker.due_since = due_since
    await worker._measure_due_work()
    due = values_of(metrics.OLDEST_DUE)
    assert 500 <= due.pop(("readings",)) < 600
    assert due == {("events",): 0, ("deliveries",): 0, ("messages",): 0}


async def test_deliveries_that_wait_and_those_that_are_given_up(
    services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = world_of(services, sql, monkeypatch, delays_s=(60.0,))
    world.receiver.answers(REFUSED, REFUSED, 200)
    await world.endpoint()
    off = await world.endpoint()
    await services.endpoints.change(ask().caller, off, {"is_active": False})
    await sql.execute("UPDATE event SET passed_on_at = now() WHERE passed_on_at IS NULL")
    tries = Counts(metrics.DELIVERY_TRIES)
    took = Counts(metrics.DELIVERY_SECONDS)
    await world.happens(EventType.PAYMENT_PAID)
    await world.work()
    await worker_over(services)._count()
    assert values_of(metrics.DELIVERIES_WAITING) == {(): 1}
    await world.passes(hours=1)
    await world.deliver()
    await worker_over(services)._count()
    assert values_of(metrics.DELIVERIES_WAITING) == {(): 0}
    await world.happens(EventType.PAYMENT_PAID)
    await world.passes(hours=1)
    await world.work()
    assert [tries[one,] for one in ("failed", "dead", "delivered")] == [1, 1, 1]
    assert took[()] == 1


async def test_calls_to_the_provider_by_their_result(services: Services, wire: respx.MockRouter) -> None:
    calls = Counts(metrics.PROVIDER_SECONDS)
    moves = Counts(metrics.MOVES)
    for reply in (httpx.Response(401), accepted(12800627774), httpx.ConnectError("refused")):
        wire.get("/create/").mock(side_effect=[reply])
        await asyncio.gather(services.payments.create(ask(message=repr(reply))), return_exceptions=True)
    created = [calls["kaspi", "create", result] for result in ("http_401", "http_200", "connect_failed")]
    assert created == [1, 1, 1]
    assert (moves["payment", "sending", "pending"], moves["payment", "sending", "failed"]) == (1, 2)


async def test_what_readings_say(services: Services, wire: respx.MockRouter) -> None:
    taking(wire)
    payment = (await services.payments.create(ask())).payment
    said, moves = Counts(metrics.READINGS), Counts(metrics.MOVES)
    for reply in (httpx.Response(500), failure(-1601), status_reply(str(payment.external_id), "Processed")):
        wire.get("/status/").mock(return_value=reply)
        await asyncio.gather(services.reading.refresh(payment), return_exceptions=True)
    assert [said[word,] for word in ("StatusUnread", "NoSuchPayment", "paid")] == [1, 1, 1]
    assert moves["payment", "pending", "paid"] == 1


async def test_circuits_and_paused_shops(settings: Settings, kept_open: Any, wire: respx.MockRouter) -> None:
    services = build(settings.model_copy(update={"kaspi_breaker_failures": 2}), kept_open)
    wire.get("/create/").mock(side_effect=httpx.ConnectError("refused"))
    wire.get("/status/").mock(return_value=httpx.Response(500))

    async def fail(shop_id: int, name: str) -> None:
        await asyncio.gather(services.payments.create(ask(shop_id=shop_id, message=name)), return_exceptions=True)

    def shown() -> tuple[float, ...]:
        circuits = values_of(metrics.CIRCUIT_OPEN)
        return values_of(metrics.SHOPS_PAUSED)["kaspi",], circuits["kaspi", "money"], circuits["kaspi", "readings"]

    assert shown() == (0, 0, 0)
    for name in ("one", "two"):
        await fail(SHOP, name)
    assert shown() == (1, 0, 0)
    for name in ("one", "two"):
        await fail(OTHER_SHOP, name)
    assert shown()[1:] == (1, 0)
    for _ in range(2):
        await services.providers["kaspi"].read_status("1")
    assert shown()[1:] == (1, 1)
    calls = Counts(metrics.PROVIDER_SECONDS)
    await services.providers["kaspi"].read_status("1")
    assert calls["kaspi", "status", "circuit_open"] == 1
    await services.inflight.drain(10)
    await services.close()


async def test_too_many_requests_and_invoices() -> None:
    limited = Counts(metrics.RATE_LIMITED)
    throttle = Throttle(Rate(1, 60), Rate(1, 60))
    throttle.remember_keys([hashlib.sha256(b"known").hexdigest()])
    phone = PhoneLimit(Rate(1, 60))
    for _ in range(2):
        with suppress(RateLimited):
            throttle.admit("known", None)
        with suppress(RateLimited):
            throttle.admit(None, ("192.0.2.1", 1))
        with suppress(RateLimited):
            phone.take("77015211545")
    assert [limited[policy,] for policy in ("key", "address", "phone")] == [1, 1, 1]


async def test_statements_that_wait_for_a_connection(database_url: str) -> None:
    pool = StatementPool(lambda: asyncpg.connect(database_url), 1, wait_s=5)
    waited = Counts(metrics.CONNECTION_WAIT)
    await pool.fetch("SELECT 1")
    assert waited[()] == 0
    await asyncio.gather(*(pool.fetch("SELECT pg_sleep(0.01)") for _ in range(3)))
    assert waited[()] == 2
    await pool.close()


async def test_lag_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lag, "EVERY_S", 0.001)
    measured = Counts(metrics.LOOP_LAG)
    measuring = asyncio.create_task(lag.measure_lag())

    async def is_measured() -> bool:
        return measured[()] > 0

    await until(is_measured)
    measuring.cancel()
