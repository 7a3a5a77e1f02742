"""Waiting clients: answered as soon as something changes, and not a moment of the table's time before."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest
import segno

from payment_service.access.service import Scope
from payment_service.api.waiting import MISSED, News
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.main import House
from tests.api.conftest import SHOP, GoodProxy, KeyMaker, created, paid, problem_of
from tests.waiting import until

LONG = 25


@pytest.fixture(autouse=True)
async def _listening(house: House, shops: dict[int, str], proxy: GoodProxy) -> AsyncIterator[None]:
    """The process hears what the database tells."""
    task = asyncio.create_task(house.ears.listen(house.database))

    async def hears() -> bool:
        return house.ears.hears

    await until(hears)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def waiter(house: House, client: httpx.AsyncClient, payment_id: str) -> asyncio.Task[httpx.Response]:
    """Somebody who waits for a payment, and does so by now."""
    waiting = asyncio.create_task(client.get(f"/payments/{payment_id}", params={"wait": LONG}))

    async def waits() -> bool:
        return bool(house.ears._ears)

    await until(waits)
    return waiting


async def test_waiting_client_hears_at_once_that_it_is_paid(
    house: House, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    waiting = await waiter(house, client, payment["id"])
    proxy.statuses[payment["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{payment['external_id']}")
    async with asyncio.timeout(LONG / 2):
        assert (await waiting).json()["state"] == "paid"


async def test_nobody_waits_for_what_has_ended(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    payment = await paid(client, proxy)
    async with asyncio.timeout(LONG / 2):
        assert (await client.get(f"/payments/{payment['id']}", params={"wait": LONG})).json()["state"] == "paid"


async def test_wait_that_sees_no_change_ends_with_what_there_is(client: httpx.AsyncClient) -> None:
    payment = await created(client)
    answer = await client.get(f"/payments/{payment['id']}", params={"wait": 0.2})
    assert answer.json()["state"] == "pending"


async def test_events_of_other_payments_wake_nobody(house: House, client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    mine, other = await created(client), await created(client, message="another")
    waiting = await waiter(house, client, mine["id"])
    proxy.statuses[other["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{other['external_id']}")
    proxy.statuses[mine["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{mine['external_id']}")
    async with asyncio.timeout(LONG / 2):
        assert (await waiting).json()["id"] == mine["id"]


async def test_wait_goes_on_by_looking_while_the_database_cannot_be_heard(
    house: House, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    waiting = await waiter(house, client, payment["id"])
    house.ears.hears = False
    proxy.statuses[payment["external_id"]] = "Processed"
    for ear in house.ears._ears:
        ear.subject_id = "deaf"
    await client.get(f"/payments/kaspi/status/{payment['external_id']}")
    async with asyncio.timeout(LONG / 2):
        assert (await waiting).json()["state"] == "paid"


async def test_foreign_payment_is_not_waited_for(client: httpx.AsyncClient, with_key: KeyMaker) -> None:
    payment = await created(client)
    foreign = await with_key(Scope.PAYMENTS_READ, shops=[49237])
    problem_of(await foreign.get(f"/payments/{payment['id']}", params={"wait": LONG}), 404, "payment_not_found")


@pytest.mark.parametrize("wait", ["-1", "26", "soon", "NaN"])
async def test_odd_waits_are_refused(wait: str, client: httpx.AsyncClient) -> None:
    payment = await created(client)
    problem_of(await client.get(f"/payments/{payment['id']}", params={"wait": wait}), 422, "validation_failed")


async def test_link_as_a_qr_code(client: httpx.AsyncClient) -> None:
    body = {"shop_id": SHOP, "amount": 100, "message": "counter"}
    link = (await client.post("/payments/kaspi/create-link", json=body)).json()
    svg, png = [await client.get(f"/payments/{link['id']}/qr.{kind}") for kind in ("svg", "png")]
    assert (svg.headers["content-type"], png.headers["content-type"]) == ("image/svg+xml", "image/png")
    modules = segno.make(link["payment_link"], error="m", micro=False).symbol_size(scale=8, border=4)
    assert svg.text.count(f'width="{modules[0]}"') == 1
    assert png.content.startswith(b"\x89PNG\r\n")
    assert int.from_bytes(png.content[16:20]) == modules[0]


async def test_payment_without_a_link_has_no_qr_code(client: httpx.AsyncClient) -> None:
    payment = await created(client)
    problem_of(await client.get(f"/payments/{payment['id']}/qr.png"), 409, "payment_has_no_link")
    assert (await client.get(f"/payments/{payment['id']}/qr.gif")).status_code == 422


async def test_stream_that_runs_long_tells_every_event_once(house: House, shops: dict[int, str]) -> None:
    async def write(many: int, **fields: Any) -> set[UUID]:
        async with house.database.transaction() as session:
            written = [
                outbox.write(session, EventType.PAYMENT_PAID, new_id(), version=1, shop_id=next(iter(shops)), data={})
                for _ in range(many)
            ]
            for event in written:
                for name, value in fields.items():
                    setattr(event, name, value)
        return {event.id for event in written}

    news = News(house.rooms(), None, datetime.now(UTC))
    for many in (1200, 1, 700):
        expected = await write(many)
        told = [event.id async for event in news.untold()]
        assert (len(told), set(told)) == (many, expected)
    late = await write(1, created_at=datetime.now(UTC) - MISSED / 2)  # committed long after it was written
    assert {event.id async for event in news.untold()} == late
    assert [event async for event in news.untold()] == []
