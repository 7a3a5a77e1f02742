"""The subscriptions of this process: streams of events, and requests that wait for one payment.

Each event is announced (NOTIFY) after its commit. It is read once for all subscribers who may see it, and not at all
without any, so that waiting takes hardly any connections from payments. An announcement may be lost, so the database is
also polled now and then, and once a second while there is no LISTEN connection.

A subscription ends with its key: every process checks the keys once a second, and at once when one is changed.
"""

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final
from uuid import UUID

from sqlalchemy import select

from payment_service.access.service import Access, Caller
from payment_service.audit import service as audit
from payment_service.errors import NoRoomToWait, TooManyWaiting
from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.outbox import EVENT_WRITTEN
from payment_service.observability.logs import get_logger
from payment_service.postgres.database import Database, now_of
from payment_service.postgres.listening import listen
from payment_service.postgres.visibility import ALL_SHOPS

KEY_CHANGED: Final = "api_key_changed"
LOOK_EVERY_S: Final = 1.0
"""How often keys are checked, and events are polled while the LISTEN connection is down."""
SWEEP_EVERY_S: Final = 5.0
"""How often events are polled while it is up: for what was committed and not announced."""
TRUST_S: Final = 2.0
"""How long a key is trusted after it was last found valid."""
MISSED: Final = timedelta(seconds=60)
"""How far back to look for missed events: an event may be committed this long after one that was written later."""
_KNOWN_FOR_S: Final = MISSED.total_seconds() + SWEEP_EVERY_S + 10
"""How long a known event is remembered: a look back for ``MISSED`` may find it again, and may itself take a while."""
_QUEUE: Final = 1000
_AT_ONCE: Final = 500
_SUBJECTS: Final = frozenset({"payment", "refund"})
"""Subjects that can be subscribed to."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EventHeader:
    """What is announced of an event."""

    id: bytes
    """Of its UUID."""
    type: str
    subject_id: str
    shop_id: int | None


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """An event as subscribers get it; ``text`` is its JSON, made once for all of them."""

    header: EventHeader
    id: UUID
    text: str
    of_seller: bool
    """Whether those of its shop may see it: it is of the shop's seller of today."""

    @classmethod
    def of(cls, event: Event, *, of_seller: bool) -> "StreamEvent":
        """As the database holds it."""
        header = EventHeader(event.id.bytes, event.type, event.subject_id, event.shop_id)
        return cls(header, event.id, json.dumps(outbox.body(event), ensure_ascii=False), of_seller)


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscriber: for events of one subject, or for all that the caller may see."""

    caller: Caller
    subject_id: str | None
    checked_at: float
    """When the key was last found valid, by the loop's clock."""
    ended: bool = False
    """Whether the key has lost rights since the request began, or events came faster than they were read."""
    _queue: asyncio.Queue[StreamEvent | None] = field(default_factory=lambda: asyncio.Queue(maxsize=_QUEUE))

    @property
    def trusted(self) -> bool:
        """Whether events may be sent to the caller now. A caller of this process itself has no key to lose."""
        if self.ended:
            return False
        return self.caller.key_id is None or asyncio.get_running_loop().time() - self.checked_at <= TRUST_S

    def wants(self, header: EventHeader) -> bool:
        """Whether the event is one that it subscribed to and that the caller may see."""
        return (
            self.subject_id in {None, header.subject_id}
            and header.type.partition(".")[0] in _SUBJECTS
            and self.caller.may_touch(header.shop_id)
        )

    async def next(self, within_s: float) -> StreamEvent | None:
        """The next event; none when the subscription should check its state.

        Raises:
            TimeoutError: when there is nothing in time.
        """
        async with asyncio.timeout(within_s):
            return await self._queue.get()

    def deliver(self, event: StreamEvent) -> None:
        """Pass an event on. A subscriber that cannot keep up is ended: it resumes with the last event that it got."""
        if self._queue.full():
            self.end()
        else:
            self._queue.put_nowait(event)

    def end(self) -> None:
        """End the subscription."""
        self.ended = True
        self.wake()

    def wake(self) -> None:
        """Let the subscriber check its state."""
        if self._queue.empty():
            self._queue.put_nowait(None)


class Subscriptions:
    """All subscriptions of this process, and the one reader that serves them."""

    def __init__(self, database: Database, access: Access, *, per_key: int, in_all: int, connections: int) -> None:
        """``connections`` of the pool may be in use at once for subscribers, beside one for the reader."""
        self._database = database
        self._access = access
        self._per_key = per_key
        self._in_all = in_all
        self._free = asyncio.Semaphore(connections)
        self._all: set[Subscription] = set()
        self._of_caller: Counter[int | str] = Counter()
        self._pending: list[EventHeader] = []
        self._known: dict[bytes, float] = {}
        """Events that were passed on or had no subscriber, with the loop's time of that, oldest first.

        There are 15,000 of them when 200 payments are made each second, so each is only the bytes of its id.
        """
        self._known_until = time.monotonic()
        """Events written before then were passed on. Monotonic, not the database's time."""
        self._looked_at: datetime | None = None
        """When missed events were last looked for, by the database's clock, which may step. None without streams."""
        self._losses = 0
        """How often the LISTEN connection was lost or made: events may have been missed in between."""
        self._losses_caught_up = 0
        self._swept_at = 0.0
        """When events were last polled, by the loop's clock."""
        self._look = asyncio.Event()
        self._check = asyncio.Event()
        self.listening = False
        """Whether the LISTEN connection is up. If not, a request that waits for one payment has to poll."""

    @contextmanager
    def open(self, caller: Caller, subject_id: UUID | None = None) -> Iterator[Subscription]:
        """Wait for events of a subject, or for all. Open it before looking: no event is missed in between.

        Raises:
            TooManyWaiting: the caller's key has as many as one may have.
            NoRoomToWait: this process has as many as it takes.
        """
        who = caller.key_id if caller.key_id is not None else caller.name
        if len(self._all) >= self._in_all:
            raise NoRoomToWait
        if self._of_caller[who] >= self._per_key:
            raise TooManyWaiting(self._per_key)
        subject = str(subject_id) if subject_id else None
        subscription = Subscription(caller, subject, asyncio.get_running_loop().time())
        self._all.add(subscription)
        self._of_caller[who] += 1
        try:
            yield subscription
        finally:
            self._all.discard(subscription)
            self._of_caller[who] -= 1
            if not self._of_caller[who]:
                del self._of_caller[who]

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """A slot for one read on behalf of a subscriber; there are few."""
        async with self._free:
            yield

    async def since(self, caller: Caller, event_id: UUID) -> AsyncIterator[StreamEvent]:
        """The events that the caller may see, written about when this one was or later, except this one.

        An event may come twice rather than not at all: what was committed about that time may not have been seen.
        """
        async with self.reading(), self._database.reading() as session:
            event = await session.get(Event, event_id)
            if event is None or not caller.may_touch(event.shop_id):  # an event of an earlier owner just marks a time
                return
            # Every event has its line in the record, written with it. If the database's clock was set back since, some
            # that were written later have an earlier time.
            written_since = await audit.oldest_time_since(session, event.created_at)
        known, oldest = {str(event_id): event.created_at}, min(written_since, await self._now()) - MISSED
        while True:
            async with self.reading(), self._database.reading() as session:
                page = await outbox.since(session, caller.shops, oldest, excluding=known, limit=_AT_ONCE)
            for event in page:
                known[str(event.id)] = event.created_at
                yield StreamEvent.of(event, of_seller=True)
            if len(page) < _AT_ONCE:
                return
            oldest = max(oldest, page[-1].created_at - MISSED)
            known = {known_id: moment for known_id, moment in known.items() if moment >= oldest}

    # --- the reader

    async def run(self) -> None:
        """Serve subscribers, until cancelled."""
        await asyncio.gather(
            listen(
                self._database,
                {EVENT_WRITTEN: self._on_notification, KEY_CHANGED: lambda _key: self._check.set()},
                connected=lambda: self._may_have_missed(listening=True),
                lost=lambda: self._may_have_missed(listening=False),
            ),
            self._repeat(self._look, self._read),
            self._repeat(self._check, self._check_keys),
        )

    def _on_notification(self, message: str) -> None:
        if not message:  # an event without a description
            self._losses += 1
            self._look.set()
            return
        event = json.loads(message)
        event_id = bytes.fromhex(event["id"].replace("-", ""))
        if event_id not in self._known:  # it may have been found by polling
            self._known[event_id] = math.inf
            self._pending.append(EventHeader(event_id, event["type"], event["subject_id"], event["shop_id"]))
            self._look.set()

    def _may_have_missed(self, *, listening: bool) -> None:
        self.listening = listening
        self._losses += 1
        self._look.set()
        # Changes of keys may have been missed too.
        self._check.set()

    async def _repeat(self, wake: asyncio.Event, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await wake.wait()
            except TimeoutError:
                pass
            wake.clear()
            try:
                await action()
            except Exception as error:  # noqa: BLE001 - those who wait go on waiting, whatever one look met
                log.warning("waiting clients could not be served", error=type(error).__name__)

    async def _read(self) -> None:
        began = time.monotonic()
        headers, self._pending = self._pending, []
        now = asyncio.get_running_loop().time()
        self._known.update(dict.fromkeys((one.id for one in headers), now))  # one float for all of them
        is_due = now - self._swept_at >= SWEEP_EVERY_S
        missed = not self.listening or is_due or self._losses > self._losses_caught_up
        for subscription in self._all:
            if subscription.subject_id is not None and (missed or any(map(subscription.wants, headers))):
                subscription.wake()
        streams = [subscription for subscription in self._all if subscription.subject_id is None]
        try:
            # What NOTIFY announced is sent in its order; what was missed is polled for below.
            wanted = [one for one in headers if any(stream.wants(one) for stream in streams)]
            for start in range(0, len(wanted), _AT_ONCE):
                _pass_on(await self._events(wanted[start : start + _AT_ONCE]), streams)
        except BaseException:
            # It is not known who got them: sent twice rather than not at all.
            self._losses += 1
            for one in headers:
                self._known.pop(one.id, None)
            raise
        if missed:
            await self._catch_up(streams)
            self._swept_at = now
        self._known_until = began
        self._forget_before(now - _KNOWN_FOR_S)

    def _forget_before(self, moment: float) -> None:
        # Collected first: deleting while iterating is an error, and starting over each time is slow.
        for event_id, _ in list(takewhile(lambda known: known[1] < moment, self._known.items())):
            del self._known[event_id]

    async def _events(self, wanted: Sequence[EventHeader]) -> list[StreamEvent]:
        """The events that NOTIFY announced, in its order."""
        ids = [UUID(bytes=one.id) for one in wanted]
        query = select(Event, outbox.is_of_seller_today()).where(Event.id.in_(ids))
        async with self._database.reading() as session:
            found = await session.execute(query)
            by_id = {event.id: StreamEvent.of(event, of_seller=of_seller) for event, of_seller in found}
        return [by_id[event_id] for event_id in ids if event_id in by_id]

    async def _catch_up(self, streams: Sequence[Subscription]) -> None:
        """Look for events that were missed, and pass them on."""
        listening, losses = self.listening, self._losses
        now = await self._now() if streams else None
        while now is not None:
            oldest, known = self._missed_since(now), [one.hex() for one in self._known]
            async with self._database.reading() as session:
                page = await outbox.since(session, ALL_SHOPS, oldest, excluding=known, limit=_AT_ONCE)
                of_sellers = await outbox.of_sellers_today(session, page)
            new = [event for event in page if event.id.bytes not in self._known]  # others were announced meanwhile
            self._known.update((event.id.bytes, asyncio.get_running_loop().time()) for event in new)
            _pass_on([StreamEvent.of(event, of_seller=event.id in of_sellers) for event in new], streams)
            if len(page) < _AT_ONCE:
                break
        self._looked_at = now
        if listening:
            self._losses_caught_up = losses

    async def _now(self) -> datetime:
        """The present moment by the database's clock, by which events are stamped: this machine's may be another."""
        async with self._database.reading() as session:
            return await now_of(session)

    def _missed_since(self, now: datetime) -> datetime:
        known_until = now - timedelta(seconds=time.monotonic() - self._known_until)
        return min(known_until, self._looked_at or known_until) - MISSED

    async def _check_keys(self) -> None:
        """End the subscriptions whose key has lost rights."""
        waiting = [one for one in self._all if one.caller.key_id is not None and not one.ended]
        if not waiting:
            return
        asked_at = asyncio.get_running_loop().time()
        valid = await self._access.valid_callers(
            {one.caller.key_id for one in waiting if one.caller.key_id is not None}
        )
        for subscription in waiting:
            now = valid.get(subscription.caller.key_id or 0)
            if now is None or not now.has_all_rights_of(subscription.caller):
                subscription.end()
            else:
                subscription.checked_at = asked_at


def _pass_on(events: Iterable[StreamEvent], streams: Iterable[Subscription]) -> None:
    for event in events:
        for stream in streams:
            if stream.wants(event.header) and (event.of_seller or stream.caller.shops is ALL_SHOPS):
                stream.deliver(event)
