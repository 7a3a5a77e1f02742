"""What endpoints ask for: the rooms below, the caller with the right scope, the moment by which to answer."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from payment_service.access.service import EVERYBODY, Access, Caller, Scope
from payment_service.api.throttle import Throttle
from payment_service.context import Origin, origin
from payment_service.database import Database
from payment_service.errors import NotAuthenticated
from payment_service.events.deliveries import DeliveryRecord
from payment_service.events.delivery import Deliveries
from payment_service.events.endpoints import Endpoints
from payment_service.events.waiting import Subscriptions
from payment_service.inflight import InFlight
from payment_service.notify.bindings import Bindings
from payment_service.payments.following import Following
from payment_service.payments.reports import Reports
from payment_service.payments.service import Payments
from payment_service.payments.settling import Settling
from payment_service.refunds.service import Refunds
from payment_service.routing.service import Routing

ANSWER_WITHIN_S = 8.5
"""The PHP client waits 10 s; a money call answers within 9 s (docs/contract.md section 4)."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the front door opens onto."""

    database: Database
    access: Access
    routing: Routing
    payments: Payments
    following: Following
    settling: Settling
    reports: Reports
    refunds: Refunds
    subscriptions: Subscriptions
    inflight: InFlight
    bindings: Bindings
    endpoints: Endpoints
    deliveries: Deliveries
    delivery_record: DeliveryRecord
    throttle: Throttle
    hint_secrets: Mapping[str, str]
    """What each provider's side signs its hints with; a provider without one has no way to hint."""
    open_to_everybody: bool
    """No authentication: only on a development server with the stand-in proxy."""


async def rooms(request: Request) -> Rooms:
    """The rooms of this app."""
    return cast("Rooms", request.app.state.rooms)


InRooms = Annotated[Rooms, Depends(rooms)]

_bearer = HTTPBearer(auto_error=False, description="An API key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")


async def _presented_key(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> str | None:
    return bearer.credentials if bearer else header


PresentedKey = Annotated[str | None, Depends(_presented_key)]
"""The API key as it was sent. Only for answers that its owner verifies with it."""


async def _caller(house: InRooms, key: PresentedKey) -> Caller:
    if house.open_to_everybody:
        caller = EVERYBODY
    else:
        if not key:
            raise NotAuthenticated
        caller = await house.access.caller_with(key)
    origin.set(Origin(caller.name, origin.get().request_id))
    return caller


def caller_who_may(scope: Scope) -> Any:
    """The caller, once it is certain that it has the scope."""

    async def check(caller: Annotated[Caller, Depends(_caller)]) -> Caller:
        caller.require(scope)
        return caller

    return Depends(check)


async def answer_by(request: Request) -> float:
    """The moment of the loop's clock by which this request is answered."""
    started: float = getattr(request.state, "started", asyncio.get_running_loop().time())
    return started + ANSWER_WITHIN_S


AnswerBy = Annotated[float, Depends(answer_by)]
