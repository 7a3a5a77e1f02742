"""Messages to people: one per event and chat, sent in order, retried with growing pauses, given up as dead.

A chat is due when it has an open message and ``next_send_at`` has come. The worker that claims it holds the chat until
that lease ends, sends the oldest open message and plans the next. So a chat's messages are sent one after the other, in
order, never faster than the channel allows, however many workers there are.

A message is never lost, and may come twice when the reply to it, or the worker that sent it, was lost (``channel``).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, any_, func, or_, select, text, true, update
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.events import outbox
from payment_service.events.models import Event
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.languages import Language
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
from payment_service.notifications.models import (
    OPEN,
    MessageState,
    NotifyBinding,
    NotifyChat,
    NotifyMessage,
    NotifyPace,
)
from payment_service.notifications.results import IS_OPEN, PAUSES_S, disable, locked, move, record_result
from payment_service.notifications.texts import EventFacts, Note, note_of
from payment_service.observability.logs import get_logger
from payment_service.observability.metrics import MESSAGES
from payment_service.postgres.database import Database, now_of, retry_until_written
from payment_service.routing.models import PaymentConfig
from payment_service.scheduling.due import Kind, wake
from payment_service.scheduling.jitter import jitter

LEASE_S: Final = 60
"""How long a worker holds the lease of a chat; longer than any channel's deadline."""
MAX_WAIT_S: Final = 2.0
"""How far ahead slots of a channel's rate are reserved; a chat that gets none is due again later."""
_CLAIMED_MEANWHILE: Final = timedelta(seconds=LEASE_S)
"""How much later than a statement's time a try may be that another worker has just begun."""
LETS_PASS_AFTER: Final = 5
"""A message that failed this often no longer holds up the later ones: the fault may be its own."""
SLOTS: Final = 60
"""How many chats one worker sends to at once: those that wait for a slot of the rate, and a few slow ones."""
CONNECTIONS: Final = 4
"""How many of the process's connections messages may hold: readings need them more."""
_DUE: Final = (
    select(NotifyChat)
    .where(NotifyChat.next_send_at <= func.now(), NotifyChat.disabled_at.is_(None))
    .where(select(NotifyMessage).where(NotifyMessage.chat_id == NotifyChat.id, IS_OPEN).exists())
    .order_by(NotifyChat.next_send_at)
    .with_for_update(skip_locked=True)
)
NEXT: Final = """
SELECT extract(epoch FROM min(next_send_at) - now())::float8
FROM notify_chat CROSS JOIN LATERAL (
  SELECT FROM notify_message WHERE chat_id = notify_chat.id AND state IN ('waiting', 'failed') LIMIT 1
) AS an_open_one
WHERE next_send_at > now() AND disabled_at IS NULL
"""
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimedChat:
    """A chat that this worker has claimed until ``lease_end``, and what to send to it."""

    chat_id: UUID
    channel: str
    address: str
    lease_end: datetime
    wait_s: float
    event_id: UUID
    facts: EventFacts
    language: Language


@dataclass(frozen=True, slots=True)
class Notifications:
    """Sends messages to people."""

    database: Database
    channels: Channels
    console_url: str | None
    kind: Kind = Kind.MESSAGES
    slots: int = SLOTS
    _connections: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS))

    # --- consuming events

    async def consume(self, session: AsyncSession, events: Sequence[Event]) -> None:
        """Write a message for every chat that receives an event, in the caller's transaction.

        Once per event and chat, however often it is called. A disabled chat gets a dead message too, so that the record
        shows who was not notified.
        """
        of_seller = outbox.is_of_seller_today()
        wanted = (
            select(Event.id, NotifyBinding.chat_id, NotifyBinding.language)
            .join(
                NotifyBinding,
                and_(
                    NotifyBinding.is_active,
                    Event.type == any_(NotifyBinding.events),
                    or_(NotifyBinding.shop_id.is_(None), and_(NotifyBinding.shop_id == Event.shop_id, of_seller)),
                ),
            )
            .where(Event.id.in_([event.id for event in events]))
            # A chat that is bound to the shop and to all shops gets the language of the shop's binding.
            .ext(distinct_on(Event.id, NotifyBinding.chat_id))
            .order_by(Event.id, NotifyBinding.chat_id, NotifyBinding.shop_id.nulls_last())
        )
        rows = (await session.execute(wanted)).all()
        if not rows:
            return
        # Locked: a chat that is disabled meanwhile either gets a dead message here, or gives up the new one.
        locked = select(NotifyChat).where(NotifyChat.id.in_({row.chat_id for row in rows}))
        chats = {chat.id: chat for chat in await session.scalars(locked.order_by(NotifyChat.id).with_for_update())}
        messages = [_new_message(event_id, chats[chat_id], language) for event_id, chat_id, language in rows]
        await session.execute(insert(NotifyMessage).on_conflict_do_nothing(), messages)
        wake(session, self.kind)

    # --- sending

    async def claim(self, at_most: int) -> list[ClaimedChat]:
        """Claim chats whose next message is due, as far as the rates of their channels allow."""
        async with self._connections, self.database.transaction() as session:
            chats = list(await session.scalars(_DUE.limit(at_most)))
            batch = [await self._claim_chat(session, chat) for chat in chats]
        return [claimed for claimed in batch if claimed is not None]

    async def due_in_s(self) -> float | None:
        """How long until the next chat is due, in seconds."""
        row = await self.database.statements.fetchrow(NEXT)
        return None if row is None else row[0]

    def repeated(self, claimed: ClaimedChat) -> tuple[UUID, UUID]:
        """The message: people get it again."""
        return claimed.event_id, claimed.chat_id

    async def bring_forward(self) -> int:
        """Make due now what is leased for longer than any lease, or was last tried later than now.

        Slots of a channel's rate that are reserved further ahead than any can be are released.
        """
        lease_is_over = func.now() + timedelta(seconds=2 * LEASE_S)
        was_ahead = select(NotifyMessage).where(
            NotifyMessage.chat_id == NotifyChat.id, IS_OPEN, NotifyMessage.tried_at > func.now() + _CLAIMED_MEANWHILE
        )
        due = (
            update(NotifyChat)
            .where(
                NotifyChat.next_send_at > func.now(),
                or_(and_(NotifyChat.failures == 0, NotifyChat.next_send_at > lease_is_over), was_ahead.exists()),
            )
            .values(next_send_at=func.now())
            .returning(NotifyChat.id)
        )
        pace = update(NotifyPace).where(NotifyPace.free_at > lease_is_over).values(free_at=func.now())
        async with self._connections, self.database.transaction() as session:
            brought = (await session.execute(due, execution_options={"synchronize_session": False})).all()
            await session.execute(pace, execution_options={"synchronize_session": False})
        return len(brought)

    async def perform(self, claimed: ClaimedChat) -> None:
        """Send a chat its oldest open message and plan the next one."""
        await asyncio.sleep(claimed.wait_s)
        delivery = await self._send_claimed(claimed)
        await retry_until_written(lambda: self._write(claimed, delivery))

    async def send_now(self, chat: NotifyChat, note: Note) -> Delivery:
        """Send a note at once, for a person who waits for it. Whether the chat can be reached is recorded."""
        delivery = await self.send_once(chat.channel, chat.address, note, f"{new_id()}.{chat.id}")
        async with self.database.transaction() as session:
            held = await locked(session, chat.id)
            match delivery:
                case Sent():
                    held.disabled_at = held.disabled_reason = None
                case ChatGone(reason):
                    await disable(session, held, reason)
                case ChatMoved(address):
                    await move(session, held, address)
                case _:
                    pass
        return delivery

    # --- steps

    async def _claim_chat(self, session: AsyncSession, chat: NotifyChat) -> ClaimedChat | None:
        """Claim a locked chat; none when its channel's rate has no slot for it now."""
        now = await now_of(session)
        while True:
            found = await _next_message(session, chat)
            if found is None:  # its last open message ended, here or while it was being locked
                return None
            message, event = found
            if await session.scalar(select(NotifyBinding.id).where(*_binds(event, chat)).limit(1)) is not None:
                break
            # It was bound when the event came, and its people may be another seller's by now.
            message.state, message.reason = MessageState.DEAD, "the chat is not bound to this any more"
        wait_s = await self._reserve_slot(session, self.channels.get(chat.channel), chat.channel)
        if wait_s is None:
            chat.next_send_at = now + timedelta(seconds=MAX_WAIT_S / 2 * jitter(3))
            return None
        chat.next_send_at = now + timedelta(seconds=wait_s + LEASE_S)
        message.tries += 1
        message.tried_at = now
        try:
            facts, language = await _event_facts(session, event), Language(message.language)
        except ValueError:  # a newer version wrote it, whose workers have a text for it
            log.warning("message of a newer version", event_id=str(event.id), type=event.type)
            return None
        return ClaimedChat(
            chat_id=chat.id,
            channel=chat.channel,
            address=chat.address,
            lease_end=chat.next_send_at,
            wait_s=wait_s,
            event_id=event.id,
            facts=facts,
            language=language,
        )

    async def _reserve_slot(self, session: AsyncSession, channel: Channel | None, name: str) -> float | None:
        """Reserve the next slot of a channel's rate: seconds to wait for it, or none when too many wait already."""
        if channel is None:
            return 0
        place = text(
            "INSERT INTO notify_pace (channel, free_at) VALUES (:name, now() + make_interval(secs => :pause))"
            " ON CONFLICT (channel) DO UPDATE"
            " SET free_at = greatest(notify_pace.free_at, now()) + make_interval(secs => :pause)"
            " WHERE notify_pace.free_at <= now() + make_interval(secs => :most)"
            " RETURNING extract(epoch FROM free_at - make_interval(secs => :pause) - now())::float8"
        )
        wait_s = await session.scalar(place, {"name": name, "pause": channel.pause_s, "most": MAX_WAIT_S})
        return None if wait_s is None else float(wait_s)

    async def _send_claimed(self, claimed: ClaimedChat) -> Delivery:
        try:
            # In a thread: the first one reads a catalogue, and no payment waits for that.
            note = await asyncio.to_thread(
                note_of, claimed.facts, claimed.language, now=datetime.now(UTC), console_url=self.console_url
            )
        except Exception as error:  # noqa: BLE001 - an event without a text must not hold up the others
            return Refused(f"no words for it: {type(error).__name__}")
        return await self.send_once(claimed.channel, claimed.address, note, f"{claimed.event_id}.{claimed.chat_id}")

    async def send_once(self, name: str, address: str, note: Note, key: str) -> Delivery:
        """Send a note over a channel and record only the count. ``key``: as ``Channel.send`` has it."""
        channel = self.channels.get(name)
        if channel is None:
            return TryAgain(f"{name} is not set up: {SETTING_OF[name]} is missing")
        delivery = await channel.send(address, note, key=key)
        MESSAGES.labels(channel=name, result=type(delivery).__name__).inc()
        return delivery

    async def _write(self, claimed: ClaimedChat, delivery: Delivery) -> None:
        """Record the result of a send, and plan the next one. Idempotent."""
        async with self._connections, self.database.transaction() as session:
            chat = await locked(session, claimed.chat_id)
            now = await now_of(session)
            message = await session.get_one(NotifyMessage, (claimed.event_id, claimed.chat_id))
            if message.state in OPEN:
                await record_result(session, chat, message, delivery, now)
            if chat.next_send_at != claimed.lease_end or chat.disabled_at is not None:
                return  # written before, or the lease ended and another worker has the chat
            chat.failures = chat.failures + 1 if isinstance(delivery, TryAgain) else 0
            chat.next_send_at = now + timedelta(seconds=self._pause_s(chat, delivery))

    def _pause_s(self, chat: NotifyChat, delivery: Delivery) -> float:
        channel = self.channels.get(chat.channel)
        least_s = channel.chat_pause_s if channel else 0
        if not isinstance(delivery, TryAgain):
            return least_s
        if delivery.after_s is not None:
            return max(least_s, delivery.after_s + jitter(1.5))
        return max(least_s, PAUSES_S[min(chat.failures, len(PAUSES_S)) - 1] * jitter(1.5))


async def messages_waiting_since(session: AsyncSession) -> datetime | None:
    """When the oldest message that waits for a reachable chat was written; none when none does."""
    # Each chat's oldest, by the index of open messages: ids of events sort by time.
    of_chat = (
        select(NotifyMessage.created_at)
        .where(NotifyMessage.chat_id == NotifyChat.id, IS_OPEN)
        .order_by(NotifyMessage.event_id)
        .limit(1)
        .lateral()
    )
    query = select(func.min(of_chat.c.created_at)).select_from(NotifyChat).join(of_chat, true())
    found: datetime | None = await session.scalar(query.where(NotifyChat.disabled_at.is_(None)))
    return found


def _new_message(event_id: UUID, chat: NotifyChat, language: str) -> dict[str, Any]:
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
        .where(NotifyMessage.chat_id == chat.id, IS_OPEN)
        .order_by(NotifyMessage.tries >= LETS_PASS_AFTER, NotifyMessage.event_id)
        .limit(1)
    )
    row = (await session.execute(query)).first()
    return None if row is None else (row[0], row[1])


def _binds(event: Event, chat: NotifyChat) -> tuple[ColumnElement[bool], ...]:
    """The conditions for a binding that sends the event to the chat."""
    return (
        NotifyBinding.chat_id == chat.id,
        NotifyBinding.is_active.is_(True),
        any_(NotifyBinding.events) == event.type,
        Event.id == event.id,
        or_(NotifyBinding.shop_id.is_(None), and_(NotifyBinding.shop_id == Event.shop_id, outbox.is_of_seller_today())),
    )


async def _event_facts(session: AsyncSession, event: Event) -> EventFacts:
    name = await session.scalar(select(PaymentConfig.name).where(PaymentConfig.shop_id == event.shop_id))
    return EventFacts(EventType(event.type), event.data, event.shop_id, name, event.created_at)
