"""Events are written with what they tell of: the same transaction, the same words, one version after the other."""

import json

import asyncpg
import httpx
import pytest
import respx

from payment_service.access.service import FULL_ACCESS
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.services import Services
from tests.api.conftest import created, paid
from tests.support.asking import ask
from tests.support.replies import GoodProxy, accepted, failure, status_reply
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
TOLD = "SELECT type FROM event WHERE type <> 'route.changed' ORDER BY id"


async def types(sql: asyncpg.Connection) -> list[str]:
    return [row["type"] for row in await sql.fetch(TOLD)]


async def test_every_move_has_its_event(client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection) -> None:
    payment = await paid(client, proxy)
    body = {"shop_id": payment["shop_id"], "external_id": payment["external_id"], "amount": 10}
    await client.post("/payments/kaspi/refund", json=body)
    assert await types(sql) == ["payment.pending", "payment.paid", "refund.succeeded"]


async def test_event_shows_what_get_shows(client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection) -> None:
    payment = await paid(client, proxy)
    [told] = [json.loads(row["data"]) for row in await sql.fetch("SELECT data FROM event WHERE type = 'payment.paid'")]
    shown = (await client.get(f"/payments/{payment['id']}")).json()
    assert told == {name: shown[name] for name in told}
    assert set(shown) - set(told) == {"refunds", "history"}


async def test_versions_grow_with_what_callers_can_see(
    client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    payment = await created(client)
    await client.get(f"/payments/kaspi/status/{payment['external_id']}")  # nothing new
    assert (await client.get(f"/payments/{payment['id']}")).json()["version"] == payment["version"]
    proxy.statuses[payment["external_id"]] = "Processed"
    later = (await client.get(f"/payments/kaspi/status/{payment['external_id']}")).json()
    assert later["version"] > payment["version"]
    told = await sql.fetch("SELECT version FROM event WHERE type <> 'route.changed' ORDER BY version")
    assert [row["version"] for row in told] == [payment["version"], later["version"]]


async def test_unknown_and_rejected_payments_are_told_of(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(side_effect=[httpx.Response(200), failure(-1502, "Device is not active")])
    await services.payments.create(ask())
    await services.payments.create(ask(message="another"))
    assert await types(sql) == ["payment.unknown", "payment.failed"]


async def test_late_success_is_paid_and_more(
    services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=accepted(12800627774))
    payment = (await services.payments.create(ask())).payment
    wire.get("/status/").mock(side_effect=lambda _: status_reply(12800627774, "Processed"))
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("UPDATE payment SET state = 'failed', failure = 'declined'")
    await sql.execute("SET session_replication_role = DEFAULT")
    await services.reading.refresh(await services.reading.get(FULL_ACCESS, payment.id))
    assert await types(sql) == ["payment.pending", "payment.paid", "payment.late_success"]


async def test_changed_route_is_told_without_its_token(services: Services, sql: asyncpg.Connection) -> None:
    await sql.execute(
        "SET session_replication_role = replica; DELETE FROM event; SET session_replication_role = DEFAULT"
    )
    await services.routing.update(
        FULL_ACCESS, 121038, {"device_token": "99999999-aaaa-4aaa-8aaa-000000000009"}, reason="a new phone"
    )
    [row] = await sql.fetch("SELECT * FROM event")
    told = json.loads(row["data"])
    assert (row["type"], row["subject_id"], row["version"]) == ("route.changed", "121038", 2)
    assert (told["device_token"], told["reason"]) == ("99999999…", "a new phone")


async def test_move_that_is_rolled_back_tells_nobody(services: Services, sql: asyncpg.Connection) -> None:
    before = await sql.fetchval("SELECT count(*) FROM event")

    async def write_and_fail() -> None:
        async with services.database.transaction() as session:
            outbox.write(session, EventType.TEST, 1, version=1, shop_id=None, data={})
            await session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await write_and_fail()
    assert await sql.fetchval("SELECT count(*) FROM event") == before


async def test_whoever_listens_hears_of_an_event_at_once(
    services: Services, wire: respx.MockRouter, database_url: str
) -> None:
    heard: list[dict[str, object]] = []
    listener = await asyncpg.connect(database_url)
    try:
        await listener.add_listener("event_written", lambda *said: heard.append(json.loads(said[-1])))
        wire.get("/create/").mock(return_value=accepted(12800627774))
        payment = (await services.payments.create(ask())).payment

        async def has_heard() -> bool:
            return bool(heard)

        await until(has_heard)
    finally:
        await listener.close()
    assert heard[0]["subject_id"] == str(payment.id)
    assert heard[0]["type"] == "payment.pending"


@pytest.mark.parametrize(
    "change",
    ["type = 'payment.paid'", "data = '{}'", "version = 9", "passed_on_at = NULL WHERE passed_on_at IS NOT NULL"],
)
async def test_event_is_never_changed(
    change: str, services: Services, wire: respx.MockRouter, sql: asyncpg.Connection
) -> None:
    wire.get("/create/").mock(return_value=accepted(12800627774))
    await services.payments.create(ask())
    await sql.execute("UPDATE event SET passed_on_at = now()")
    with pytest.raises(asyncpg.CheckViolationError, match="never changed"):
        await sql.execute(f"UPDATE event SET {change}")
    with pytest.raises(asyncpg.CheckViolationError, match="never changed"):
        await sql.execute("DELETE FROM event")
