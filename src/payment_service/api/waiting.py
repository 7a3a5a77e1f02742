"""Waiting clients: long polling of one payment, and a stream of events (server-sent events)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from payment_service.access.service import Caller
from payment_service.api import problems
from payment_service.api.dependencies import InServices, PaymentsReader
from payment_service.api.fields import ShopId
from payment_service.api.middleware import Drain
from payment_service.api.strict import StrictRoute
from payment_service.errors import NoRoomToWait, NotAuthenticated, TooManyWaiting
from payment_service.events.subscriptions import StreamEvent, Subscription, Subscriptions
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.services import Services

router = APIRouter(tags=["payments"], route_class=StrictRoute)

LOOK_EVERY_S = 1.0
"""How soon a waiting request notices that this process is stopping, in seconds."""
HEARTBEAT_S = 15.0
_ENDED = frozenset({State.PAID, State.FAILED, State.CANCELLED})


async def changed(services: Services, caller: Caller, payment_id: UUID, *, within_s: float, drain: Drain) -> Payment:
    """A payment, as soon as its state is another one than now; at once when it has ended.

    Raises:
        PaymentNotFound: when there is none that the caller may see.
        NotAuthenticated: when the caller's key ended meanwhile.
        TooManyWaiting, NoRoomToWait: when too many requests wait already.
    """
    if not within_s:
        return await services.reading.get(caller, payment_id)
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    with services.subscriptions.open(caller, payment_id) as subscription:
        payment = await services.reading.get(caller, payment_id)
        before = payment.state
        while payment.state == before and payment.state not in _ENDED and not drain.begun:
            left = until - loop.time()
            if left <= 0:
                break
            if not await _is_to_look(services.subscriptions, subscription, min(left, LOOK_EVERY_S)):
                continue
            if subscription.ended:
                raise NotAuthenticated
            async with services.subscriptions.reading():
                payment = await services.reading.get(caller, payment_id)
        await services.access.require_valid(caller)
    return payment


async def _is_to_look(subscriptions: Subscriptions, subscription: Subscription, within_s: float) -> bool:
    """Wait for an event; whether the payment may have moved: there was one, or none would be heard of."""
    try:
        await subscription.next(within_s)
    except TimeoutError:
        return not subscriptions.listening
    return True


class _EventStream(StreamingResponse):
    """A stream that ends its subscription when it ends, however it ends."""

    def __init__(self, lines: AsyncIterator[str], subscribed: ExitStack) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self._subscribed = subscribed

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        with self._subscribed:
            await super().__call__(scope, receive, send)


@router.get(
    "/payments/events",
    response_class=StreamingResponse,
    summary="Events as they happen",
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "Server-sent events: `id`, `event` (the type) and `data` (the event as webhooks carry it).",
        },
        **problems.declared(TooManyWaiting, NoRoomToWait),
    },
)
async def events(
    request: Request,
    services: InServices,
    caller: PaymentsReader,
    shop_id: Annotated[ShopId | None, Query()] = None,
    last_event_id: Annotated[UUID | None, Header(description="Continue after this event.")] = None,
) -> StreamingResponse:
    """Streams the events of payments and refunds in the caller's shops.

    The stream ends when the service stops, and within two seconds after the key is revoked, expires or loses a scope.
    """
    subscribed = ExitStack()
    if shop_id is not None:
        caller = caller.narrowed_to(shop_id)
    subscription = subscribed.enter_context(services.subscriptions.open(caller))
    lines = _lines(services.subscriptions, subscription, last_event_id, request.app.state.drain)
    return _EventStream(lines, subscribed)


async def _lines(
    subscriptions: Subscriptions, subscription: Subscription, last_event_id: UUID | None, drain: Drain
) -> AsyncIterator[str]:
    yield ": connected\n\n"
    sent = set()
    if last_event_id is not None:
        async for event in subscriptions.since(subscription.caller, last_event_id):
            if not await _may_send(subscription, drain):
                return
            sent.add(event.id)
            yield _line(event)
    async for new in _events_and_heartbeats(subscription, drain):
        if new is None:
            yield ": still here\n\n"
        elif new.id not in sent:
            if not await _may_send(subscription, drain):
                return
            yield _line(new)


async def _events_and_heartbeats(subscription: Subscription, drain: Drain) -> AsyncIterator[StreamEvent | None]:
    """Each event, and now and then none for a heartbeat, until the stream has to end."""
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + HEARTBEAT_S
    while not drain.begun and not subscription.ended:
        try:
            event = await subscription.next(LOOK_EVERY_S)
        except TimeoutError:
            if loop.time() >= beat_at:
                beat_at = loop.time() + HEARTBEAT_S
                yield None
        else:
            if event is not None:
                yield event


async def _may_send(subscription: Subscription, drain: Drain) -> bool:
    """Whether the key is still valid. While that cannot be checked, because the database is away, nothing is sent."""

    def waits() -> bool:
        return not (subscription.trusted or subscription.ended or drain.begun)

    while waits():  # noqa: ASYNC110 - no event of the loop says that the process stops
        await asyncio.sleep(LOOK_EVERY_S / 10)
    return subscription.trusted and not drain.begun


def _line(event: StreamEvent) -> str:
    return f"id: {event.id}\nevent: {event.header.type}\ndata: {event.text}\n\n"
