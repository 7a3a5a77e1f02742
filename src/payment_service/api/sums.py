"""Sums over HTTP: what was paid, per shop, day and state."""

from datetime import timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel

from payment_service.almaty import midnight
from payment_service.api import problems
from payment_service.api.dependencies import InServices, PaymentsReader
from payment_service.api.fields import Day, ShopId
from payment_service.api.strict import StrictRoute
from payment_service.errors import InvalidInput
from payment_service.reconciliation.service import Period
from payment_service.reconciliation.sums import sums_of
from payment_service.reconciliation.views import SumLine

router = APIRouter(tags=["payments"], route_class=StrictRoute)
LONGEST: Final = timedelta(days=366)


class Sums(BaseModel):
    """The sums of a period, by day, shop, BIN, source and state. What has no payments is left out."""

    items: list[SumLine]


@router.get("/payments/sums", summary="Sums per shop, day and state", responses=problems.declared())
async def sums(
    services: InServices,
    caller: PaymentsReader,
    since: Annotated[Day, Query(description="The first day.", examples=["2026-10-01"])],
    until: Annotated[Day, Query(description="The day after the last, at most 366 days on.", examples=["2026-11-01"])],
    shop_id: Annotated[ShopId | None, Query()] = None,
) -> Sums:
    """Adds up the payments that were made on each day in Almaty, in the shops that the caller may see.

    A payment belongs to the day on which it was made, also when it was paid or refunded later.
    """
    if not timedelta() < until - since <= LONGEST:
        raise InvalidInput("until", f"is after since, and at most {LONGEST.days} days")
    period = Period(midnight(since), midnight(until), shop_id)
    return Sums(items=[SumLine.of(one) for one in await sums_of(services.database, caller.shops, period, "day")])
