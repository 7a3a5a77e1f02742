"""Waiting clients: answered as soon as something changes, and not a moment of the table's time before."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final
from uuid import UUID

import asyncpg
import httpx
import pytest
import segno
from sqlalchemy import event

from payment_service.access.service import FULL_ACCESS, NewKey, Scope
from payment_service.api.middleware import Drain
from payment_service.api.waiting import _may_send
from payment_service.events import outbox, subscriptions
from payment_service.events.outbox import EventType
from payment_service.events.subscriptions import MISSED, TRUST_S, Subscription
from payment_service.identifiers import new_id
from payment_service.services import Services
from tests.api.conftest import SHOP, KeyMaker, created, paid, problem_of
from tests.conftest import ClientMaker
from tests.support.books import beyond_the_law, change_by_hand
from tests.support.replies import GoodProxy
from tests.support.waiting import until

LONG = 25


@pytest.fixture(autouse=True)
async def _listening(services: Services, shops: dict[int, str], proxy: GoodProxy) -> AsyncIterator[None]:
    """The process listening what the database tells."""
    task = asyncio.create_task(services.subscriptions.run())

    async def listening() -> bool:
        return services.subscriptions.listening

    await until(listening)
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def waiter(services: Services, client: httpx.AsyncClient, payment_id: str) -> asyncio.Task[httpx.Response]:
    """Somebody who waits for a payment, and does so by now."""
    waiting = asyncio.create_task(client.get(f"/payments/{payment_id}", params={"wait": LONG}))

    async def waits() -> bool:
        return bool(services.subscriptions._all)

    await until(waits)
    return waiting


async def test_waiting_client_hears_at_once_that_it_is_paid(
    services: Services, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    waiting = await waiter(services, client, payment["id"])
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


async def test_events_of_other_payments_wake_nobody(
    services: Services, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    mine, other = await created(client), await created(client, message="another")
    waiting = await waiter(services, client, mine["id"])
    proxy.statuses[other["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{other['external_id']}")
    proxy.statuses[mine["external_id"]] = "Processed"
    await client.get(f"/payments/kaspi/status/{mine['external_id']}")
    async with asyncio.timeout(LONG / 2):
        assert (await waiting).json()["id"] == mine["id"]


async def test_wait_goes_on_by_looking_while_the_database_cannot_be_heard(
    services: Services, client: httpx.AsyncClient, proxy: GoodProxy
) -> None:
    payment = await created(client)
    waiting = await waiter(services, client, payment["id"])
    services.subscriptions.listening = False
    proxy.statuses[payment["external_id"]] = "Processed"
    for subscription in services.subscriptions._all:
        subscription.subject_id = "deaf"
    await client.get(f"/payments/kaspi/status/{payment['external_id']}")
    async with asyncio.timeout(LONG / 2):
        assert (await waiting).json()["state"] == "paid"


async def test_change_that_was_not_announced_is_found_all_the_same(
    services: Services, client: httpx.AsyncClient, proxy: GoodProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "SWEEP_EVERY_S", 0.1)
    payment = await created(client)
    waiting = await waiter(services, client, payment["id"])
    monkeypatch.setattr(services.database.signals, "send", lambda *_signal: None)
    proxy.statuses[payment["external_id"]] = "Processed"
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


# --- streams

OTHER = 576631
ALL_OF_THEM: Final = 400


@asynccontextmanager
async def streams(services: Services, *keys: NewKey, many: int = 1) -> AsyncIterator[list[Subscription]]:
    """So many open streams of each key."""
    with ExitStack() as stack:
        opened = []
        for key in keys:
            caller = await services.access.caller_with(key.key)
            opened += [stack.enter_context(services.subscriptions.open(caller)) for _ in range(many)]
        yield opened


async def write(services: Services, many: int = 1, shop_id: int = SHOP, **fields: Any) -> list[UUID]:
    async with services.database.transaction() as session:
        written = [
            outbox.write(session, EventType.PAYMENT_PAID, new_id(), version=1, shop_id=shop_id, data={})
            for _ in range(many)
        ]
        for one in written:
            for name, value in fields.items():
                setattr(one, name, value)
    return [one.id for one in written]


async def told(subscription: Subscription, many: int) -> list[UUID]:
    """The next so many events, and not one more."""
    found: list[UUID] = []
    async with asyncio.timeout(LONG / 2):
        while len(found) < many:
            one = await subscription.next(LONG)
            found += [one.id] if one else []
    assert subscription._queue.empty()
    return found


async def reading_key(services: Services, *shops: int, name: str = "page") -> NewKey:
    return await services.access.create(name, [Scope.PAYMENTS_READ], shops=frozenset(shops))


@contextmanager
def statements(services: Services) -> Iterator[list[str]]:
    """What the database is asked meanwhile."""
    asked: list[str] = []

    def ask(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        asked.append(statement)

    engine = services.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", ask)
    try:
        yield asked
    finally:
        event.remove(engine, "before_cursor_execute", ask)


async def test_event_is_read_once_for_all_streams_that_may_see_it(services: Services) -> None:
    services.subscriptions._per_key = ALL_OF_THEM
    mine, foreign = await reading_key(services, SHOP), await reading_key(services, OTHER, name="other")
    async with streams(services, mine, foreign, many=ALL_OF_THEM) as opened:
        with statements(services) as asked:
            written = await write(services)
            for subscription in opened[:ALL_OF_THEM]:
                assert await told(subscription, 1) == written
        assert sum("FROM event" in statement for statement in asked) == 1
        assert all(subscription._queue.empty() for subscription in opened[ALL_OF_THEM:])


async def test_event_that_no_stream_may_see_is_not_even_read(services: Services) -> None:
    nobody = await services.access.create("nobody", [Scope.PAYMENTS_READ], shops=frozenset())
    async with streams(services, await reading_key(services, OTHER), nobody, many=5) as opened:
        with statements(services) as asked:
            await write(services)
            last = await write(services, shop_id=OTHER)
            assert await told(opened[0], 1) == last
        assert sum("FROM event" in statement for statement in asked) == 1
        assert all(subscription._queue.empty() for subscription in opened[5:])


async def test_waiting_clients_take_few_connections_at_once(services: Services) -> None:
    [first, *_more] = await write(services, 3)
    taken, most = 0, 0

    def take(*_what: Any) -> None:
        nonlocal taken, most
        taken += 1
        most = max(most, taken)

    def give_back(*_what: Any) -> None:
        nonlocal taken
        taken -= 1

    pool = services.database.engine.sync_engine.pool
    event.listen(pool, "checkout", take)
    event.listen(pool, "checkin", give_back)
    try:
        found = await asyncio.gather(*(resumed(services, first) for _ in range(20)))
    finally:
        event.remove(pool, "checkout", take)
        event.remove(pool, "checkin", give_back)
    assert [len(ids) for ids in found] == [2] * 20
    assert most <= 3  # of ten: one for those who wait, the reader, and the check of the keys


async def resumed(services: Services, event_id: UUID) -> list[UUID]:
    return [told.id async for told in services.subscriptions.since(FULL_ACCESS, event_id)]


async def test_nobodys_key_sees_nothing_of_any_shop(services: Services) -> None:
    nobody = await services.access.create("nobody", [Scope.PAYMENTS_READ], shops=frozenset())
    caller = await services.access.caller_with(nobody.key)
    assert caller.narrowed_to(SHOP).shops == frozenset()
    first = (await write(services, 2))[0]
    assert [told async for told in services.subscriptions.since(caller, first)] == []


CUT_THE_LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = '' AND pid <> pg_backend_pid()
"""


async def change_key(sql: asyncpg.Connection, key_id: int, change: str) -> None:
    await change_by_hand(sql, f"api_key:{key_id}", f"UPDATE api_key SET {change} WHERE id = {key_id}")


@pytest.mark.parametrize(
    "ending",
    [
        "revoked_at = now()",
        "expires_at = now() + interval '0.3 seconds'",
        f"shops = ARRAY[{OTHER}]",
        "shops = '{}'",
        "scopes = ARRAY['config:read']",
    ],
)
@pytest.mark.parametrize("listening", [True, False])
async def test_stream_and_wait_end_with_what_their_key_held(
    services: Services,
    client: httpx.AsyncClient,
    make_client: ClientMaker,
    sql: asyncpg.Connection,
    ending: str,
    listening: bool,
) -> None:
    payment = await created(client)
    key = await reading_key(services, SHOP)
    waiting = await waiter(services, make_client(key.key), payment["id"])
    async with streams(services, key) as [stream]:
        if not listening:
            await sql.execute(CUT_THE_LISTENERS)
        await change_key(sql, key.row.id, ending)
        async with asyncio.timeout(LONG / 2):
            while not stream.ended:
                with suppress(TimeoutError):
                    await stream.next(1)
            problem_of(await waiting, 401, "authentication_required")
        await write(services)
        assert not stream.trusted


async def test_stream_goes_on_when_its_key_may_do_more(services: Services, sql: asyncpg.Connection) -> None:
    key = await reading_key(services, SHOP)
    async with streams(services, key) as [stream]:
        checked_at = stream.checked_at
        await change_key(sql, key.row.id, f"shops = ARRAY[{SHOP}, {OTHER}]")

        async def checked() -> bool:
            return stream.checked_at > checked_at

        await until(checked)
        assert not stream.ended
        written = await write(services)
        assert await told(stream, 1) == written


async def test_key_that_nobody_could_check_is_told_nothing(services: Services, drain: Drain) -> None:
    async with streams(services, await reading_key(services, SHOP)) as [stream]:
        stream.checked_at -= 2 * TRUST_S
        assert not stream.trusted
        telling = asyncio.create_task(_may_send(stream, drain))
        stream.checked_at += 2 * TRUST_S
        assert await telling


async def test_streams_and_waits_of_one_key_are_counted_together(
    services: Services, client: httpx.AsyncClient, make_client: ClientMaker
) -> None:
    payment = await created(client)
    key, other = await reading_key(services, SHOP), await reading_key(services, SHOP, name="other")
    services.subscriptions._per_key = 2
    async with streams(services, key, many=2):
        for address in (f"/payments/{payment['id']}?wait=1", "/payments/events"):
            answer = await make_client(key.key).get(address)
            problem_of(answer, 429, "too_many_waiting")
            assert "retry-after" in answer.headers
        assert (await make_client(key.key).get(f"/payments/{payment['id']}")).status_code == 200
        async with streams(services, other):
            services.subscriptions._in_all = 3
            answer = await make_client(other.key).get("/payments/events")
            problem_of(answer, 503, "no_room_to_wait")
    assert not services.subscriptions._of_caller
    services.subscriptions._in_all = 1000
    async with streams(services, key, many=2):
        pass


@pytest.mark.parametrize("ahead", [timedelta(), timedelta(hours=1)])
async def test_stream_tells_every_event_once_over_a_line_that_was_lost(
    services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, ahead: timedelta
) -> None:
    """Also where this machine's clock is another one than the database's."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + ahead

    monkeypatch.setattr(subscriptions, "datetime", Ahead)
    async with streams(services, await reading_key(services, SHOP)) as [stream]:
        first = await write(services)
        assert await told(stream, 1) == first
        await sql.execute(CUT_THE_LISTENERS)
        expected = await write(services, 700)
        expected += await write(services, created_at=datetime.now(UTC) - MISSED / 2)  # written long before its commit
        assert sorted(await told(stream, 701)) == sorted(expected)

        async def listening() -> bool:
            return services.subscriptions.listening

        await until(listening)
        last = await write(services)
        assert await told(stream, 1) == last


async def test_stream_goes_on_after_an_event_of_a_clock_that_was_ahead(services: Services) -> None:
    [ahead] = await write(services, created_at=datetime.now(UTC) + timedelta(hours=1))
    written = await write(services)
    assert await resumed(services, ahead) == written


async def test_stream_skips_nothing_that_was_written_after_the_clock_was_set_back(
    services: Services, client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    """The clock was an hour ahead, was set right, and some minutes have passed since."""
    for message, moved in (("ahead", "1 hour"), ("right", "-10 minutes")):
        payment = await created(client, message=message)
        line, told = (
            f"UPDATE {table} SET created_at = created_at + interval '{moved}' WHERE {column} = '{payment['id']}'"
            for table, column in (("payment_log", "payment_id"), ("event", "subject_id"))
        )
        await beyond_the_law(sql, line, told)
    right, ahead = await sql.fetch("SELECT id FROM event WHERE subject = 'payment' ORDER BY created_at")
    assert await resumed(services, ahead["id"]) == [right["id"]]


async def test_stream_goes_on_after_an_event_however_many_came_since(services: Services) -> None:
    first, *expected = await write(services, 1201)
    expected += await write(services, 3)
    found = await resumed(services, first)
    assert (len(found), set(found)) == (len(expected), set(expected))
    foreign = replace(FULL_ACCESS, shops=frozenset({OTHER}))
    assert [told async for told in services.subscriptions.since(foreign, first)] == []


async def test_stream_that_cannot_keep_up_ends(services: Services) -> None:
    async with streams(services, await reading_key(services, SHOP)) as [stream]:
        await write(services, 1100)

        async def ended() -> bool:
            return stream.ended

        await until(ended)
