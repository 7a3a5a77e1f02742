"""Waiting clients: a payment that is answered as soon as it changes, and events as they happen (server-sent events)."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
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
MISSED_S = 60
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
    told: deque[UUID] = deque(maxlen=2000)
    since = datetime.now(UTC)
    with house.ears.open() as ear:
        yield ": connected\n\n"
        if last_event_id is None:
            told.extend([event.id for event in await _recent(house, shops, since)])
        else:
            # Told twice rather than not at all: what was committed about then may not have been seen.
            told.append(last_event_id)
            since = await _moment_of(house, last_event_id) or since
            for event in await _recent(house, shops, since):
                yield _line(event, told)
        async for wake in _wakes(ear, drain):
            if wake is _HEARTBEAT:
                yield ": still here\n\n"
                since = datetime.now(UTC)
            for event in await _recent(house, shops, since):
                yield _line(event, told)


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


async def _recent(house: Rooms, shops: frozenset[int] | None, since: datetime) -> Sequence[Event]:
    async with house.database.reading() as session:
        return await outbox.since(session, since - timedelta(seconds=MISSED_S), shops)


def _line(event: Event, told: deque[UUID]) -> str:
    """An event for the stream; nothing when it has been told."""
    if event.id in told:
        return ""
    told.append(event.id)
    return f"id: {event.id}\nevent: {event.type}\ndata: {json.dumps(outbox.body(event), ensure_ascii=False)}\n\n"


async def _moment_of(house: Rooms, event_id: UUID) -> datetime | None:
    async with house.database.reading() as session:
        event: Any = await session.get(Event, event_id)
    return event.created_at if event else None
