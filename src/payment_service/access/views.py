"""A key and an account as operators see them. Without secrets: of a key only its beginning."""

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel

from payment_service.access.models import ApiKey, Person
from payment_service.money import Money


class KeyView(BaseModel):
    """One key."""

    id: int
    name: str
    begins_with: str
    scopes: list[str]
    shops: list[int] | Literal["all"]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @classmethod
    def of(cls, row: ApiKey) -> Self:
        """The view of a key, its times in whole seconds."""
        return cls(
            id=row.id,
            name=row.name,
            begins_with=row.prefix,
            scopes=row.scopes,
            shops="all" if row.shops is None else row.shops,
            created_at=row.created_at.replace(microsecond=0),
            expires_at=row.expires_at and row.expires_at.replace(microsecond=0),
            revoked_at=row.revoked_at and row.revoked_at.replace(microsecond=0),
        )


class PersonView(BaseModel):
    """One account."""

    id: int
    email: str
    name: str
    role: str
    shops: list[int] | Literal["all"]
    refund_limit: int | float | None
    """Tenge of one payment; none is no limit."""
    has_password: bool
    created_at: datetime
    disabled_at: datetime | None

    @classmethod
    def of(cls, row: Person) -> Self:
        """The view of an account, its times in whole seconds."""
        return cls(
            id=row.id,
            email=row.email,
            name=row.name,
            role=row.role,
            shops="all" if row.shops is None else row.shops,
            refund_limit=None if row.refund_limit is None else Money(row.refund_limit).number,
            has_password=row.password_hash is not None,
            created_at=row.created_at.replace(microsecond=0),
            disabled_at=row.disabled_at and row.disabled_at.replace(microsecond=0),
        )
