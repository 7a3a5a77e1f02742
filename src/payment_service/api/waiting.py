"""Waiting clients: a payment that is answered as soon as it changes, and events as they happen (server-sent events)."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from payment_service.access.service import Caller, Scope
from payment_service.api import problems
from payment_service.api.dependencies import InRooms, Rooms, caller_who_may
from payment_service.api.exact import ExactRoute
from payment_service.api.fields import ShopId
from payment_service.api.middleware import Drain
from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.waiting import Ear
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment

router = APIRouter(tags=["payments"], route_class=ExactRoute)

LOOK_EVERY_S = 1.0
"""How soon somebody who waits notices that this process is stopping."""
HEARTBEAT_S = 15.0
MISSED = timedelta(seconds=60)
"""An event may be committed so long after one that was written later: so far back is looked when some may be missed."""
_ENDED = frozenset({State.PAID, State.FAILED, State.CANCELLED})


async def changed(house: Rooms, caller: Caller, payment_id: UUID, *, within_s: float, drain: Drain) -> Payment:
    """A payment, as soon as its state is another one than now; at once when it has ended.

    Raises:
        PaymentNotFound: when there is none that the caller may see.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    with house.ears.open(payment_id) as ear:
        payment = await house.following.get(caller, payment_id)
        before = payment.state
        while payment.state == before and payment.state not in _ENDED and not drain.begun:
            left = until - loop.time()
            if left <= 0:
                break
            if await ear.next(min(left, LOOK_EVERY_S)) is not None or not house.ears.hears:
                payment = await house.following.get(caller, payment_id)
    return payment


@router.get(
    "/payments/events",
    response_class=StreamingResponse,
    summary="Events as they happen",
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "Server-sent events: `id`, `event` (the type) and `data` (the event as webhooks carry it).",
        },
        **problems.declared(),
    },
)
async def events(
    request: Request,
    house: InRooms,
    caller: Annotated[Caller, caller_who_may(Scope.PAYMENTS_READ)],
    shop_id: Annotated[ShopId | None, Query()] = None,
    last_event_id: Annotated[UUID | None, Header(description="Go on after this event, as browsers do.")] = None,
) -> StreamingResponse:
    """What happens to the payments and refunds of the caller's shops, as it happens. Ends when the service stops."""
    shops = caller.shops if shop_id is None else frozenset({shop_id}) & (caller.shops or {shop_id})
    stream = _stream(house, shops, last_event_id, request.app.state.drain)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _stream(
    house: Rooms, shops: frozenset[int] | None, last_event_id: UUID | None, drain: Drain
) -> AsyncIterator[str]:
    news = News(house, shops, datetime.now(UTC))
    with house.ears.open() as ear:
        if last_event_id is None:
            async for _ in news.untold():
                pass  # it happened before: whatever happens once the client knows that it is connected is told
        yield ": connected\n\n"
        if last_event_id is not None:
            # Told twice rather than not at all: what was committed about then may not have been seen.
            news.ids[last_event_id] = datetime.now(UTC)
            news.since = await _moment_of(house, last_event_id) or news.since
            async for event in news.untold():
                yield _line(event)
        async for wake in _wakes(ear, drain):
            if wake is _HEARTBEAT:
                yield ": still here\n\n"
            async for event in news.untold():
                yield _line(event)


@dataclass(slots=True)
class News:
    """What one stream has to tell. It remembers what it told as far back as something may still turn up."""

    house: Rooms
    shops: frozenset[int] | None
    since: datetime
    ids: dict[UUID, datetime] = field(default_factory=dict)
    """Of each event told, when it was written."""

    async def untold(self) -> AsyncIterator[Event]:
        """Everything that was not told yet, oldest first."""
        present, oldest = datetime.now(UTC), self.since - MISSED
        while events := await self._page(oldest):
            for event in events:
                self.ids[event.id] = event.created_at
                yield event
            oldest = max(oldest, events[-1].created_at - MISSED)
            self.ids = {told: moment for told, moment in self.ids.items() if moment >= oldest}
        self.since = present

    async def _page(self, oldest: datetime) -> Sequence[Event]:
        async with self.house.database.reading() as session:
            return await outbox.since(session, oldest, self.shops, besides=self.ids)


_HEARTBEAT = object()


async def _wakes(ear: Ear, drain: Drain) -> AsyncIterator[object]:
    """Each time that there may be something to tell, and now and then a sign of life, until the service stops."""
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + HEARTBEAT_S
    while not drain.begun:
        if await ear.next(LOOK_EVERY_S) is not None:
            yield ear
        elif loop.time() >= beat_at:
            beat_at = loop.time() + HEARTBEAT_S
            yield _HEARTBEAT


def _line(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.type}\ndata: {json.dumps(outbox.body(event), ensure_ascii=False)}\n\n"


async def _moment_of(house: Rooms, event_id: UUID) -> datetime | None:
    async with house.database.reading() as session:
        event: Any = await session.get(Event, event_id)
    return event.created_at if event else None
