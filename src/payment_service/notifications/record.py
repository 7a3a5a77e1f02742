"""Lists messages for people: what was sent to which chat, and whether it arrived."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import Caller
from payment_service.events.models import Event
from payment_service.events.outbox import visible_to
from payment_service.notifications.models import OPEN, MessageState, NotifyBinding, NotifyChat, NotifyMessage
from payment_service.postgres.database import Database
from payment_service.postgres.visibility import ALL_SHOPS, of_shops

AT_ONCE: Final = 50


@dataclass(frozen=True, slots=True)
class MessageDetails:
    """A message with its event and its chat."""

    message: NotifyMessage
    event: Event
    chat: NotifyChat


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """Messages to chats that are bound to the caller's shops."""

    database: Database

    async def of_subjects(self, caller: Caller, subject_ids: Collection[str]) -> list[MessageDetails]:
        """What people were or will be notified of about these subjects, oldest first."""
        query = _messages(caller).where(Event.subject_id.in_(subject_ids))
        query = query.order_by(NotifyMessage.created_at, NotifyMessage.event_id, NotifyMessage.chat_id)
        async with self.database.reading() as session:
            return await _read(session, query)

    async def of_chat(self, caller: Caller, chat_id: UUID, *, not_sent: bool = False) -> list[MessageDetails]:
        """The newest messages to a chat; ``not_sent``: only those that did not arrive, or not yet."""
        query = _messages(caller).where(NotifyMessage.chat_id == chat_id)
        if not_sent:
            query = query.where(NotifyMessage.state != MessageState.SENT)
        query = query.order_by(NotifyMessage.created_at.desc(), NotifyMessage.event_id.desc()).limit(AT_ONCE)
        async with self.database.reading() as session:
            return await _read(session, query)

    async def waiting(self, caller: Caller, chat_ids: Collection[UUID]) -> dict[UUID, int]:
        """How many messages to each of these chats, of shops of the caller, wait; a chat without any is left out."""
        query = (
            select(NotifyMessage.chat_id, func.count())
            .join(Event, Event.id == NotifyMessage.event_id)
            .where(NotifyMessage.chat_id.in_(chat_ids), NotifyMessage.state.in_(OPEN))
            .where(visible_to(caller.shops))
            .group_by(NotifyMessage.chat_id)
        )
        async with self.database.reading() as session:
            return {row[0]: row[1] for row in await session.execute(query)}


def _messages(caller: Caller) -> Select[NotifyMessage, Event, NotifyChat]:
    query = (
        select(NotifyMessage, Event, NotifyChat)
        .join(Event, Event.id == NotifyMessage.event_id)
        .join(NotifyChat, NotifyChat.id == NotifyMessage.chat_id)
    )
    if caller.shops is ALL_SHOPS:
        return query
    # Their chat may receive events of other shops too, which they must not see.
    bound = select(NotifyBinding.chat_id).where(of_shops(NotifyBinding.shop_id, caller.shops))
    return query.where(NotifyMessage.chat_id.in_(bound), visible_to(caller.shops))


async def _read(session: AsyncSession, query: Select[NotifyMessage, Event, NotifyChat]) -> list[MessageDetails]:
    return [MessageDetails(message, event, chat) for message, event, chat in (await session.execute(query)).all()]
