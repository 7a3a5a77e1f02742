"""The tables of routing. ``payment_config`` is what operators query by hand (docs/contract.md section 2)."""

from sqlalchemy import Boolean, ForeignKey, Identity, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from payment_service.postgres.database import Base, BinColumn, ProviderName, Stamp


class DeviceToken(Base):
    """One device token, encrypted. A payment refers to it for good; rotation rewrites only the ciphertext."""

    __tablename__ = "device_token"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    ciphertext: Mapped[str] = mapped_column(Text)
    masked: Mapped[str] = mapped_column(String(9))
    created_at: Mapped[Stamp]


class PaymentConfig(Base):
    """Today's routing of one shop."""

    __tablename__ = "payment_config"

    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(unique=True)
    organization_bin: Mapped[BinColumn]
    device_token: Mapped[str | None] = mapped_column(String(9))
    """The masked token, for people; the token itself is in ``device_token``, encrypted."""
    device_token_id: Mapped[int | None] = mapped_column(ForeignKey("device_token.id"))
    is_active: Mapped[bool] = mapped_column(Boolean, server_default="true")
    provider: Mapped[ProviderName]
    name: Mapped[str] = mapped_column(String(200), server_default="")
    city: Mapped[str] = mapped_column(String(100), server_default="")
    description: Mapped[str] = mapped_column(String(500), server_default="")
    version: Mapped[int]
    created_at: Mapped[Stamp]
    updated_at: Mapped[Stamp]

    token: Mapped[DeviceToken | None] = relationship(lazy="raise")


class PaymentConfigHistory(Base):
    """One version of a shop's routing, with who made it, when and why. Insert-only."""

    __tablename__ = "payment_config_history"

    shop_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    organization_bin: Mapped[BinColumn]
    device_token: Mapped[str | None] = mapped_column(String(9))
    device_token_id: Mapped[int | None] = mapped_column(ForeignKey("device_token.id"))
    is_active: Mapped[bool]
    provider: Mapped[ProviderName]
    name: Mapped[str] = mapped_column(String(200))
    city: Mapped[str] = mapped_column(String(100))
    description: Mapped[str] = mapped_column(String(500))
    actor: Mapped[str] = mapped_column(String(100))
    reason: Mapped[str] = mapped_column(String(500), server_default="")
    created_at: Mapped[Stamp]
