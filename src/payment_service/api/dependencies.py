"""The dependencies of endpoints: the services, the caller with the right scope, the time by which to answer.

Each is a plain function of the request, called once per request (``strict``).
"""

from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.security.http import HTTPAuthorizationCredentials

from payment_service.access.service import FULL_ACCESS, Caller, Scope
from payment_service.api.credentials import API_KEY_HEADER, BEARER
from payment_service.errors import NotAuthenticated
from payment_service.observability.context import Origin, origin
from payment_service.scheduling.operations import ANSWER_WITHIN_S
from payment_service.services import Services


def services_of(request: Request) -> Services:
    """The services of this app."""
    return cast("Services", request.scope["app"].state.services)


InServices = Annotated[Services, Depends(services_of)]


def _presented_key(request: Request) -> str | None:
    key: str | None = request.scope["state"]["key"]
    return key


PresentedKey = Annotated[str | None, Depends(_presented_key)]
"""The API key as it was sent. Only for answers that its owner verifies with it."""


def caller_who_may(scope: Scope | None) -> Any:
    """The caller, checked for the scope; none: any caller with a key."""

    async def check(
        request: Request,
        _bearer: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)] = None,
        _header: Annotated[str | None, Security(API_KEY_HEADER)] = None,
    ) -> Caller:
        person: Caller | None = request.scope["state"].get("person")
        if person is not None:  # the console has checked the right of the person
            return person
        services = services_of(request)
        if services.settings.dev_no_auth:
            caller = FULL_ACCESS
        else:
            key = _presented_key(request)
            if not key:
                raise NotAuthenticated
            caller = await services.access.caller_with(key)
        origin.set(Origin(caller.name, origin.get().request_id))
        if scope is not None:
            caller.require(scope)
        return caller

    return Depends(check)


AnyCaller = Annotated[Caller, caller_who_may(None)]
Admin = Annotated[Caller, caller_who_may(Scope.ADMIN)]
ConfigReader = Annotated[Caller, caller_who_may(Scope.CONFIG_READ)]
PaymentsReader = Annotated[Caller, caller_who_may(Scope.PAYMENTS_READ)]
PaymentsWriter = Annotated[Caller, caller_who_may(Scope.PAYMENTS_WRITE)]
RefundsWriter = Annotated[Caller, caller_who_may(Scope.REFUNDS_WRITE)]
ReportsWriter = Annotated[Caller, caller_who_may(Scope.REPORTS_WRITE)]


def answer_by(request: Request) -> float:
    """The moment of the loop's clock by which this request is answered."""
    started: float = request.scope["state"]["started"]
    return started + ANSWER_WITHIN_S


AnswerBy = Annotated[float, Depends(answer_by)]
