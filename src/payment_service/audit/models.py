"""The audit log, ``payment_log``, and its seals. Rows are inserted and never changed; the database refuses it."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, DateTime, Identity, LargeBinary, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, BinColumn, ProviderName, Stamp, Tiyn


class AuditEntry(Base):
    """One audit entry, in the partition of its month."""

    __tablename__ = "payment_log"
    __table_args__ = {"postgresql_partition_by": "RANGE (created_at)"}  # noqa: RUF012 - declared so by SQLAlchemy

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
    """The reason that a person gave; null for automatic entries."""
    report_id: Mapped[str | None] = mapped_column(String(64))
    """The client's own id of a report: sent again under it, a report is recorded once."""
    created_at: Mapped[Stamp]
    subject: Mapped[str | None] = mapped_column(String(60))
    """The table and the row that was changed, other than a payment or refund: ``api_key:3``."""
    content: Mapped[str | None] = mapped_column(Text)
    """The row after the change, as JSON by the database function ``audited_content``; of a secret its SHA-256."""


class ReportTaken(Base):
    """The id of a client report, so that it is recorded once, even when its month was retired since."""

    __tablename__ = "report_taken"

    log_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    """Its audit entry."""
    report_id: Mapped[str] = mapped_column(String(64))
    actor: Mapped[str] = mapped_column(String(100))
    shop_id: Mapped[int | None]
    operation_type: Mapped[str] = mapped_column(String(20))
    external_id: Mapped[str | None] = mapped_column(String(50))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """The time of that entry."""


class AuditSeal(Base):
    """One link of the chain: it covers the rows after ``after_id`` up to ``last_id``, as ``canonical`` writes them."""

    __tablename__ = "audit_seal"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    form: Mapped[int] = mapped_column(SmallInteger)
    """Which canonical form the rows were written in."""
    previous_seq: Mapped[int | None] = mapped_column(BigInteger)
    previous_hash: Mapped[str] = mapped_column(String(64))
    after_id: Mapped[int] = mapped_column(BigInteger)
    last_id: Mapped[int] = mapped_column(BigInteger)
    row_count: Mapped[int]
    row_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    row_digests: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of each row, 32 bytes each, in the order of ``row_ids``: with them the one bad row can be named."""
    hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[Stamp]


class AuditCheck(Base):
    """A check that found the audit log intact from one seal to another, and who made it. Insert-only."""

    __tablename__ = "audit_check"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    first_seq: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int] = mapped_column(BigInteger)
    last_hash: Mapped[str] = mapped_column(String(64))
    row_count: Mapped[int] = mapped_column(BigInteger)
    actor: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[Stamp]


class AuditRetired(Base):
    """A partition that was retired. Its rows are in a file; its seals are still here. Insert-only."""

    __tablename__ = "audit_retired"

    partition: Mapped[str] = mapped_column(String(40), primary_key=True)
    until: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    """Its rows were written before that."""
    row_count: Mapped[int] = mapped_column(BigInteger)
    first_seq: Mapped[int | None] = mapped_column(BigInteger)
    """The seals that cover them; none of an empty one."""
    last_seq: Mapped[int | None] = mapped_column(BigInteger)
    kept_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """Rows under those seals that belong to other partitions."""
    file_sha256: Mapped[str | None] = mapped_column(String(64))
    """Of the file that its rows were exported to; none when earlier files hold them all."""
    actor: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[Stamp]
