"""The tables of payments. The route of a payment is pinned when it is made; the database refuses to change it."""

from typing import Any, Final
from uuid import UUID

from sqlalchemy import CHAR, FetchedValue, ForeignKey, String, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, BinColumn, Moment, ProviderName, Stamp, Tiyn, UpdateStamp

EXTERNAL_ID: Final = "payment_external_id"
ONE_OPEN_PER_ORDER: Final = "payment_one_open_per_order"
LIKE_IN_FLIGHT: Final = "payment_like_in_flight"
ROUTE_IS_CURRENT: Final = "payment_route_is_current"
REFUNDS_WITHIN_AMOUNT: Final = "payment_refunds_within_amount"
"""Constraints and trigger rules that the code handles by name."""


class Payment(Base):
    """One payment, from intent to end."""

    __tablename__ = "payment"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(10), server_default="service")
    """``service`` for a payment that we made; ``client`` for one that a client made itself and reported."""
    same_as: Mapped[UUID | None] = mapped_column(ForeignKey("payment.id"))
    """Of a report: our payment that it turned out to be about. The report is kept as it was and no longer followed."""

    # The request and the pinned route; empty in a report where its client left it out. The full phone number is
    # never stored.
    method: Mapped[str | None] = mapped_column(String(5))
    """``phone`` or ``link``."""
    shop_id: Mapped[int]
    route_version: Mapped[int | None]
    provider: Mapped[ProviderName]
    organization_bin: Mapped[BinColumn | None]
    device_token_id: Mapped[int | None] = mapped_column(ForeignKey("device_token.id"))
    amount: Mapped[Tiyn | None]
    phone_last4: Mapped[str | None] = mapped_column(CHAR(4))
    message: Mapped[str] = mapped_column(String(200), server_default="")
    short_code: Mapped[str | None] = mapped_column(String(8))
    order_id: Mapped[str | None] = mapped_column(String(64))
    details: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB, server_default="{}")
    caller: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str | None] = mapped_column(String(64))
    keyed: Mapped[bool] = mapped_column(server_default="true")
    """Whether an Idempotency-Key came with it. Without one it may not start while an equal request is in flight."""

    # The present state. ``state`` is written by ``lifecycle.move_to`` alone.
    state: Mapped[str] = mapped_column(String(10))
    status: Mapped[str | None] = mapped_column(String(50))
    external_id: Mapped[str | None] = mapped_column(String(50))
    id_from_settlement: Mapped[bool] = mapped_column(server_default="false")
    """Whether the ``external_id`` came from a settlement by hand: undoing that settlement clears it."""
    payment_link: Mapped[str | None] = mapped_column(Text)
    expire_date: Mapped[Moment | None]
    failure: Mapped[str | None] = mapped_column(String(10))
    error_code: Mapped[str | None] = mapped_column(String(50))
    error_message: Mapped[str | None] = mapped_column(String(500))
    refunded_amount: Mapped[Tiyn] = mapped_column(server_default="0")
    reserved_amount: Mapped[Tiyn] = mapped_column(server_default="0")

    # What the worker does next.
    error_seen_at: Mapped[Moment | None]
    """When ``Error`` was first read; it counts only when a later reading confirms it."""
    next_check_at: Mapped[Moment | None]
    checks: Mapped[int] = mapped_column(server_default="0")
    unread: Mapped[int] = mapped_column(server_default="0")
    """How many readings in a row failed; the pause before the next grows with it."""
    version: Mapped[int] = mapped_column(server_default="1", server_onupdate=FetchedValue())
    """Counts the changes that callers can see; a trigger writes it."""
    moved_at: Mapped[UpdateStamp]
    """When the state last changed; a trigger writes it."""

    known_at: Mapped[Moment | None] = mapped_column(server_onupdate=FetchedValue())
    """When its outcome became known; a trigger writes it when the state is no longer sending or unknown."""

    created_at: Mapped[Stamp]
    updated_at: Mapped[UpdateStamp]
