"""The table of events. An event is never changed; ``passed_on_at`` notes when it was passed on to its consumers."""

from typing import Any
from uuid import UUID

from sqlalchemy import String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Moment, Stamp


class Event(Base):
    """Something that happened to a payment, a refund or a route."""

    __tablename__ = "event"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(30))
    subject: Mapped[str] = mapped_column(String(10))
    subject_id: Mapped[str] = mapped_column(String(50))
    version: Mapped[int]
    """The subject's: of two events of one subject, the one with the higher version is the later one."""
    shop_id: Mapped[int | None]
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    """The subject as ``GET`` shows it, at that version."""
    created_at: Mapped[Stamp]
    passed_on_at: Mapped[Moment | None]
