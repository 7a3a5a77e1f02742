"""Routing served from memory: a change anywhere is seen here, and silence is not trusted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from payment_service.access.service import FULL_ACCESS
from payment_service.postgres.cache import keep_fresh
from payment_service.services import Services, build
from payment_service.settings import Settings
from tests.support.books import write_down
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
SHOP = 121038
OTHER_BIN = "991011000048"


@pytest.fixture
async def elsewhere(settings: Settings) -> AsyncIterator[Services]:
    """Another process."""
    services = build(settings)
    yield services
    await services.close()


@pytest.fixture
async def listening(services: Services, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Services]:
    """A services that hears of changes."""
    monkeypatch.setattr("payment_service.postgres.listening.RECONNECT_S", 0.05)
    task = asyncio.create_task(keep_fresh(services.database, services.routing.cache))
    await until(lambda: is_remembered(services))
    yield services
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def is_remembered(services: Services) -> bool:
    await services.routing.config_of(FULL_ACCESS, SHOP)
    return services.routing.cache.get(SHOP) is not None


async def seen(services: Services, organization_bin: str) -> bool:
    return (await services.routing.route_of(FULL_ACCESS, SHOP)).organization_bin == organization_bin


async def test_change_in_another_process_is_seen(listening: Services, elsewhere: Services) -> None:
    await elsewhere.routing.update(FULL_ACCESS, SHOP, {"organization_bin": OTHER_BIN, "device_token": None})
    await until(lambda: seen(listening, OTHER_BIN), within_s=5)
    assert (await listening.routing.route_of(FULL_ACCESS, SHOP)).version == 2


async def test_change_by_hand_is_seen(listening: Services, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await sql.execute("UPDATE payment_config SET version = 2, is_active = false WHERE shop_id = $1", SHOP)
        await sql.execute(
            "INSERT INTO payment_config_history SELECT shop_id, 2, organization_bin, device_token, device_token_id,"
            " false, provider, name, city, description, 'by hand' FROM payment_config_history WHERE shop_id = $1",
            SHOP,
        )
        await write_down(sql, f"payment_config:{SHOP}")

    async def inactive() -> bool:
        return not (await listening.routing.config_of(FULL_ACCESS, SHOP)).row.is_active

    await until(inactive, within_s=5)


async def test_remembered_shop_is_not_read_again(listening: Services) -> None:
    remembered = await listening.routing.config_of(FULL_ACCESS, SHOP)
    assert await listening.routing.config_of(FULL_ACCESS, SHOP) is remembered


async def test_without_a_listener_nothing_is_remembered(services: Services) -> None:
    assert not await is_remembered(services)


async def test_lost_listener_trusts_the_database_until_it_is_back(
    listening: Services, elsewhere: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = asyncio.Event()
    connect = type(listening.database).raw_connection

    async def connect_later(database: object) -> asyncpg.Connection:
        await back.wait()
        return await connect(listening.database)

    monkeypatch.setattr(type(listening.database), "raw_connection", connect_later)
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )

    async def distrusted() -> bool:
        return not await is_remembered(listening)

    await until(distrusted)
    await elsewhere.routing.update(FULL_ACCESS, SHOP, {"organization_bin": OTHER_BIN, "device_token": None})
    assert await seen(listening, OTHER_BIN)
    back.set()
    await until(lambda: is_remembered(listening))
    await elsewhere.routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[SHOP]})
    await until(lambda: seen(listening, SHOPS[SHOP]), within_s=5)


async def test_end_of_listening_ends_the_trust(services: Services) -> None:
    task = asyncio.create_task(keep_fresh(services.database, services.routing.cache))
    await until(lambda: is_remembered(services))
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert not await is_remembered(services)
