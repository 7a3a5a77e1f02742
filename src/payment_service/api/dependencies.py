"""What endpoints ask for: the services, the caller with the right scope, the moment by which to answer."""

import asyncio
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from payment_service.access.service import EVERYBODY, Caller, Scope
from payment_service.errors import NotAuthenticated
from payment_service.observability.context import Origin, origin
from payment_service.services import Services

ANSWER_WITHIN_S = 8.5
"""The PHP client waits 10 s; a money call answers within 9 s (docs/contract.md section 4)."""


async def services_of(request: Request) -> Services:
    """The services of this app."""
    return cast("Services", request.app.state.services)


InServices = Annotated[Services, Depends(services_of)]

_bearer = HTTPBearer(auto_error=False, description="An API key.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")


async def _presented_key(
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
    header: Annotated[str | None, Security(_header)],
) -> str | None:
    return bearer.credentials if bearer else header


PresentedKey = Annotated[str | None, Depends(_presented_key)]
"""The API key as it was sent. Only for answers that its owner verifies with it."""


async def _caller(services: InServices, key: PresentedKey) -> Caller:
    if services.settings.dev_no_auth:
        caller = EVERYBODY
    else:
        if not key:
            raise NotAuthenticated
        caller = await services.access.caller_with(key)
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
