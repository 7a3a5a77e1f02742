"""Delivering events to endpoints: one try, the next one, the order of one object's events, how an endpoint fares.

A job says that something is due for an endpoint. Whoever runs it takes the turn of one delivery, calls with no
transaction open, writes down what came of it, and leaves a job if more is due. An endpoint has a few turns at a time,
so that one which hangs keeps no other waiting. At least once: a try whose worker died is made again.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from standardwebhooks.webhooks import Webhook

from payment_service.characters import one_line
from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import DELIVERIES_WAITING, DELIVERY_SECONDS, DELIVERY_TRIES
from payment_service.outbound.client import DEADLINE_S, NotPosted, Posted
from payment_service.postgres.database import Database, insist
from payment_service.postgres.visibility import Shops
from payment_service.webhooks.endpoints import Endpoints, locked, wake, wants
from payment_service.webhooks.models import DeliveryTry, EventDelivery, WebhookEndpoint

TURN_S: Final = DEADLINE_S + 10
"""How long a worker owns the try of one delivery; longer than a call can take."""
GONE: Final = 410
AT_ONCE_IN_PROCESS: Final = 4
"""Connections to the database that delivering uses at most; the others are for payments."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DeliveryPlan:
    """When to try again, and when to stop. Times are seconds."""

    delays_s: Sequence[float]
    """Before the second try, the third ...; after as many failures and one more a delivery is dead."""
    order_wait_s: float
    """How long a later event of an object waits for an earlier one."""
    disable_after_s: float
    """An endpoint is switched off when it failed for so long without a success."""
    at_once: int
    """Tries of one endpoint at the same time ..."""
    at_once_in_all: int
    """... and of all endpoints, in all workers together."""

    def delay_s(self, tries: int) -> float | None:
        """How long after so many failed tries the next one comes; none when there is none."""
        if tries > len(self.delays_s):
            return None
        # Jitter: what failed together must not come back together. Only later, so that the whole plan is never shorter.
        return self.delays_s[tries - 1] * random.uniform(1, 1.1)  # noqa: S311 - not a secret


class Clock:
    """The database's clock, so that every worker has the same one."""

    def begun(self) -> ColumnElement[datetime]:
        """When the transaction began: jobs are planned from there, too."""
        return func.now()

    def present(self) -> ColumnElement[datetime]:
        """The present moment, later than anything that can be seen."""
        return func.clock_timestamp()


@dataclass(frozen=True, slots=True)
class _Turn:
    """One try, owned."""

    delivery: EventDelivery
    event: Event
    url: str = field(repr=False)
    secrets: Sequence[str] = field(repr=False)
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Delivers events."""

    database: Database
    endpoints: Endpoints
    plan: DeliveryPlan
    clock: Clock = field(default_factory=Clock)
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE_IN_PROCESS))

    # --- taking events

    async def take(self, session: AsyncSession, events: Sequence[Event]) -> None:
        """Write a delivery of each event to each endpoint that wants it, and wake a worker for each endpoint."""
        active = list(await session.scalars(select(WebhookEndpoint).where(WebhookEndpoint.is_active)))
        for endpoint in active:
            wanted = [event for event in events if event.type != EventType.TEST and wants(endpoint, event)]
            session.add_all(delivery_of(event, endpoint.id) for event in wanted)
            if wanted:
                await wake(session, endpoint.id)

    async def test(self, endpoint_id: UUID, shops: Shops) -> EventDelivery:
        """Send an endpoint a test event, once, even if it is off.

        Raises:
            WebhookNotFound: when there is none that the caller may see.
        """
        await self.endpoints.get(endpoint_id, shops)
        async with self.database.transaction() as session:
            endpoint = await session.get_one(WebhookEndpoint, endpoint_id)
            event = self.endpoints.tell(session, endpoint, EventType.TEST)
            event.passed_on_at = func.now()
            await session.flush()
            delivery = delivery_of(event, endpoint_id)
            session.add(delivery)
            await session.flush()
            await session.refresh(delivery)
            await wake(session, endpoint_id)
        return delivery

    # --- one try

    async def deliver(self, endpoint_id: UUID) -> None:
        """A worker's turn: make one try for this endpoint. Does nothing when nothing is due or others are at it."""
        async with self._room:
            turn = await self._take_turn(endpoint_id)
        if turn is None:
            return
        started = time.perf_counter()
        answer = await self._post(turn)
        duration_ms = int((time.perf_counter() - started) * 1000)
        async with self._room:
            await insist(lambda: self._write(turn, answer, duration_ms))

    async def _take_turn(self, endpoint_id: UUID) -> _Turn | None:
        async with self.database.transaction() as session:
            endpoint = await locked(session, endpoint_id)
            if endpoint is None:
                return None
            present = self.clock.present()
            of_endpoint = EventDelivery.endpoint_id == endpoint_id, EventDelivery.state == "waiting"
            under_way = func.count().filter(EventDelivery.trying_until > present)
            now, tries = (await session.execute(select(present, under_way).where(*of_endpoint))).one()
            room = self.plan.at_once - tries
            if room <= 0:
                return None  # each of them looks for more when it has ended
            due = _due(endpoint, now, self.plan).add_columns(Event).join(Event, Event.id == EventDelivery.event_id)
            found = (await session.execute(due.limit(2))).all()
            if not found:
                await self._wake_later(session, endpoint, now)
                return None
            if room > 1 and len(found) > 1:
                await wake(session, endpoint_id)
            delivery, event = found[0]
            delivery.trying_until = now + timedelta(seconds=TURN_S)
            secrets, headers = self.endpoints.secrets_of(endpoint, now), self.endpoints.headers_of(endpoint)
            return _Turn(delivery, event, endpoint.url, secrets, headers)

    async def _wake_later(self, session: AsyncSession, endpoint: WebhookEndpoint, now: datetime) -> None:
        """What waits for an earlier event of its object is looked at again when it has waited long enough."""
        kept_back = select(func.min(EventDelivery.created_at)).where(
            *_due_at(endpoint, now), _keeps_back(now, self.plan)
        )
        oldest = (await session.execute(kept_back)).scalar_one()
        if oldest is not None:
            delay_s = max(self.plan.order_wait_s - (now - oldest).total_seconds(), 0) + 0.05
            await wake(session, endpoint.id, delay_s=delay_s)

    async def _post(self, turn: _Turn) -> Posted | NotPosted:
        body = body_of(turn.event)
        headers = {**turn.headers, **signed(str(turn.event.id), body, turn.secrets, datetime.now(UTC))}
        return await self.endpoints.outbound.post(turn.url, body=body.encode(), headers=headers)

    async def _write(self, turn: _Turn, answer: Posted | NotPosted, duration_ms: int) -> None:
        """Write what came of a try, the next one, and how the endpoint fares."""
        async with self.database.transaction() as session:
            endpoint = await locked(session, turn.delivery.endpoint_id)
            delivery = await session.get(EventDelivery, turn.delivery.id, with_for_update=True)
            if endpoint is None or delivery is None or delivery.trying_until != turn.delivery.trying_until:
                # Written already, when the answer to that COMMIT was lost; or so late that another worker took it up.
                return
            # The plan counts from when this transaction began, as jobs do; but what is due is due by the present.
            now, present = (await session.execute(select(self.clock.begun(), self.clock.present()))).one()
            tried = _try(delivery, answer, duration_ms, now)
            session.add(tried)
            await session.flush()
            delivery.tries, delivery.trying_until = tried.number, None
            if tried.succeeded:
                _end(delivery, "delivered", now)
                await self._fares_well(session, endpoint, delivery)
                DELIVERY_SECONDS.observe((now - turn.event.created_at).total_seconds())
            else:
                await self._plan_next(session, delivery, now)
                if delivery.type != EventType.TEST:
                    await self._fares_badly(session, endpoint, tried, now)
            await session.flush()
            if await session.scalar(_due(endpoint, present, self.plan).limit(1)):
                await wake(session, endpoint.id)
        DELIVERY_TRIES.labels(result="dead" if delivery.state == "dead" else _word(tried)).inc()
        log.info(
            "event delivered" if tried.succeeded else "event not delivered",
            event_id=str(delivery.event_id),
            type=delivery.type,
            endpoint_id=str(delivery.endpoint_id),
            tries=delivery.tries,
            state=delivery.state,
            answer=tried.status or tried.error,
        )

    async def _plan_next(self, session: AsyncSession, delivery: EventDelivery, now: datetime) -> None:
        delay_s = self.plan.delay_s(delivery.tries)
        if delay_s is None or delivery.type == EventType.TEST:
            _end(delivery, "dead", now)
            return
        delivery.next_try_at = now + timedelta(seconds=delay_s)
        await wake(session, delivery.endpoint_id, delay_s=delay_s)

    async def _fares_well(self, session: AsyncSession, endpoint: WebhookEndpoint, delivery: EventDelivery) -> None:
        endpoint.failing_since = None
        if delivery.type == EventType.TEST and endpoint.off_reason not in {None, "person"}:
            await self.endpoints.switch_on(session, endpoint)

    async def _fares_badly(
        self, session: AsyncSession, endpoint: WebhookEndpoint, tried: DeliveryTry, now: datetime
    ) -> None:
        if endpoint.failing_since is None:
            endpoint.failing_since = now
        if not endpoint.is_active:
            return
        if tried.status == GONE:
            await self.endpoints.switch_off(session, endpoint, "gone", now)
        elif now - endpoint.failing_since >= timedelta(seconds=self.plan.disable_after_s):
            await self.endpoints.switch_off(session, endpoint, "failing", now)

    # --- swept up

    async def wake_overdue(self, late_s: float = 5) -> int:
        """Wake workers for endpoints that have had something due for a while and nobody at it; returns how many.

        A job was lost, or its worker died. As long as somebody is at it, each try leaves a job for the next.
        """
        woken = 0
        async with self.database.transaction() as session:
            now = (await session.execute(select(self.clock.present()))).scalar_one()
            for endpoint in list(await session.scalars(select(WebhookEndpoint))):
                due = _due(endpoint, now - timedelta(seconds=late_s), self.plan).limit(1)
                under_way = select(EventDelivery.id).where(
                    EventDelivery.endpoint_id == endpoint.id,
                    EventDelivery.state == "waiting",
                    EventDelivery.trying_until > now,
                )
                if await session.scalar(due) and not await session.scalar(under_way.limit(1)):
                    await wake(session, endpoint.id)
                    woken += 1
        return woken

    async def count_waiting(self) -> None:
        """Tell Prometheus how many deliveries wait for endpoints that are on."""
        waiting = (
            select(func.count())
            .select_from(EventDelivery)
            .join(WebhookEndpoint, EventDelivery.endpoint_id == WebhookEndpoint.id)
            .where(EventDelivery.state == "waiting", WebhookEndpoint.is_active)
        )
        async with self.database.reading() as session:
            DELIVERIES_WAITING.set((await session.execute(waiting)).scalar_one())


def body_of(event: Event) -> str:
    """What is sent: the same text at every try, because it is what is signed."""
    return json.dumps(outbox.body(event), ensure_ascii=False, separators=(",", ":"))


def signed(event_id: str, body: str, secrets: Sequence[str], moment: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks, signed with every valid secret. ``moment`` is in UTC."""
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, moment, body) for secret in secrets),
    }


def delivery_of(event: Event, endpoint_id: UUID, *, replay_of: UUID | None = None) -> EventDelivery:
    """A new delivery, due at once."""
    return EventDelivery(
        id=new_id(),
        event_id=event.id,
        endpoint_id=endpoint_id,
        type=event.type,
        subject_id=event.subject_id,
        version=event.version,
        shop_id=event.shop_id,
        replay_of=replay_of,
        next_try_at=func.now(),
    )


def _due_at(endpoint: WebhookEndpoint, now: datetime) -> list[ColumnElement[bool]]:
    conditions = [
        EventDelivery.endpoint_id == endpoint.id,
        EventDelivery.state == "waiting",
        EventDelivery.next_try_at <= now,
        or_(EventDelivery.trying_until.is_(None), EventDelivery.trying_until <= now),
    ]
    if not endpoint.is_active:
        conditions.append(EventDelivery.type == EventType.TEST)
    return conditions


def _keeps_back(now: datetime, plan: DeliveryPlan) -> ColumnElement[bool]:
    """Whether a delivery still waits for one of an earlier event of its object."""
    earlier = aliased(EventDelivery)
    is_under_way = exists().where(
        earlier.endpoint_id == EventDelivery.endpoint_id,
        earlier.subject_id == EventDelivery.subject_id,
        earlier.state == "waiting",
        or_(
            earlier.version < EventDelivery.version,
            and_(earlier.version == EventDelivery.version, earlier.event_id < EventDelivery.event_id),
        ),
    )
    return and_(EventDelivery.created_at > now - timedelta(seconds=plan.order_wait_s), is_under_way)


def _due(endpoint: WebhookEndpoint, now: datetime, plan: DeliveryPlan) -> Any:
    return (
        select(EventDelivery)
        .where(*_due_at(endpoint, now), ~_keeps_back(now, plan))
        .order_by(EventDelivery.next_try_at, EventDelivery.id)
    )


def _try(delivery: EventDelivery, answer: Posted | NotPosted, duration_ms: int, now: datetime) -> DeliveryTry:
    tried = DeliveryTry(
        delivery_id=delivery.id, number=delivery.tries + 1, succeeded=False, duration_ms=duration_ms, created_at=now
    )
    match answer:
        case Posted(status, body):
            tried.status, tried.answer = status, _readable(body)
            tried.succeeded = 200 <= status <= 299
        case NotPosted(_, detail):
            tried.error = detail[:200]
    return tried


def _readable(body: bytes) -> str:
    return one_line(body.decode(errors="replace"))[:500]


def _end(delivery: EventDelivery, state: str, now: datetime) -> None:
    delivery.state, delivery.next_try_at, delivery.ended_at = state, None, now


def _word(tried: DeliveryTry) -> str:
    return "delivered" if tried.succeeded else "failed"
