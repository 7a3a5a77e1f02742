"""Telling people: one message per event and chat, sent in turns, tried again with growing pauses, given up as dead.

A job is a chat's turn: whoever takes it owns the chat until its lease ends, sends the oldest open message and plans
the next turn. So a chat's messages come one after the other, in order, never faster than the channel allows, however
many workers there are and however often a job runs. What a message may cost is told in the module ``channel``: it is
never lost, and comes twice when the answer to it, or the worker that sent it, was lost.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, assert_never
from uuid import UUID

from sqlalchemy import and_, any_, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.notifications.channel import (
    SETTING_OF,
    Channel,
    Channels,
    ChatGone,
    ChatMoved,
    Delivery,
    Refused,
    Sent,
    TryAgain,
    shortened,
)
from payment_service.notifications.models import OPEN, MessageState, NotifyBinding, NotifyChat, NotifyMessage
from payment_service.notifications.texts import Happening, Language, Note, note_of
from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import MESSAGES
from payment_service.postgres.database import Database, insist
from payment_service.postgres.queue import TELL_CHAT, enqueue
from payment_service.routing.models import PaymentConfig

LEASE_S: Final = 60
"""How long a worker owns a chat's turn; longer than any channel's deadline."""
MOST_WAIT_S: Final = 2.0
"""How far ahead places in a channel's pace are given out; whoever gets none comes again later."""
PAUSES_S: Final = (2, 5, 15, 60, 300, 900, 1800, 3600)
"""Between tries; the last one for good."""
GIVE_UP_AFTER: Final = timedelta(days=1)
"""A message that was tried and is so old is tried no more."""
LETS_PASS_AFTER: Final = 5
"""A message that failed so often lets the later ones pass: it may be the message that is wrong."""
OVERDUE_S: Final = 15
CONNECTIONS: Final = 4
"""How many of the process's connections telling may hold: following payments needs them more."""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A chat that is this worker's until ``lease_end``, and what to send to it."""

    chat_id: UUID
    channel: str
    address: str
    lease_end: datetime
    wait_s: float
    event_id: UUID
    happening: Happening
    language: Language


@dataclass(frozen=True, slots=True)
class Notify:
    """Tells people."""

    database: Database
    channels: Channels
    console_url: str | None = None
    _connections: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS))

    # --- taking events

    async def take(self, session: AsyncSession, events: Sequence[Event]) -> None:
        """Write a message for every chat that is to be told of an event, in the caller's transaction.

        Once per event and chat, however often it is called. A disabled chat gets its line too, as dead: the record
        says who was not told.
        """
        wanted = (
            select(Event.id, NotifyBinding.chat_id, NotifyBinding.language)
            .join(
                NotifyBinding,
                and_(
                    NotifyBinding.is_active,
                    Event.type == any_(NotifyBinding.events),
                    or_(NotifyBinding.shop_id.is_(None), NotifyBinding.shop_id == Event.shop_id),
                ),
            )
            .where(Event.id.in_([event.id for event in events]))
            # A chat that is bound to the shop and to all shops is told in the shop's language.
            .ext(distinct_on(Event.id, NotifyBinding.chat_id))
            .order_by(Event.id, NotifyBinding.chat_id, NotifyBinding.shop_id.nulls_last())
        )
        rows = (await session.execute(wanted)).all()
        if not rows:
            return
        # Under their locks: whoever ends a turn either sees the new messages or comes before them.
        locked = select(NotifyChat).where(NotifyChat.id.in_({row.chat_id for row in rows}))
        chats = {chat.id: chat for chat in await session.scalars(locked.order_by(NotifyChat.id).with_for_update())}
        messages = [_first_line(event_id, chats[chat_id], language) for event_id, chat_id, language in rows]
        written = insert(NotifyMessage).on_conflict_do_nothing().returning(NotifyMessage.chat_id)
        told = set(await session.scalars(written, messages))
        now = await _now(session)
        for chat in chats.values():
            if chat.id in told and chat.disabled_at is None:
                await _enqueue(session, chat, now)

    # --- telling

    async def tell(self, chat_id: UUID) -> None:
        """A worker's turn: send a chat its oldest open message and plan the next turn. Does nothing out of turn."""
        async with self._connections:
            turn = await self._take_turn(chat_id)
        if turn is None:
            return
        await asyncio.sleep(turn.wait_s)
        delivery = await self._send_in_turn(turn)
        await insist(lambda: self._write(turn, delivery))

    async def wake_overdue(self) -> int:
        """Put chats back into the queue whose job was lost, or whose worker died; returns how many."""
        late = (
            select(NotifyChat)
            .where(
                NotifyChat.disabled_at.is_(None),
                NotifyChat.next_send_at < func.now() - timedelta(seconds=OVERDUE_S),
                select(NotifyMessage)
                .where(NotifyMessage.chat_id == NotifyChat.id, NotifyMessage.state.in_(OPEN))
                .exists(),
            )
            .limit(1000)
        )
        async with self.database.transaction() as session:
            chats = list(await session.scalars(late))
            for chat in chats:
                key = f"{chat.id}:{chat.next_send_at.timestamp()}:overdue"
                await enqueue(session, TELL_CHAT, chat.id, key=key)
        return len(chats)

    async def send_now(self, chat: NotifyChat, note: Note) -> Delivery:
        """Send a note at once, outside any turn: a person waits for it. What it shows of the chat is written down."""
        delivery = await self._send(chat.channel, chat.address, note, f"{new_id()}.{chat.id}")
        async with self.database.transaction() as session:
            locked = await _locked(session, chat.id)
            match delivery:
                case Sent():
                    locked.disabled_at = locked.disabled_reason = None
                case ChatGone(reason):
                    await _disable(session, locked, reason)
                case ChatMoved(address):
                    await _move(session, locked, address)
                case _:
                    pass
        return delivery

    # --- steps

    async def _take_turn(self, chat_id: UUID) -> _Turn | None:
        """Own a chat for a while, if its next message is due: of several workers, or of a repeated job, one gets it."""
        due = (
            update(NotifyChat)
            .where(NotifyChat.id == chat_id, NotifyChat.next_send_at <= func.now(), NotifyChat.disabled_at.is_(None))
            # Always changed, also when there is nothing to send: the next job's key is made of it.
            .values(next_send_at=func.now())
            .returning(NotifyChat)
        )
        async with self.database.transaction() as session:
            chat = await session.scalar(due)
            found = await _next_message(session, chat) if chat else None
            if chat is None or found is None:
                return None
            message, event = found
            now = await _now(session)
            wait_s = await self._place(session, self.channels.get(chat.channel), chat.channel)
            if wait_s is None:
                await _plan(session, chat, now, MOST_WAIT_S * random.uniform(0.5, 1.5))  # noqa: S311 - not a secret
                return None
            chat.next_send_at = now + timedelta(seconds=wait_s + LEASE_S)
            message.tries += 1
            message.tried_at = now
            return _Turn(
                chat_id=chat.id,
                channel=chat.channel,
                address=chat.address,
                lease_end=chat.next_send_at,
                wait_s=wait_s,
                event_id=event.id,
                happening=await _happening(session, event),
                language=Language(message.language),
            )

    async def _place(self, session: AsyncSession, channel: Channel | None, name: str) -> float | None:
        """Take the next place in a channel's pace; how long to wait for it, or none when too many wait already."""
        if channel is None:
            return 0
        place = text(
            "INSERT INTO notify_pace (channel, free_at) VALUES (:name, now() + make_interval(secs => :pause))"
            " ON CONFLICT (channel) DO UPDATE"
            " SET free_at = greatest(notify_pace.free_at, now()) + make_interval(secs => :pause)"
            " WHERE notify_pace.free_at <= now() + make_interval(secs => :most)"
            " RETURNING extract(epoch FROM free_at - make_interval(secs => :pause) - now())::float8"
        )
        wait_s = await session.scalar(place, {"name": name, "pause": channel.pause_s, "most": MOST_WAIT_S})
        return None if wait_s is None else float(wait_s)

    async def _send_in_turn(self, turn: _Turn) -> Delivery:
        try:
            note = note_of(turn.happening, turn.language, now=datetime.now(UTC), console_url=self.console_url)
        except Exception as error:  # noqa: BLE001 - an event that nobody can put into words must not hold up the others
            return Refused(f"no words for it: {type(error).__name__}")
        return await self._send(turn.channel, turn.address, note, f"{turn.event_id}.{turn.chat_id}")

    async def _send(self, name: str, address: str, note: Note, key: str) -> Delivery:
        channel = self.channels.get(name)
        if channel is None:
            return TryAgain(f"{name} is not set up: {SETTING_OF[name]} is missing")
        delivery = await channel.send(address, note, key=key)
        MESSAGES.labels(channel=name, result=type(delivery).__name__).inc()
        return delivery

    async def _write(self, turn: _Turn, delivery: Delivery) -> None:
        """Write down what came of a message, and plan the next one. Twice is the same as once."""
        async with self._connections, self.database.transaction() as session:
            chat = await _locked(session, turn.chat_id)
            now = await _now(session)
            message = await session.get_one(NotifyMessage, (turn.event_id, turn.chat_id))
            if message.state in OPEN:
                await _learn(session, chat, message, delivery, now)
            if chat.next_send_at != turn.lease_end or chat.disabled_at is not None:
                return  # written down before, or the lease ended and the turn is somebody else's
            chat.failures = chat.failures + 1 if isinstance(delivery, TryAgain) else 0
            await _plan(session, chat, now, self._pause_s(chat, delivery))

    def _pause_s(self, chat: NotifyChat, delivery: Delivery) -> float:
        channel = self.channels.get(chat.channel)
        least_s = channel.chat_pause_s if channel else 0
        if not isinstance(delivery, TryAgain):
            return least_s
        # Jitter: chats that failed together must not come back together.
        jitter = random.uniform(1, 1.5)  # noqa: S311 - not a secret
        if delivery.after_s is not None:
            return max(least_s, delivery.after_s + jitter)
        return max(least_s, PAUSES_S[min(chat.failures, len(PAUSES_S)) - 1] * jitter)


def _first_line(event_id: UUID, chat: NotifyChat, language: str) -> dict[str, Any]:
    is_dead = chat.disabled_at is not None
    return {
        "event_id": event_id,
        "chat_id": chat.id,
        "language": language,
        "state": MessageState.DEAD if is_dead else MessageState.WAITING,
        "reason": shortened(f"chat disabled: {chat.disabled_reason}") if is_dead else None,
    }


async def _next_message(session: AsyncSession, chat: NotifyChat) -> tuple[NotifyMessage, Event] | None:
    # Ids of events sort by the time at which they were written.
    query = (
        select(NotifyMessage, Event)
        .join(Event, Event.id == NotifyMessage.event_id)
        .where(NotifyMessage.chat_id == chat.id, NotifyMessage.state.in_(OPEN))
        .order_by(NotifyMessage.tries >= LETS_PASS_AFTER, NotifyMessage.event_id)
        .limit(1)
    )
    row = (await session.execute(query)).first()
    return None if row is None else (row[0], row[1])


async def _happening(session: AsyncSession, event: Event) -> Happening:
    name = await session.scalar(select(PaymentConfig.name).where(PaymentConfig.shop_id == event.shop_id))
    return Happening(EventType(event.type), event.data, event.shop_id, name, event.created_at)


async def _learn(
    session: AsyncSession, chat: NotifyChat, message: NotifyMessage, delivery: Delivery, now: datetime
) -> None:
    """What a delivery makes of the message and the chat."""
    match delivery:
        case Sent(message_id):
            message.state, message.sent_at, message.channel_message_id = MessageState.SENT, now, message_id
            message.reason = None
        case TryAgain(reason):
            message.state, message.reason = MessageState.FAILED, reason
            if now - message.created_at > GIVE_UP_AFTER:
                message.state = MessageState.DEAD
                _alarm("message_dead", chat, reason)
        case Refused(reason):
            message.state, message.reason = MessageState.DEAD, reason
            _alarm("message_dead", chat, reason)
        case ChatGone(reason):
            await _disable(session, chat, reason)
        case ChatMoved(address):
            message.state, message.reason = MessageState.FAILED, "the chat moved to another address"
            await _move(session, chat, address)
        case _:
            assert_never(delivery)


async def _disable(session: AsyncSession, chat: NotifyChat, reason: str) -> None:
    """Nothing reaches the chat: what was to be sent to it is given up, and people must look."""
    if chat.disabled_at is None:
        chat.disabled_at, chat.disabled_reason = await _now(session), reason
    _alarm("chat_disabled", chat, reason)
    await session.flush()
    given_up = update(NotifyMessage).where(NotifyMessage.chat_id == chat.id, NotifyMessage.state.in_(OPEN))
    await session.execute(given_up.values(state=MessageState.DEAD, reason=reason))


async def _move(session: AsyncSession, chat: NotifyChat, address: str) -> None:
    taken = select(NotifyChat.id).where(NotifyChat.channel == chat.channel, NotifyChat.address == address)
    if await session.scalar(taken) is not None:
        await _disable(session, chat, "it moved to an address that is bound already")
    else:
        log.warning("chat moved", chat_id=str(chat.id), channel=chat.channel)
        chat.address = address
        await audit.record_change(session, "chat-move", NotifyChat.__tablename__, chat.id)


async def _plan(session: AsyncSession, chat: NotifyChat, now: datetime, pause_s: float) -> None:
    """Say when the chat's next message may leave, and queue its turn when there is one."""
    chat.next_send_at = now + timedelta(seconds=pause_s)
    await session.flush()
    if await _next_message(session, chat) is not None:
        await _enqueue(session, chat, now)


async def _enqueue(session: AsyncSession, chat: NotifyChat, now: datetime) -> None:
    delay_s = max(0.0, (chat.next_send_at - now).total_seconds())
    await enqueue(session, TELL_CHAT, chat.id, key=f"{chat.id}:{chat.next_send_at.timestamp()}", delay_s=delay_s)


async def _locked(session: AsyncSession, chat_id: UUID) -> NotifyChat:
    return await session.get_one(NotifyChat, chat_id, with_for_update=True)


async def _now(session: AsyncSession) -> datetime:
    """The transaction's time, which the queue counts from too."""
    now: datetime = (await session.execute(select(func.now()))).scalar_one()
    return now


def _alarm(name: str, chat: NotifyChat, reason: str) -> None:
    """Something about a chat that people must look at."""
    metrics.alarm(log, name, chat_id=str(chat.id), channel=chat.channel, reason=reason)
