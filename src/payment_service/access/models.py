"""The tables of callers: API keys, and people with their sessions.

A key, a session's token and a link are never stored, only their SHA-256: each has 256 random bits, so that is enough.
A password has fewer, so of it there is an Argon2id hash.
"""

from uuid import UUID

from sqlalchemy import ARRAY, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.postgres.database import Base, Moment, Stamp, Tiyn


class ApiKey(Base):
    """One key. Several may carry one name, so that a caller can change its key without becoming another caller."""

    __tablename__ = "api_key"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    prefix: Mapped[str] = mapped_column(String(12))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String(32)))
    shops: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    once: Mapped[UUID | None]
    """The id of the form that made it: the same form sent again makes no second key."""
    created_at: Mapped[Stamp]
    expires_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]


class ApiKeyUse(Base):
    """When a key was last used, to within a minute. Not part of the record, which has what was done with it."""

    __tablename__ = "api_key_use"

    key_id: Mapped[int] = mapped_column(ForeignKey("api_key.id"), primary_key=True)
    used_at: Mapped[Stamp]


class Person(Base):
    """Somebody who signs in to the console. The e-mail address is their name in the record, and never changes."""

    __tablename__ = "person"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(64), unique=True)
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(10))
    shops: Mapped[list[int] | None] = mapped_column(ARRAY(Integer))
    """None is every shop, which a florist never has."""
    refund_limit: Mapped[Tiyn | None]
    """The most that this person may pay back of one payment, earlier refunds included; none: no limit."""
    password_hash: Mapped[str | None] = mapped_column(String(200))
    password_set_at: Mapped[Moment | None]
    created_at: Mapped[Stamp]
    disabled_at: Mapped[Moment | None]


class PersonLink(Base):
    """A link that sets a password, once. A trigger marks it as used when the password is set or a newer one is made."""

    __tablename__ = "person_link"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    created_at: Mapped[Stamp]
    expires_at: Mapped[Moment]
    used_at: Mapped[Moment | None]


class SignInLimit(Base):
    """How many attempts to sign in are left of one account, or from one address: all of them at ``full_at``."""

    __tablename__ = "sign_in_limit"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    full_at: Mapped[Moment]


class PersonSession(Base):
    """A session, by the digest of its token. A trigger ends it when the password, role, shops or account change."""

    __tablename__ = "person_session"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    created_at: Mapped[Stamp]
    proved_at: Mapped[Stamp]
    """When the person last proved who they are, by password or through an OpenID provider."""
    expires_at: Mapped[Moment]
    ended_at: Mapped[Moment | None]
    openid_nonce: Mapped[str | None] = mapped_column(String(64), unique=True)
    """The digest of the nonce of the OpenID sign-in that began it; none after one by password."""
