"""Workers that deliver: at once, each try by one of them, and never at the cost of following payments."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
import respx
from sqlalchemy.exc import DBAPIError

from payment_service.services import Services
from payment_service.settings import Settings
from payment_service.worker.service import Worker, worker_over
from tests.events.webhooks import World, world_of
from tests.support.asking import TERMINATE_OTHERS, ask
from tests.support.replies import accepted, status_reply
from tests.support.waiting import until

CREATED = 12800627774


@pytest.fixture
def settings(settings: Settings) -> Settings:
    tiny = dict.fromkeys(("follow_first_s", "follow_fast_s", "sweep_every_s"), 0.05)
    return settings.model_copy(update={**tiny, "webhooks_stay_here": True})


@pytest.fixture
async def world(services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_of(services, sql, monkeypatch)


@pytest.fixture
async def workers(world: World) -> AsyncIterator[list[Worker]]:
    """Two of them, at work."""
    workers = [worker_over(world.services) for _ in range(2)]
    working = [asyncio.create_task(worker.run()) for worker in workers]
    yield workers
    for worker in workers:
        worker.stop()
    async with asyncio.timeout(30):
        await asyncio.gather(*working)


async def all_delivered(world: World, count: int) -> None:
    async def delivered() -> bool:
        return await world.states() == ["delivered"] * count

    await until(delivered, within_s=60)


async def test_two_workers_deliver_each_event_once(world: World, workers: list[Worker]) -> None:
    await world.endpoint()
    await asyncio.gather(*(world.happens() for _ in range(30)))
    await all_delivered(world, 30)
    ids = [call.headers["webhook-id"] for call in world.receiver.calls]
    assert len(ids) == len(set(ids)) == 30


async def test_payments_are_followed_while_an_endpoint_hangs(
    world: World, workers: list[Worker], wire: respx.MockRouter, shops: dict[int, str]
) -> None:
    await world.endpoint(events=["payment.pending", "payment.paid"])
    world.receiver.gate = asyncio.Event()
    await asyncio.gather(*(world.happens() for _ in range(30)))

    async def hangs() -> bool:
        return len(world.receiver.calls) == world.deliveries.plan.at_once

    await until(hangs)
    wire.get("/create/").mock(return_value=accepted(CREATED))
    wire.get("/status/").mock(return_value=status_reply(CREATED, "Processed"))
    await world.services.payments.create(ask())

    async def paid() -> bool:
        return bool(await world.sql.fetchval("SELECT state = 'paid' FROM payment"))

    await until(paid)
    assert len(world.receiver.calls) == world.deliveries.plan.at_once
    world.receiver.gate.set()
    await all_delivered(world, 32)


async def test_endpoint_that_hangs_keeps_no_other_waiting(world: World, workers: list[Worker]) -> None:
    hanging = await world.endpoint(events=["payment.paid"], url="http://127.0.0.1:9009/hanging")
    await world.endpoint(url="http://127.0.0.1:9009/quick")
    gate = asyncio.Event()
    post = world.receiver.post

    async def hang(url: str, *, body: bytes, headers: dict[str, str]) -> object:
        if url.endswith("hanging"):
            await gate.wait()
        return await post(url, body=body, headers=headers)

    world.services.endpoints.outbound.post = hang  # type: ignore[method-assign, assignment] # put back by monkeypatch
    await asyncio.gather(*(world.happens() for _ in range(20)))
    query = "SELECT count(*) FROM event_delivery WHERE state = 'delivered' AND endpoint_id <> $1"

    async def others_are_told() -> bool:
        return bool(await world.sql.fetchval(query, hanging) == 20)

    await until(others_are_told)
    gate.set()
    await all_delivered(world, 40)


async def test_event_of_which_nobody_was_told_is_delivered_all_the_same(
    world: World, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.services.database.signals, "send", lambda *_signal: None)
    await world.endpoint()
    await world.happens()
    await all_delivered(world, 1)


async def test_worker_whose_connections_were_cut_delivers_again(world: World, workers: list[Worker]) -> None:
    await world.endpoint()
    await world.happens()
    await all_delivered(world, 1)
    await world.sql.execute(TERMINATE_OTHERS)

    async def happens() -> bool:
        try:
            await world.happens()
        except DBAPIError:  # the pool notices that its connections were cut
            return False
        return True

    await until(happens)
    await all_delivered(world, 2)
