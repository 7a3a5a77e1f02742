"""The table of Idempotency-Keys."""

from uuid import UUID

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Stamp


class IdempotencyClaim(Base):
    """One Idempotency-Key of one caller, and the operation it stands for. Kept for good."""

    __tablename__ = "idempotency_claim"

    caller: Mapped[str] = mapped_column(String(64), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    operation_id: Mapped[UUID | None]
    """The payment or the refund; empty only inside the transaction that makes it."""
    created_at: Mapped[Stamp]
