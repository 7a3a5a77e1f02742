"""The public view of a shop's routing: in answers, in events and on the command line."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from payment_service.identifiers import looks_like_uuid, masked
from payment_service.routing.service import Change, ShopConfig
from payment_service.routing.tokens import Unreadable


class ConfigAnswer(BaseModel):
    """The routing of one shop."""

    id: int = Field(description="Equal to shop_id.")
    shop_id: int = Field(examples=[121038])
    organization_bin: str = Field(examples=["920317450731"])
    device_token: str | None = Field(description="Complete for keys with the scope secrets:read, masked for others.")
    is_active: bool
    provider: str
    name: str
    city: str
    description: str
    version: int
    created_at: datetime
    updated_at: datetime
    warnings: list[str] = []

    @classmethod
    def of(cls, config: ShopConfig, *, reveal: bool) -> Self:
        """The view of a configuration; ``reveal`` shows the whole device token."""
        row, token = config.row, config.device_token
        warnings = []
        if isinstance(token, Unreadable):
            # Its beginning is what may be sent back to leave it as it is.
            token, warnings = token.masked, ["The device token cannot be decrypted, and nothing is sent: set it again."]
        elif token is not None:
            if not looks_like_uuid(token):
                warnings = ["The device token is no UUID, and Kaspi's are: check it."]
            # Masked anew: an earlier version wrote down more of a short token than may be shown.
            token = token if reveal else masked(token)
        return cls(
            id=row.shop_id,
            shop_id=row.shop_id,
            organization_bin=row.organization_bin,
            device_token=token,
            is_active=row.is_active,
            provider=row.provider,
            name=row.name,
            city=row.city,
            description=row.description,
            version=row.version,
            created_at=row.created_at,
            updated_at=row.updated_at,
            warnings=warnings,
        )


class ConfigVersion(BaseModel):
    """The routing of a shop in one version."""

    model_config = ConfigDict(from_attributes=True)

    organization_bin: str
    device_token: str | None = Field(description="Always masked.")
    is_active: bool
    provider: str
    name: str
    city: str
    description: str


class ConfigChangeAnswer(BaseModel):
    """One change of a shop's routing."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    version: int
    actor: str = Field(description="Who.")
    created_at: datetime = Field(description="When.")
    reason: str
    before: ConfigVersion | None = Field(alias="from")
    after: ConfigVersion = Field(alias="to")

    @classmethod
    def of(cls, change: Change) -> Self:
        """The view of a change."""
        after, before = change.after, change.before
        return cls(
            version=after.version,
            actor=after.actor,
            created_at=after.created_at,
            reason=after.reason,
            before=ConfigVersion.model_validate(before) if before else None,
            after=ConfigVersion.model_validate(after),
        )
