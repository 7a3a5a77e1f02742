"""The table of refunds. The payment holds the sums: what was refunded, and what refunds in flight reserve."""

from typing import Final
from uuid import UUID

from sqlalchemy import FetchedValue, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Moment, Stamp, Tiyn, UpdateStamp

LIKE_IN_FLIGHT: Final = "refund_like_in_flight"
OF_PAID_PAYMENT: Final = "refund_of_paid_payment"
PROVIDER_REFUND_ID: Final = "refund_provider_id"
"""Constraints and trigger rules that the code handles by name."""


class Refund(Base):
    """One refund of one payment, whole or in part."""

    __tablename__ = "refund"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payment.id"))
    amount: Mapped[Tiyn]
    state: Mapped[str] = mapped_column(String(10))
    failure: Mapped[str | None] = mapped_column(String(10))
    error_code: Mapped[str | None] = mapped_column(String(50))
    error_message: Mapped[str | None] = mapped_column(String(500))
    provider_refund_id: Mapped[str | None] = mapped_column(String(50))
    caller: Mapped[str] = mapped_column(String(64))
    fingerprint: Mapped[str] = mapped_column(String(64))
    keyed: Mapped[bool] = mapped_column(server_default="true")
    """Whether an Idempotency-Key came with it. Without one it may not start while an equal request is in flight."""
    version: Mapped[int] = mapped_column(server_default="1", server_onupdate=FetchedValue())
    """Counts the changes that callers can see; a trigger writes it."""
    moved_at: Mapped[UpdateStamp]
    """When the state last changed; a trigger writes it."""
    known_at: Mapped[Moment | None] = mapped_column(server_onupdate=FetchedValue())
    """When its outcome became known; a trigger writes it when the state is no longer sending or unknown."""
    created_at: Mapped[Stamp]
    updated_at: Mapped[UpdateStamp]
