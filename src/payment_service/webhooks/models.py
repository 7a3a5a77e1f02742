"""The tables of webhooks: endpoints, deliveries, and every try of one.

A delivery that has ended is never changed, nor is a try. Both are in the partition of their event's month, and so are
the foreign keys, which the models do not know.
"""

from uuid import UUID

from sqlalchemy import ARRAY, FetchedValue, Integer, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Moment, Stamp, UpdateStamp


class WebhookEndpoint(Base):
    """Where events are delivered to. It is switched off, never deleted."""

    __tablename__ = "webhook_endpoint"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(String(2000))
    """May hold secrets: it is shown only to callers who may change it, and never logged."""
    description: Mapped[str] = mapped_column(String(500), server_default="")
    events: Mapped[list[str] | None] = mapped_column(ARRAY(String(30)))
    """Their types; none means all."""
    shops: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    """None means all, and what belongs to no shop."""
    secret_ciphertext: Mapped[str] = mapped_column(Text)
    previous_secret_ciphertext: Mapped[str | None] = mapped_column(Text)
    previous_secret_until: Mapped[Moment | None]
    headers_ciphertext: Mapped[str | None] = mapped_column(Text)
    is_active: Mapped[bool] = mapped_column(server_default="true")
    off_reason: Mapped[str | None] = mapped_column(String(10))
    off_since: Mapped[Moment | None]
    failing_since: Mapped[Moment | None]
    """Since the first failure after the last success."""
    version: Mapped[int] = mapped_column(server_default="1", server_onupdate=FetchedValue())
    """Counts the changes that people decide; a trigger writes it."""
    created_at: Mapped[Stamp]
    updated_at: Mapped[UpdateStamp]


class EventDelivery(Base):
    """One event on its way to one endpoint."""

    __tablename__ = "event_delivery"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID]
    endpoint_id: Mapped[UUID]
    type: Mapped[str] = mapped_column(String(30))
    subject_id: Mapped[str] = mapped_column(String(50))
    version: Mapped[int]
    shop_id: Mapped[int | None]
    replay_of: Mapped[UUID | None]
    """The earlier delivery that this one repeats; repeated once."""
    state: Mapped[str] = mapped_column(String(10), server_default="waiting")
    tries: Mapped[int] = mapped_column(server_default="0")
    next_try_at: Mapped[Moment | None]
    trying_until: Mapped[Moment | None]
    """The end of the lease of the worker that tries."""
    created_at: Mapped[Stamp]
    ended_at: Mapped[Moment | None]


class DeliveryTry(Base):
    """One call of an endpoint and its result. Insert-only."""

    __tablename__ = "delivery_try"

    event_id: Mapped[UUID] = mapped_column(server_default=str(UUID(int=0)))
    """Decides its partition. The default is for a worker of the previous version."""
    delivery_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    succeeded: Mapped[bool]
    status: Mapped[int | None] = mapped_column(SmallInteger)
    """The HTTP status that was answered; none when nothing was."""
    error: Mapped[str | None] = mapped_column(String(200))
    """Why there was no answer."""
    answer: Mapped[str | None] = mapped_column(String(500))
    """How the answer begins, for people."""
    duration_ms: Mapped[int]
    created_at: Mapped[Stamp]
