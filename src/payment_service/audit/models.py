"""The audit log, ``payment_log``. Rows are inserted and never changed; the database refuses anything else."""

from uuid import UUID

from sqlalchemy import BigInteger, Identity, String
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.database import Base, BinColumn, ProviderName, Stamp, Tiyn


class AuditEntry(Base):
    """One line of the record."""

    __tablename__ = "payment_log"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    shop_id: Mapped[int | None]
    organization_bin: Mapped[BinColumn | None]
    operation_type: Mapped[str] = mapped_column(String(20))
    external_id: Mapped[str | None] = mapped_column(String(50))
    amount: Mapped[Tiyn | None]
    status: Mapped[str | None] = mapped_column(String(50))
    """The provider's word."""
    state: Mapped[str | None] = mapped_column(String(10))
    """Ours, after the move that this entry records."""
    error_message: Mapped[str | None] = mapped_column(String(500))
    provider: Mapped[ProviderName]
    payment_id: Mapped[UUID | None]
    refund_id: Mapped[UUID | None]
    actor: Mapped[str] = mapped_column(String(100))
    source: Mapped[str] = mapped_column(String(10))
    """``service`` for what we did ourselves, ``client`` for what a client reported."""
    request_id: Mapped[str | None] = mapped_column(String(128))
    reason: Mapped[str | None] = mapped_column(String(500))
    """Why a person did it; a machine has none."""
    created_at: Mapped[Stamp]
