"""Callers over HTTP: the rights of a key, and the list of keys."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from payment_service.access.service import Scope
from payment_service.access.views import KeyView
from payment_service.api import problems
from payment_service.api.dependencies import Admin, AnyCaller, InServices
from payment_service.api.strict import StrictRoute
from payment_service.postgres.visibility import ALL_SHOPS

router = APIRouter(tags=["admin"], route_class=StrictRoute)


class Me(BaseModel):
    """The caller that the key identifies."""

    name: str = Field(description="The caller's name in the record.", examples=["bitrix"])
    scopes: list[Scope]
    shops: list[int] | Literal["all"]


class KeyAnswer(KeyView):
    """One key, and when it was used."""

    last_used_at: datetime | None = Field(description="To the minute; null when no use was recorded.")


@router.get("/me", summary="Who am I", responses=problems.declared())
async def me(caller: AnyCaller) -> Me:
    """Returns the name, the scopes and the shops of the key. Any valid key may ask."""
    shops = "all" if caller.shops is ALL_SHOPS else sorted(caller.shops)
    return Me(name=caller.name, scopes=sorted(caller.scopes), shops=shops)


@router.get("/admin/keys", summary="All keys", responses=problems.declared())
async def keys(services: InServices, caller: Admin) -> list[KeyAnswer]:
    """Lists the keys whose shops the caller may all touch, the revoked ones too, oldest first.

    Of a key only the beginning is known.
    """
    used = await services.access.last_used()
    rows = await services.access.all()
    return [
        KeyAnswer(**dict(KeyView.of(row)), last_used_at=used.get(row.id))
        for row in rows
        if caller.shops is ALL_SHOPS or (row.shops is not None and caller.shops.issuperset(row.shops))
    ]
