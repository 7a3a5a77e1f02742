"""The tables of routing. ``payment_config`` is what operators query by hand (docs/contract.md section 2)."""

from uuid import UUID

from sqlalchemy import Boolean, ForeignKey, Identity, SmallInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from payment_service.postgres.database import Base, BinColumn, Moment, ProviderName, Stamp


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


class SameSeller(Base):
    """Whether an earlier BIN of a shop belongs to the seller that has ``organization_bin``, as an operator recorded."""

    __tablename__ = "same_seller"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    shop_id: Mapped[int]
    organization_bin: Mapped[BinColumn]
    """The shop's BIN at that time. The row counts only while the shop has it."""
    earlier_bin: Mapped[BinColumn]
    is_same: Mapped[bool]


class RouteChange(Base):
    """A change of a shop's routing that one administrator proposed and another one decides."""

    __tablename__ = "route_change"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    shop_id: Mapped[int]
    on_version: Mapped[int]
    """The version of the route that it was proposed for: it is applied to no other."""
    organization_bin: Mapped[BinColumn]
    device_token: Mapped[str | None] = mapped_column(String(9))
    device_token_id: Mapped[int | None] = mapped_column(ForeignKey("device_token.id"))
    is_active: Mapped[bool]
    provider: Mapped[ProviderName]
    name: Mapped[str] = mapped_column(String(200))
    city: Mapped[str] = mapped_column(String(100))
    description: Mapped[str] = mapped_column(String(500))
    reason: Mapped[str] = mapped_column(String(500))
    state: Mapped[str] = mapped_column(String(10), server_default="waiting")
    """``waiting``, ``applied``, ``refused``, or ``overdue`` when it expired or the route changed meanwhile."""
    proposed_by: Mapped[int] = mapped_column(ForeignKey("person.id"))
    decided_by: Mapped[int | None] = mapped_column(ForeignKey("person.id"))
    created_at: Mapped[Stamp]
    expires_at: Mapped[Moment]
    decided_at: Mapped[Moment | None]


class RouteRule(Base):
    """Whether a change of where money goes needs two people. One row or none; ``migrate`` writes it."""

    __tablename__ = "route_rule"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    needs_two: Mapped[bool]
