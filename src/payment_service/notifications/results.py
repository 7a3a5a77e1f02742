"""Writes the result of a send to the message and its chat, in the caller's transaction."""

import math
from datetime import datetime, timedelta
from typing import Final, assert_never
from uuid import UUID

from sqlalchemy import bindparam, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.notifications.channel import ChatGone, ChatMoved, Delivery, Refused, Sent, TryAgain
from payment_service.notifications.models import OPEN, MessageState, NotifyChat, NotifyMessage
from payment_service.observability import metrics
from payment_service.observability.logs import get_logger
from payment_service.postgres.database import now_of

PAUSES_S: Final = (2, 5, 15, 60, 300, 900, 1800, 3600)
"""Between tries; the last one repeats."""
GIVE_UP_AFTER: Final = timedelta(days=1)
"""A message that is older than this is given up when it, or its chat, failed as often as it does in that time."""
GIVE_UP_TRIES: Final = len(PAUSES_S) + math.ceil((GIVE_UP_AFTER.total_seconds() - sum(PAUSES_S)) / PAUSES_S[-1])
"""Age alone says nothing: no worker may have run, and then a message is old when it is tried for the first time."""
IS_OPEN: Final = NotifyMessage.state.in_(bindparam("open", list(OPEN), expanding=True, literal_execute=True))
"""Written out, so that every plan can use the index of open messages."""
log = get_logger(__name__)


async def record_result(
    session: AsyncSession, chat: NotifyChat, message: NotifyMessage, delivery: Delivery, now: datetime
) -> None:
    """Write the result to the message and the chat."""
    match delivery:
        case Sent(message_id):
            message.state, message.sent_at, message.channel_message_id = MessageState.SENT, now, message_id
            message.reason = None
        case TryAgain(reason):
            message.state, message.reason = MessageState.FAILED, reason
            await _give_up_old(session, chat, message, reason, now)
        case Refused(reason):
            message.state, message.reason = MessageState.DEAD, reason
            _alarm("message_dead", chat, reason)
        case ChatGone(reason):
            await disable(session, chat, reason)
        case ChatMoved(address):
            message.state, message.reason = MessageState.FAILED, "the chat moved to another address"
            await move(session, chat, address)
        case _:
            assert_never(delivery)


async def _give_up_old(
    session: AsyncSession, chat: NotifyChat, message: NotifyMessage, reason: str, now: datetime
) -> None:
    """Give up what is too old: the message that failed, and all of a chat that nothing has reached for as long."""
    old = [NotifyMessage.chat_id == chat.id, IS_OPEN, NotifyMessage.created_at < now - GIVE_UP_AFTER]
    if chat.failures + 1 < GIVE_UP_TRIES:
        if message.tries < GIVE_UP_TRIES:
            return
        old.append(NotifyMessage.event_id == message.event_id)
    await session.flush()
    given_up = update(NotifyMessage).where(*old).values(state=MessageState.DEAD, reason=reason)
    if len((await session.execute(given_up.returning(NotifyMessage.event_id))).all()):
        _alarm("message_dead", chat, reason)


async def disable(session: AsyncSession, chat: NotifyChat, reason: str) -> None:
    """Give up the chat, which nothing reaches, and its open messages; raise an alarm."""
    if chat.disabled_at is None:
        chat.disabled_at, chat.disabled_reason = await now_of(session), reason
    _alarm("chat_disabled", chat, reason)
    await session.flush()
    given_up = update(NotifyMessage).where(NotifyMessage.chat_id == chat.id, IS_OPEN)
    await session.execute(given_up.values(state=MessageState.DEAD, reason=reason))


async def move(session: AsyncSession, chat: NotifyChat, address: str) -> None:
    """The chat has another address: write to that one, unless it is bound already."""
    taken = select(NotifyChat.id).where(NotifyChat.channel == chat.channel, NotifyChat.address == address)
    if await session.scalar(taken) is not None:
        await disable(session, chat, "it moved to an address that is bound already")
    else:
        log.warning("chat moved", chat_id=str(chat.id), channel=chat.channel)
        chat.address = address
        await audit.record_change(session, "chat-move", chat)


async def locked(session: AsyncSession, chat_id: UUID) -> NotifyChat:
    """A chat, locked until the transaction ends."""
    return await session.get_one(NotifyChat, chat_id, with_for_update=True)


def _alarm(name: metrics.Alarm, chat: NotifyChat, reason: str) -> None:
    """Raise an alarm about a chat: a person must look at it."""
    metrics.alarm(log, name, chat_id=str(chat.id), channel=chat.channel, reason=reason)
