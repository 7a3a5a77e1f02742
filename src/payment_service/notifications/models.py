"""The tables of messages to people: chats, what they are bound to, and one message per event and chat."""

from enum import StrEnum
from typing import Final
from uuid import UUID

from sqlalchemy import ARRAY, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Moment, Stamp, UpdateStamp


class MessageState(StrEnum):
    """State of a message. Sent and dead are final."""

    WAITING = "waiting"
    FAILED = "failed"
    """It was tried, and is tried again."""
    SENT = "sent"
    DEAD = "dead"
    """Given up; ``reason`` says why."""


OPEN: Final = (MessageState.WAITING, MessageState.FAILED)


class NotifyChat(Base):
    """One address of one channel: a person or a group. Its messages go out one after the other, oldest first."""

    __tablename__ = "notify_chat"
    __table_args__ = (UniqueConstraint("channel", "address", name="notify_chat_address"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(String(10))
    address: Mapped[str] = mapped_column(String(254))
    disabled_at: Mapped[Moment | None]
    """Since when nothing reaches it; a test message that arrives ends this."""
    disabled_reason: Mapped[str | None] = mapped_column(String(200))
    next_send_at: Mapped[Stamp]
    """The earliest moment for the next message; while one is being sent, the end of its lease."""
    failures: Mapped[int] = mapped_column(server_default="0")
    """How many sends in a row failed; the pause before the next grows with it."""
    created_at: Mapped[Stamp]


class NotifyBinding(Base):
    """Which events a chat receives: of one shop, or of all."""

    __tablename__ = "notify_binding"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    chat_id: Mapped[UUID] = mapped_column(ForeignKey("notify_chat.id"))
    shop_id: Mapped[int | None]
    events: Mapped[list[str]] = mapped_column(ARRAY(String(30)))
    language: Mapped[str] = mapped_column(String(2))
    description: Mapped[str] = mapped_column(String(200), server_default="")
    is_active: Mapped[bool] = mapped_column(server_default="true")
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[Stamp]
    updated_at: Mapped[UpdateStamp]


class NotifyMessage(Base):
    """One event as a message to one chat."""

    __tablename__ = "notify_message"

    event_id: Mapped[UUID] = mapped_column(primary_key=True)
    chat_id: Mapped[UUID] = mapped_column(primary_key=True)
    language: Mapped[str] = mapped_column(String(2))
    state: Mapped[str] = mapped_column(String(10))
    tries: Mapped[int] = mapped_column(server_default="0")
    reason: Mapped[str | None] = mapped_column(String(200))
    """Why the last try failed."""
    channel_message_id: Mapped[str | None] = mapped_column(String(100))
    created_at: Mapped[Stamp]
    tried_at: Mapped[Moment | None]
    sent_at: Mapped[Moment | None]


class NotifyPace(Base):
    """When a channel may send its next message to anybody: shared by all workers."""

    __tablename__ = "notify_pace"

    channel: Mapped[str] = mapped_column(String(10), primary_key=True)
    free_at: Mapped[Stamp]
