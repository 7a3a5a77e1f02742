"""The record of deliveries, for people: listing, showing, and replaying what has ended.

What has ended stays as it is. A replay is a new delivery of the same event, with the same id for the receiver.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from payment_service.access.service import Caller
from payment_service.errors import DeliveryNotFound, WebhookNotFound, WebhookOff
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.postgres.database import Database
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.scheduling.due import Kind, wake
from payment_service.webhooks.delivery import delivery_of
from payment_service.webhooks.endpoints import Endpoints, locked, wants
from payment_service.webhooks.models import DeliveryTry, EventDelivery, WebhookEndpoint

BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class DeliveryDetails:
    """A delivery with its event and its tries, oldest first."""

    delivery: EventDelivery
    event: Event
    tries: Sequence[DeliveryTry]


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """All deliveries, to endpoints that the caller may see."""

    database: Database
    endpoints: Endpoints

    async def search(
        self,
        caller: Caller,
        *,
        endpoint_id: UUID | None = None,
        state: str | None = None,
        type: str | None = None,  # noqa: A002 - the word of the wire
        event_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[EventDelivery]:
        """Deliveries to endpoints that the caller may see, newest first."""
        query = select(EventDelivery).where(
            matches(EventDelivery.endpoint_id, endpoint_id),
            matches(EventDelivery.event_id, event_id),
            matches(EventDelivery.state, state),
            matches(EventDelivery.type, type),
            within(EventDelivery.created_at, since, until),
        )
        if caller.shops is not ALL_SHOPS:
            query = query.where(EventDelivery.endpoint_id.in_([one.id for one in await self.endpoints.all(caller)]))
        async with self.database.reading() as session:
            return await read_page(session, EventDelivery, query, limit=limit, cursor=cursor)

    async def get(self, caller: Caller, delivery_id: UUID) -> DeliveryDetails:
        """One delivery.

        Raises:
            DeliveryNotFound: when there is none that the caller may see.
        """
        tries = select(DeliveryTry).where(DeliveryTry.delivery_id == delivery_id).order_by(DeliveryTry.number)
        async with self.database.reading() as session:
            delivery = await session.get(EventDelivery, delivery_id)
            if delivery is None:
                raise DeliveryNotFound(delivery_id)
            await self._check_visible(caller, delivery)
            event = await session.get_one(Event, delivery.event_id)
            return DeliveryDetails(delivery, event, list(await session.scalars(tries)))

    async def replay(self, caller: Caller, delivery_id: UUID) -> EventDelivery:
        """Deliver an event once more, at once. What still waits is tried now; what was replayed already, anew.

        Raises:
            DeliveryNotFound: when there is none that the caller may see.
            WebhookOff: when its endpoint is switched off.
        """
        delivery = (await self.get(caller, delivery_id)).delivery
        async with self.database.transaction() as session:
            endpoint = await self._on(session, caller, delivery.endpoint_id)
            of_event = EventDelivery.endpoint_id == endpoint.id, EventDelivery.event_id == delivery.event_id
            latest = select(EventDelivery).where(*of_event).order_by(EventDelivery.id.desc()).limit(1)
            again = await self._again(session, (await session.scalars(latest)).one())
            wake(session, Kind.DELIVERIES)
        return again

    async def replay_failed(self, caller: Caller, endpoint_id: UUID, since: datetime) -> int:
        """Deliver at once all that ended as dead since then, or failed and waits; returns how many.

        Raises:
            WebhookNotFound: when there is no such endpoint that the caller may see.
            WebhookOff: when it is switched off.
        """
        later = aliased(EventDelivery)
        not_replayed = ~exists().where(later.replay_of == EventDelivery.id)
        failed = or_(
            and_(EventDelivery.state == "dead", EventDelivery.ended_at >= since, not_replayed),
            and_(EventDelivery.state == "waiting", EventDelivery.tries > 0, EventDelivery.created_at >= since),
        )
        of_endpoint = EventDelivery.endpoint_id == endpoint_id
        replayed, last = 0, UUID(int=0)
        while True:
            async with self.database.transaction() as session:
                await self._on(session, caller, endpoint_id)
                no_test = EventDelivery.type != EventType.TEST
                query = select(EventDelivery).where(of_endpoint, no_test, failed, EventDelivery.id > last)
                batch = list(await session.scalars(query.order_by(EventDelivery.id).limit(BATCH)))
                for delivery in batch:
                    await self._again(session, delivery)
                if not batch:
                    return replayed
                wake(session, Kind.DELIVERIES)
            replayed, last = replayed + len(batch), batch[-1].id

    async def replay_period(self, caller: Caller, endpoint_id: UUID, since: datetime, until: datetime) -> int:
        """Deliver every event of a period that the endpoint wants, delivered before or not; returns how many.

        Also those that were written while it was off, or before it was there.

        Raises:
            WebhookNotFound: when there is no such endpoint that the caller may see.
            WebhookOff: when it is switched off.
        """
        replayed = 0
        place: ColumnElement[bool] = Event.created_at >= since
        while True:
            async with self.database.transaction() as session:
                endpoint = await self._on(session, caller, endpoint_id)
                query = select(Event).where(place, Event.created_at < until, Event.type != EventType.TEST)
                events = list(await session.scalars(query.order_by(Event.created_at, Event.id).limit(BATCH)))
                if not events:
                    return replayed
                wanted = [event for event in events if wants(endpoint, event)]
                latest = await _latest(session, endpoint, wanted)
                for event in wanted:
                    if event.id in latest:
                        await self._again(session, latest[event.id])
                    elif event.passed_on_at is not None:  # else it is about to be delivered anyway
                        session.add(delivery_of(event, endpoint.id))
                wake(session, Kind.DELIVERIES)
            replayed += len(wanted)
            place = tuple_(Event.created_at, Event.id) > tuple_(events[-1].created_at, events[-1].id)

    # --- steps

    async def _check_visible(self, caller: Caller, delivery: EventDelivery) -> None:
        try:
            await self.endpoints.get(caller, delivery.endpoint_id)
        except WebhookNotFound:
            raise DeliveryNotFound(delivery.id) from None

    async def _on(self, session: AsyncSession, caller: Caller, endpoint_id: UUID) -> WebhookEndpoint:
        """The endpoint under its lock: nothing else of it is replayed or written down meanwhile."""
        await self.endpoints.get(caller, endpoint_id)
        endpoint = await locked(session, endpoint_id)
        if endpoint is None or not endpoint.is_active:
            raise WebhookOff(endpoint_id)
        return endpoint

    async def _again(self, session: AsyncSession, delivery: EventDelivery) -> EventDelivery:
        if delivery.state == "waiting":
            again = delivery
            again.next_try_at = func.now()
        else:
            event = await session.get_one(Event, delivery.event_id)
            again = delivery_of(event, delivery.endpoint_id, replay_of=delivery.id)
            session.add(again)
        await session.flush()
        await session.refresh(again)
        return again


async def _latest(session: AsyncSession, endpoint: WebhookEndpoint, events: Sequence[Event]) -> dict[UUID, Any]:
    """The latest delivery of each event to the endpoint, where there is one."""
    query = (
        select(EventDelivery)
        .where(EventDelivery.endpoint_id == endpoint.id, EventDelivery.event_id.in_([event.id for event in events]))
        .order_by(EventDelivery.id)
    )
    return {delivery.event_id: delivery for delivery in await session.scalars(query)}
