"""Delivering in one process: a receiver in place of the wire, time in place of the clock, turns taken by hand."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from payment_service.access.service import FULL_ACCESS
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.events.relay import Relay
from payment_service.identifiers import new_id
from payment_service.outbound.client import NotPosted, Posted, Reason
from payment_service.services import Services
from payment_service.webhooks.delivery import Deliveries
from tests.support.database import without_laws
from tests.support.due_work import work_off

URL = "http://127.0.0.1:9009/webhook"
SHOP = 121038
OK = Posted(200, b"thanks")
REFUSED = NotPosted(Reason.CONNECT_FAILED, "The host accepted no connection.")


@dataclass(frozen=True)
class Call:
    """One call of a receiver."""

    url: str
    body: str
    headers: Mapping[str, str]

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def is_of_money(self) -> bool:
        """Whether it tells of a payment or a refund."""
        return self.event["type"].partition(".")[0] in {"payment", "refund"}

    def is_signed_with(self, secret: str) -> bool:
        try:
            Webhook(secret).verify(self.body, dict(self.headers))
        except WebhookVerificationError:
            return False
        return True


@dataclass
class Receiver:
    """Stands in place of the wire; answers what it is told to."""

    answer: Callable[[Call], Posted | NotPosted] = lambda _call: OK
    calls: list[Call] = field(default_factory=list)
    gate: asyncio.Event | None = None
    """Calls are answered when it opens."""

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str]) -> Posted | NotPosted:
        call = Call(url, body.decode(), headers)
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        return self.answer(call)

    def answers(self, *answers: Posted | NotPosted | int) -> None:
        """These, one after the other, and the last one for good."""
        waiting = list(answers)

        def next_one(_call: Call) -> Posted | NotPosted:
            one = waiting.pop(0) if len(waiting) > 1 else waiting[0]
            return Posted(one, b"") if isinstance(one, int) else one

        self.answer = next_one

    @property
    def types(self) -> list[str]:
        return [call.event["type"] for call in self.calls]

    @property
    def versions(self) -> list[int]:
        return [call.event["version"] for call in self.calls]


_TIMES = {
    "event_delivery": "created_at next_try_at trying_until ended_at",
    "delivery_try": "created_at",
    "webhook_endpoint": "failing_since off_since previous_secret_until",
}
DUE_IN_S = "SELECT extract(epoch FROM min(next_try_at) - now())::float8 FROM event_delivery WHERE state = 'waiting'"


@dataclass
class World:
    """Endpoints, a receiver, and a worker that works when it is told to."""

    services: Services
    sql: asyncpg.Connection
    receiver: Receiver
    deliveries: Deliveries

    async def endpoint(self, **fields: Any) -> UUID:
        made = await self.services.endpoints.add(FULL_ACCESS, {"url": URL, **fields})
        return made.endpoint.id

    async def happens(
        self,
        kind: EventType = EventType.PAYMENT_PAID,
        subject: UUID | None = None,
        *,
        version: int = 1,
        shop_id: int | None = SHOP,
        data: Mapping[str, Any] | None = None,
    ) -> UUID:
        """An event is written; returns its id."""
        async with self.services.database.transaction() as session:
            event = outbox.write(
                session, kind, subject or new_id(), version=version, shop_id=shop_id, data=data or {"amount": 100}
            )
        return event.id

    async def pass_on(self) -> int:
        return await Relay(self.services.database, [self.deliveries.consume]).pass_on()

    async def work(self) -> None:
        """Pass on, and take every turn that is due."""
        await self.pass_on()
        await self.deliver()

    async def deliver(self) -> None:
        """Take every turn that is due."""
        await work_off(self.deliveries)

    async def passes(self, **how_long: float) -> None:
        """Let so much time pass: what is there was written so much earlier."""
        async with without_laws(self.sql):
            for table, columns in _TIMES.items():
                earlier = ", ".join(f"{column} = {column} - $1::interval" for column in columns.split())
                await self.sql.execute(f"UPDATE {table} SET {earlier}", timedelta(**how_long))

    async def goes_on_for(self, **how_long: float) -> None:
        """Let time pass from try to try."""
        left_s = timedelta(**how_long).total_seconds()
        while True:
            due_in_s = await self.sql.fetchval(DUE_IN_S)
            if due_in_s is None or due_in_s > left_s:
                await self.passes(seconds=max(left_s, 0))
                return
            # What is due and was not taken waits for an earlier event of its object.
            passing_s = due_in_s if due_in_s > 0 else 600
            await self.passes(seconds=passing_s)
            left_s -= passing_s
            await self.deliver()

    async def states(self) -> list[str]:
        return [row["state"] for row in await self.sql.fetch("SELECT state FROM event_delivery ORDER BY id")]

    async def types(self) -> list[str]:
        """Of the events that were written."""
        return [row["type"] for row in await self.sql.fetch("SELECT type FROM event ORDER BY id")]

    async def row(self, endpoint_id: UUID) -> asyncpg.Record:
        return await self.sql.fetchrow("SELECT * FROM webhook_endpoint WHERE id = $1", endpoint_id)


def world_of(services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, **plan: Any) -> World:
    """A world over these services."""
    receiver = Receiver()
    monkeypatch.setattr(services.endpoints.outbound, "post", receiver.post)
    planned = replace(services.deliveries.plan, **plan)
    return World(services, sql, receiver, replace(services.deliveries, plan=planned))
