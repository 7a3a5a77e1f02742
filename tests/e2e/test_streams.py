"""Events as they happen, over a real connection."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("e2e")

EVENTS = "/payments/events"


@asynccontextmanager
async def stream(client: httpx.AsyncClient, **how: Any) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of one open stream, each with its id and type as the stream gives them."""
    async with client.stream("GET", EVENTS, timeout=20, **how) as answer:
        assert answer.status_code == 200
        lines = answer.aiter_lines()
        assert await anext(lines) == ": connected"

        async def events() -> AsyncIterator[dict[str, Any]]:
            fields: dict[str, str] = {}
            async for line in lines:
                if line.startswith(":"):
                    continue
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    yield {"stream_id": fields["id"], "stream_type": fields["event"], **json.loads(fields["data"])}
                    fields = {}

        yield events()


async def next_of(events: AsyncIterator[dict[str, Any]], payment_id: str) -> dict[str, Any]:
    """The next event of a payment."""
    async with asyncio.timeout(15):
        async for event in events:
            if event["data"]["id"] == payment_id:
                return event
    raise AssertionError("the stream ended")


async def test_events_come_as_they_happen(rig: Rig) -> None:
    async with stream(rig.api) as events:
        payment = await rig.paid()
        seen = [await next_of(events, payment["id"]) for _ in range(2)]
    assert [event["type"] for event in seen] == ["payment.pending", "payment.paid"]
    assert all((event["stream_id"], event["stream_type"]) == (event["id"], event["type"]) for event in seen)
    assert seen[1]["version"] > seen[0]["version"]


async def test_events_of_another_process_are_heard_too(rig: Rig) -> None:
    async with stream(rig.clients[1]) as events:
        payment = (await rig.create(by=rig.clients[0], message=rig.word())).json()
        assert (await next_of(events, payment["id"]))["type"] == "payment.pending"


async def test_stream_goes_on_after_the_last_event_that_was_seen(rig: Rig) -> None:
    async with stream(rig.api) as events:
        payment = await rig.paid()
        first = await next_of(events, payment["id"])
    await rig.in_state(payment["id"], "paid")
    async with stream(rig.api, headers={"Last-Event-ID": first["id"]}) as events:
        assert (await next_of(events, payment["id"]))["type"] == "payment.paid"


async def test_stream_shows_only_the_callers_shops(rig: Rig) -> None:
    key = rig.make_key("stream", "payments:read", shops=[49237])
    async with stream(rig.client(rig.services[0], key)) as events:
        await rig.create(121038, message=rig.word())
        mine = (await rig.create(49237, message=rig.word())).json()
        async with asyncio.timeout(15):
            assert (await anext(events))["data"]["id"] == mine["id"]


@pytest.mark.parametrize(("scope", "status"), [(None, 401), ("payments:write", 403)])
async def test_stream_asks_for_a_key_that_may_read(rig: Rig, scope: str | None, status: int) -> None:
    async with httpx.AsyncClient(base_url=rig.services[0].url, trust_env=False) as client:
        headers = {"X-API-Key": rig.make_key("stream", scope)} if scope else {}
        answer = await client.get(EVENTS, headers=headers)
    assert answer.status_code == status


async def test_stream_ends_when_its_key_is_revoked_by_another_process(rig: Rig) -> None:
    key = rig.make_key("revoked-stream", "payments:read")
    [row] = [one for one in json.loads(rig.run("keys", "list", "--json").stdout) if one["name"] == "revoked-stream"]
    async with stream(rig.client(rig.services[0], key)) as events:
        assert rig.run("keys", "revoke", str(row["id"])).returncode == 0
        async with asyncio.timeout(15):
            async for _event in events:
                pass


async def test_stream_ends_when_the_service_stops(rig: Rig) -> None:
    service = await rig.serve()
    async with stream(rig.client(service)) as events:
        stopping = asyncio.create_task(service.stop())
        async with asyncio.timeout(15):
            async for _event in events:
                pass
    assert await stopping == 0
