"""The table of API keys. A key itself is never stored, only its SHA-256: it has 256 random bits, so that is enough."""

from sqlalchemy import ARRAY, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Moment, Stamp


class ApiKey(Base):
    """One key. Several may carry one name, so that a caller can change its key without becoming another caller."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(12))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String(32)))
    shops: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    created_at: Mapped[Stamp]
    expires_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]
