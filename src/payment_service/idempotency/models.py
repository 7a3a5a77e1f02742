"""The tables of Idempotency-Keys, and of when sending was held and released."""

from uuid import UUID

from sqlalchemy import BigInteger, Index, String, func, text
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Stamp


class IdempotencyClaim(Base):
    """One Idempotency-Key of one caller, and the operation it stands for. Kept for ever.

    The same request under the same key is the same one whoever sends it: claims of other callers count too.
    """

    __tablename__ = "idempotency_claim"
    __table_args__ = (Index("idempotency_claim_key", "idempotency_key"),)

    caller: Mapped[str] = mapped_column(String(64), primary_key=True)
    idempotency_key: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    operation_id: Mapped[UUID | None]
    """The payment or the refund; empty only inside the transaction that creates it."""
    created_at: Mapped[Stamp]


class SendingHold(Base):
    """A moment at which sending was held or released. The newest row counts."""

    __tablename__ = "sending_hold"

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[Stamp]
    actor: Mapped[str] = mapped_column(String(64))
    is_held: Mapped[bool]
    system_identifier: Mapped[int] = mapped_column(BigInteger, server_default=func.this_system())
    """PostgreSQL's name of the cluster; a copy that was loaded from a dump has another."""
    timeline: Mapped[int] = mapped_column(server_default=func.this_timeline())
    """Changes when a replica is promoted and when a backup is restored to a point in time."""
    database: Mapped[str] = mapped_column(String(21), server_default=func.this_database())
    """Which database of the cluster: a dump that is loaded into the same cluster makes another, as does a copy."""
    replicas_have_all: Mapped[bool] = mapped_column(server_default=text("false"))
    provider: Mapped[str | None] = mapped_column(String(2000))
    """Where the provider of these payments is reached; empty while only a stand-in was used."""
    reason: Mapped[str] = mapped_column(String(500))
