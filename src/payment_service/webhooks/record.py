"""The record of deliveries, for people: listing, showing, and replaying what has ended.

What has ended stays as it is. A replay is a new delivery of the same event, with the same id for the receiver.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, any_, exists, func, or_, select, true, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from payment_service.access.service import Caller
from payment_service.errors import DeliveryNotFound, WebhookNotFound, WebhookOff
from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.postgres.database import Database
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import ALL_SHOPS, of_shops
from payment_service.scheduling.due import Kind, wake
from payment_service.webhooks.delivery import delivery_of
from payment_service.webhooks.endpoints import Endpoints, locked, may_see, wants
from payment_service.webhooks.models import DeliveryTry, EventDelivery, WebhookEndpoint

BATCH: Final = 500
MOST_OF_SUBJECTS: Final = 100
COUNTED: Final = 10_000
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class DeliveryDetails:
    """A delivery with its event and its tries, oldest first."""

    delivery: EventDelivery
    event: Event
    tries: Sequence[DeliveryTry]


@dataclass(frozen=True, slots=True)
class EndpointDelivery:
    """A delivery, in any state, with its endpoint."""

    delivery: EventDelivery
    endpoint: WebhookEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """An endpoint and the results of its newest deliveries, at most ``COUNTED`` of the last 24 hours."""

    endpoint: WebhookEndpoint = field(kw_only=False)
    delivered: int
    dead: int
    waiting: int
    waits_since: datetime | None
    """When the oldest delivery that waits was written, of any age; none when nothing waits."""


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """Deliveries to endpoints that the caller may see."""

    database: Database
    endpoints: Endpoints

    async def search(
        self,
        caller: Caller,
        *,
        endpoint_id: UUID | None = None,
        states: Collection[str] = (),
        subject_ids: Collection[str] | None = None,
        type: str | None = None,
        event_id: UUID | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int,
        cursor: str | None = None,
    ) -> Page[EventDelivery]:
        """Deliveries to endpoints that the caller may see, newest first: in any of these states, of these subjects."""
        query = select(EventDelivery).where(
            EventDelivery.state.in_(states) if states else true(),
            true() if subject_ids is None else EventDelivery.event_id.in_(_events_of(subject_ids)),
            matches(EventDelivery.endpoint_id, endpoint_id),
            matches(EventDelivery.event_id, event_id),
            matches(EventDelivery.type, type),
            within(EventDelivery.created_at, since, until),
        )
        if caller.shops is not ALL_SHOPS:
            of_event = exists().where(
                Event.id == EventDelivery.event_id,
                of_shops(EventDelivery.shop_id, caller.shops),
                outbox.visible_to(caller.shops),
            )
            # Their endpoint may have received events of other shops before, which they must not see.
            query = query.where(
                EventDelivery.endpoint_id.in_([one.id for one in await self.endpoints.all(caller)]),
                or_(of_event, EventDelivery.type == EventType.TEST),
            )
        async with self.database.reading() as session:
            return await read_page(session, EventDelivery, query, limit=limit, cursor=cursor)

    async def get(self, caller: Caller, delivery_id: UUID) -> DeliveryDetails:
        """One delivery.

        Raises:
            DeliveryNotFound: when there is none that the caller may see.
        """
        async with self.database.reading() as session:
            delivery = await session.get(EventDelivery, delivery_id)
            if delivery is None:
                raise DeliveryNotFound(delivery_id)
            event = await session.get_one(Event, delivery.event_id)
            await self._check_visible(session, caller, delivery, event)
            of_delivery = DeliveryTry.event_id == event.id, DeliveryTry.delivery_id == delivery_id
            tries = select(DeliveryTry).where(*of_delivery).order_by(DeliveryTry.number)
            return DeliveryDetails(delivery, event, list(await session.scalars(tries)))

    async def of_subjects(self, caller: Caller, subject_ids: Collection[str]) -> list[EndpointDelivery]:
        """Deliveries of events of these subjects, oldest first; the newest ``MOST_OF_SUBJECTS``."""
        query = (
            select(EventDelivery, WebhookEndpoint)
            .join(WebhookEndpoint, WebhookEndpoint.id == EventDelivery.endpoint_id)
            .where(EventDelivery.event_id.in_(_events_of(subject_ids)))
            .order_by(EventDelivery.created_at.desc(), EventDelivery.id.desc())
            .limit(MOST_OF_SUBJECTS)
        )
        async with self.database.reading() as session:
            rows = (await session.execute(query)).all()
        return [EndpointDelivery(delivery, endpoint) for delivery, endpoint in rows[::-1] if may_see(endpoint, caller)]

    async def replay(self, caller: Caller, delivery_id: UUID, *, skip_since: datetime | None = None) -> EventDelivery:
        """Deliver an event again, at once. If its delivery still waits, that one is tried now.

        A replay that was made since ``skip_since`` is returned as it is, so that asking twice is asking once.

        Raises:
            DeliveryNotFound: when there is none that the caller may see.
            WebhookOff: when its endpoint is switched off.
        """
        delivery = (await self.get(caller, delivery_id)).delivery
        async with self.database.transaction() as session:
            endpoint = await self._on(session, caller, delivery.endpoint_id)
            of_event = EventDelivery.endpoint_id == endpoint.id, EventDelivery.event_id == delivery.event_id
            latest = select(EventDelivery).where(*of_event).order_by(EventDelivery.id.desc()).limit(1)
            newest = (await session.scalars(latest)).one()
            if skip_since is not None and newest.created_at >= skip_since:
                return newest
            again = await self._replay(session, newest)
            wake(session, Kind.DELIVERIES)
        return again

    async def replay_failed(self, caller: Caller, endpoint_id: UUID, since: datetime) -> int:
        """Deliver at once all that ended as dead since then, or failed and waits; returns how many.

        Raises:
            WebhookNotFound: when there is no such endpoint that the caller may see.
            WebhookOff: when it is switched off.
        """
        failed = _failed(endpoint_id, since)
        replayed, last = 0, UUID(int=0)
        while True:
            async with self.database.transaction() as session:
                await self._on(session, caller, endpoint_id)
                query = select(EventDelivery).where(*failed, EventDelivery.id > last)
                batch = list(await session.scalars(query.order_by(EventDelivery.id).limit(BATCH)))
                for delivery in batch:
                    await self._replay(session, delivery)
                if not batch:
                    return replayed
                wake(session, Kind.DELIVERIES)
            replayed, last = replayed + len(batch), batch[-1].id

    async def replay_period(
        self,
        caller: Caller,
        endpoint_id: UUID,
        since: datetime,
        until: datetime,
        *,
        skip_since: datetime | None = None,
    ) -> int:
        """Deliver every event of a period that the endpoint wants, delivered before or not; returns how many.

        Also those that were written while it was off, or before it was added. Events with a delivery made since
        ``skip_since`` are left out, so that asking twice is asking once.

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
                replayed += await self._replay_all(session, endpoint, events, skip_since)
            place = tuple_(Event.created_at, Event.id) > tuple_(events[-1].created_at, events[-1].id)

    async def replay_subjects(
        self, caller: Caller, subject_ids: Collection[str], *, skip_since: datetime | None = None
    ) -> int:
        """Deliver every event of these subjects once more, to every endpoint that is on and wants it; returns how many.

        Events with a delivery made since ``skip_since`` are left out.
        """
        replayed = 0
        for endpoint in await self.endpoints.all(caller):
            async with self.database.transaction() as session:
                held = await locked(session, endpoint.id)
                if held is None or not held.is_active:
                    continue
                of_subjects = select(Event).where(Event.subject_id.in_(subject_ids)).limit(BATCH)
                events = list(await session.scalars(of_subjects.order_by(Event.created_at, Event.id)))
                replayed += await self._replay_all(session, held, events, skip_since)
        return replayed

    async def count_failed(self, caller: Caller, endpoint_id: UUID, since: datetime, *, at_most: int) -> int:
        """How many ``replay_failed`` would deliver, counted up to ``at_most``.

        Raises:
            WebhookNotFound: when there is no such endpoint that the caller may see.
        """
        await self.endpoints.get(caller, endpoint_id)
        failed = select(EventDelivery.id).where(*_failed(endpoint_id, since)).limit(at_most).subquery()
        async with self.database.reading() as session:
            return (await session.execute(select(func.count()).select_from(failed))).scalar_one()

    async def count_period(
        self, caller: Caller, endpoint_id: UUID, since: datetime, until: datetime, *, at_most: int
    ) -> int:
        """How many ``replay_period`` would deliver, counted up to ``at_most``.

        Raises:
            WebhookNotFound: when there is no such endpoint that the caller may see.
        """
        endpoint = await self.endpoints.get(caller, endpoint_id)
        wanted = select(Event.id).where(
            Event.created_at >= since,
            Event.created_at < until,
            Event.type != EventType.TEST,
            true() if endpoint.events is None else Event.type.in_(endpoint.events),
            outbox.visible_to(ALL_SHOPS if endpoint.shops is None else frozenset(endpoint.shops)),
        )
        async with self.database.reading() as session:
            counted = select(func.count()).select_from(wanted.limit(at_most).subquery())
            return (await session.execute(counted)).scalar_one()

    async def endpoint_health(self, caller: Caller) -> list[EndpointHealth]:
        """The state of each endpoint: what was tried in the last 24 hours, and the oldest that waits. Oldest first."""
        endpoints = await self.endpoints.all(caller)
        ids = [endpoint.id for endpoint in endpoints]
        recent = EventDelivery.created_at > func.now() - DAY
        # An endpoint may have received events of other shops before, which callers of its shops must not see.
        its_shops = or_(
            WebhookEndpoint.shops.is_(None),
            EventDelivery.shop_id == any_(WebhookEndpoint.shops),
            EventDelivery.type == EventType.TEST,
        )
        newest = (
            select(EventDelivery.endpoint_id, EventDelivery.state)
            .where(EventDelivery.endpoint_id == WebhookEndpoint.id, recent, its_shops)
            .order_by(EventDelivery.created_at.desc(), EventDelivery.id.desc())
            .limit(COUNTED)
            .lateral()
        )
        counts = (
            select(newest.c.endpoint_id, newest.c.state, func.count())
            .select_from(WebhookEndpoint)
            .join(newest, true())
            .where(WebhookEndpoint.id.in_(ids))
            .group_by(newest.c.endpoint_id, newest.c.state)
        )
        oldest = (
            select(EventDelivery.endpoint_id, func.min(EventDelivery.created_at))
            .join(WebhookEndpoint, WebhookEndpoint.id == EventDelivery.endpoint_id)
            .where(EventDelivery.endpoint_id.in_(ids), EventDelivery.state == "waiting", its_shops)
            .group_by(EventDelivery.endpoint_id)
        )
        async with self.database.reading() as session:
            counted = {(endpoint, state): count for endpoint, state, count in await session.execute(counts)}
            waits = {row[0]: row[1] for row in await session.execute(oldest)}
        return [
            EndpointHealth(
                endpoint,
                delivered=counted.get((endpoint.id, "delivered"), 0),
                dead=counted.get((endpoint.id, "dead"), 0),
                waiting=counted.get((endpoint.id, "waiting"), 0),
                waits_since=waits.get(endpoint.id),
            )
            for endpoint in endpoints
        ]

    # --- steps

    async def _replay_all(
        self,
        session: AsyncSession,
        endpoint: WebhookEndpoint,
        events: Sequence[Event],
        skip_since: datetime | None,
    ) -> int:
        """Deliver those of the events that the endpoint wants; returns how many."""
        of_sellers = await outbox.of_sellers_today(session, events)
        wanted = [event for event in events if wants(endpoint, event, of_sellers) and event.type != EventType.TEST]
        latest = await _latest(session, endpoint, wanted)
        replayed = 0
        for event in wanted:
            delivery = latest.get(event.id)
            if delivery is not None and skip_since is not None and delivery.created_at >= skip_since:
                continue
            replayed += 1
            if delivery is not None:
                await self._replay(session, delivery)
            elif event.passed_on_at is not None:  # else it is about to be delivered anyway
                session.add(delivery_of(event, endpoint.id))
        wake(session, Kind.DELIVERIES)
        return replayed

    async def _check_visible(
        self, session: AsyncSession, caller: Caller, delivery: EventDelivery, event: Event
    ) -> None:
        if delivery.type != EventType.TEST and not caller.may_touch(delivery.shop_id):
            raise DeliveryNotFound(delivery.id)
        if caller.shops is not ALL_SHOPS and not await outbox.of_sellers_today(session, [event]):
            raise DeliveryNotFound(delivery.id)
        try:
            await self.endpoints.get(caller, delivery.endpoint_id)
        except WebhookNotFound:
            raise DeliveryNotFound(delivery.id) from None

    async def _on(self, session: AsyncSession, caller: Caller, endpoint_id: UUID) -> WebhookEndpoint:
        """The endpoint under its lock: nothing else of it is replayed or written meanwhile."""
        await self.endpoints.get(caller, endpoint_id)
        endpoint = await locked(session, endpoint_id)
        if endpoint is None or not endpoint.is_active:
            raise WebhookOff(endpoint_id)
        return endpoint

    async def _replay(self, session: AsyncSession, delivery: EventDelivery) -> EventDelivery:
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


def _events_of(subject_ids: Collection[str]) -> Select[UUID]:
    """The ids of the events of these subjects."""
    return select(Event.id).where(Event.subject_id.in_(subject_ids))


def _failed(endpoint_id: UUID, since: datetime) -> tuple[ColumnElement[bool], ...]:
    """The conditions for what ended as dead since then and was not replayed, or failed and waits."""
    later = aliased(EventDelivery)
    failed = or_(
        and_(
            EventDelivery.state == "dead",
            EventDelivery.ended_at >= since,
            ~exists().where(later.event_id == EventDelivery.event_id, later.replay_of == EventDelivery.id),
        ),
        and_(EventDelivery.state == "waiting", EventDelivery.tries > 0, EventDelivery.created_at >= since),
    )
    return EventDelivery.endpoint_id == endpoint_id, EventDelivery.type != EventType.TEST, failed


async def _latest(session: AsyncSession, endpoint: WebhookEndpoint, events: Sequence[Event]) -> dict[UUID, Any]:
    """The latest delivery of each event to the endpoint, where there is one."""
    query = (
        select(EventDelivery)
        .where(EventDelivery.endpoint_id == endpoint.id, EventDelivery.event_id.in_([event.id for event in events]))
        .order_by(EventDelivery.id)
    )
    return {delivery.event_id: delivery for delivery in await session.scalars(query)}
