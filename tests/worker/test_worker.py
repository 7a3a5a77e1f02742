"""The second door: the worker end to end, on a real queue, with the proxy's side of the wire played."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
import respx

from payment_service.main import House
from payment_service.payments.following import Following
from payment_service.payments.models import Payment
from payment_service.settings import Settings
from payment_service.worker import service
from payment_service.worker.service import Worker
from tests.conftest import accepted, status_reply
from tests.payments.asking import TERMINATE_OTHERS, Gate, age, ask, audit_of
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
CREATED = 12800627774
TINY = 0.05


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with tiny intervals."""
    names = ("follow_first_s", "follow_fast_s", "follow_slow_s", "error_confirm_s", "sweep_every_s")
    return settings.model_copy(update=dict.fromkeys(names, TINY))


@pytest.fixture
async def worker(house: House, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    """A worker at work."""
    monkeypatch.setattr(service, "RESTART_AFTER_S", TINY)
    monkeypatch.setattr("payment_service.payments.following.READING_LEASE_S", 1)
    worker = house.worker()
    working = asyncio.create_task(worker.run())
    yield worker
    worker.stop()
    async with asyncio.timeout(20):
        await working


async def taken_on(house: House, wire: respx.MockRouter, **data: Any) -> Payment:
    wire.get("/create/").mock(return_value=accepted(CREATED, **data))
    return (await house.payments.create(ask())).payment


async def reaches(sql: asyncpg.Connection, state: str) -> None:
    async def there() -> bool:
        return bool(await sql.fetchval("SELECT state = $1 FROM payment", state))

    await until(there)


async def sender_dies(house: House, wire: respx.MockRouter) -> None:
    """A process ends while its call is under way."""
    gate = Gate(accepted(CREATED))
    wire.get("/create/").mock(side_effect=gate)
    sending = asyncio.create_task(house.payments.create(ask()))
    await gate.reached.wait()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


def tells(wire: respx.MockRouter, *statuses: str) -> respx.Route:
    """The proxy says these one after the other, and the last one for good."""
    words = iter(statuses)
    last = statuses[-1]
    return wire.get("/status/").mock(side_effect=lambda _request: status_reply(CREATED, next(words, last)))


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        (("Wait", "RemotePaymentCreated", "Processed"), "paid"),
        (("Wait", "Error"), "failed"),
        (("RemotePaymentCanceled",), "cancelled"),
        (("NobodyKnowsThis", "Processed"), "paid"),
    ],
)
async def test_worker_follows_a_payment_to_its_end(
    house: House, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker, statuses: tuple[str, ...], state: str
) -> None:
    tells(wire, *statuses)
    await taken_on(house, wire)
    await reaches(sql, state)
    assert await audit_of(sql) == [("create", "pending"), ("status", state)]
    assert await sql.fetchval("SELECT actor FROM payment_log WHERE operation_type = 'status'") == "worker"
    # A payment that failed may have been paid late, so it is looked at again.
    assert (await sql.fetchval("SELECT next_check_at FROM payment") is None) == (state != "failed")


async def test_worker_follows_what_was_made_before_it_came(
    house: House, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    tells(wire, "Processed")
    await taken_on(house, wire)
    worker = house.worker()
    working = asyncio.create_task(worker.run())
    await reaches(sql, "paid")
    worker.stop()
    await working


async def test_two_workers_ask_no_more_than_one(
    house: House, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    second = house.worker()
    working = asyncio.create_task(second.run())
    route = tells(wire, "Wait", "Wait", "Processed")
    await taken_on(house, wire)
    await reaches(sql, "paid")
    second.stop()
    await working
    assert route.call_count == await sql.fetchval("SELECT checks FROM payment") == 3


async def test_worker_comes_back_when_its_connection_was_terminated(
    house: House, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    route = tells(wire, "Wait")
    await taken_on(house, wire)

    async def asked() -> bool:
        return route.called

    await until(asked)
    await sql.execute(TERMINATE_OTHERS)
    tells(wire, "Processed")
    await reaches(sql, "paid")


async def test_reading_that_crashed_is_taken_up_by_the_sweep(
    house: House,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    follow = Following.follow
    crashes = iter(range(2))

    async def crash_twice(self: Following, payment_id: Any) -> None:
        if next(crashes, None) is not None:
            raise RuntimeError("crash")
        await follow(self, payment_id)

    monkeypatch.setattr(Following, "follow", crash_twice)
    tells(wire, "Processed")
    await taken_on(house, wire)
    await reaches(sql, "paid")


async def test_sweep_settles_what_a_dead_process_left_in_sending(
    house: House, wire: respx.MockRouter, sql: asyncpg.Connection, worker: Worker
) -> None:
    await sender_dies(house, wire)
    await age(sql, 31)
    await reaches(sql, "unknown")
    assert await audit_of(sql) == [("settle", "unknown")]


async def test_sweep_that_failed_is_not_the_last(
    house: House,
    wire: respx.MockRouter,
    sql: asyncpg.Connection,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = asyncio.Event()

    async def fail(_self: Following) -> int:
        failed.set()
        raise RuntimeError("crash")

    with monkeypatch.context() as broken:
        broken.setattr(Following, "settle_lost", fail)
        await asyncio.wait_for(failed.wait(), 10)
    await sender_dies(house, wire)
    await age(sql, 31)
    await reaches(sql, "unknown")


async def test_worker_that_is_stopped_lets_the_job_in_hand_end(
    house: House, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_request: httpx.Request) -> httpx.Response:
        begun.set()
        await go_on.wait()
        return status_reply(CREATED, "Processed")

    wire.get("/status/").mock(side_effect=slow)
    worker = house.worker()
    working = asyncio.create_task(worker.run())
    await taken_on(house, wire)
    await asyncio.wait_for(begun.wait(), 10)
    worker.stop()
    go_on.set()
    async with asyncio.timeout(20):
        await working
    assert await sql.fetchval("SELECT state FROM payment") == "paid"


async def test_worker_that_is_stopped_before_it_began_ends(house: House) -> None:
    worker = house.worker()
    worker.stop()
    async with asyncio.timeout(20):
        await worker.run()
