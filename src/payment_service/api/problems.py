"""Errors over HTTP: ``application/problem+json``, and the one table from an error to its status.

Body: ``{type, title, status, detail, code, request_id}``; ``detail`` is always a sentence. Validation errors add
``errors: [{field, message}]``; some problems add what a program can use (``id``, ``state``, ``remaining_amount``).
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from payment_service import errors
from payment_service.errors import ServiceError
from payment_service.observability.context import origin
from payment_service.observability.logs import get_logger, scrub
from payment_service.observability.sentry import report
from payment_service.postgres.database import is_unreachable
from payment_service.validation_messages import one_for_each_value, sentence_of

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = "5"
log = get_logger(__name__)

STATUS_OF: Final = MappingProxyType(
    {
        errors.NotAuthenticated: 401,
        errors.ScopeMissing: 403,
        errors.InvalidInput: 422,
        errors.ShopNotConfigured: 404,
        errors.ShopInactive: 403,
        errors.ShopAlreadyConfigured: 409,
        errors.BinOfSeveralShops: 409,
        errors.DeviceTokenMissing: 400,
        errors.DeviceTokenUnreadable: 400,
        errors.TokenOfAnotherBin: 409,
        errors.RouteChangeNeedsTwo: 409,
        errors.RouteChangeNotFound: 404,
        errors.RouteChangeWaits: 409,
        errors.RouteChangeOver: 409,
        errors.ProposedByCaller: 403,
        errors.PaymentNotFound: 404,
        errors.PaymentHasNoLink: 409,
        errors.PaymentNotPaid: 409,
        errors.PaymentIncomplete: 409,
        errors.RefundExceedsRemainder: 422,
        errors.RefundNotFound: 404,
        errors.NothingToSettle: 409,
        errors.TooEarlyToSettle: 409,
        errors.SettlementContradicted: 409,
        errors.ExternalIdTaken: 409,
        errors.ExternalIdNotProven: 403,
        errors.NothingToUndo: 409,
        errors.SettledByCaller: 403,
        errors.SettlementInUse: 409,
        errors.BindingNotFound: 404,
        errors.BindingExists: 409,
        errors.MessageNotSent: 502,
        errors.OrderAlreadyOpen: 409,
        errors.OrderAlreadyPaid: 409,
        errors.RefundAlreadyOpen: 409,
        errors.HintNotVerified: 401,
        errors.TooManyHints: 429,
        errors.RateLimited: 429,
        errors.TooManyWaiting: 429,
        errors.WebhookNotFound: 404,
        errors.DeliveryNotFound: 404,
        errors.WebhookOff: 409,
        errors.IdempotencyKeyReused: 422,
        errors.StillRunning: 409,
        errors.ProviderUnavailable: 503,
        errors.ProviderRefused: 502,
        errors.TryAgainLater: 503,
        errors.DatabaseUnavailable: 503,
        errors.SendingHeld: 503,
        errors.TooManyConnections: 503,
        errors.NoRoomToWait: 503,
        errors.Draining: 503,
    }
)
_EVERYWHERE: Final[tuple[type[ServiceError], ...]] = (
    errors.NotAuthenticated,
    errors.ScopeMissing,
    errors.InvalidInput,
    errors.DatabaseUnavailable,
    errors.TooManyConnections,
    errors.Draining,
)
"""Errors of every endpoint that needs a key."""
_OF_ANY_ENDPOINT: Final = MappingProxyType(
    {
        408: "`request_timeout`",
        413: "`body_too_large`",
        414: "`uri_too_long`",
        415: "`unsupported_media_type`",
        422: "`validation_failed`",
        429: f"`{errors.RateLimited.code}`",
        431: "`headers_too_large`",
        500: "`internal_error`",
    }
)
"""Problems of every endpoint, whatever it does."""
_ONLY_OF_BODIES: Final = frozenset({413, 415})
_AT_THIS_ADDRESS: Final = MappingProxyType(
    {404: "There is nothing at this address: openapi.json lists those that there are.", 405: "Use {Allow} here."}
)
_CODE_OF_HTTP: Final = MappingProxyType(
    {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}
)
"""Not derived from the standard library's phrases, which change between Python versions."""
_RETRIABLE: Final = (
    errors.StillRunning,
    errors.TooManyHints,
    errors.TooManyWaiting,
    errors.ProviderUnavailable,
    errors.TryAgainLater,
)


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(examples=["amount"])
    message: str = Field(examples=["an amount has at most two decimals"])


class Problem(BaseModel):
    """A problem (RFC 9457)."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"description": "A problem (RFC 9457)."})

    type: str = Field(examples=["about:blank"], description="Always about:blank: `code` tells problems apart.")
    title: str
    status: int
    detail: str = Field(description="A sentence for people.")
    code: str = Field(description="A stable word for programs.", examples=["shop_not_configured"])
    request_id: str | None = Field(default=None, description="The X-Request-ID of this request.")
    errors: list[FieldProblem] | None = Field(default=None, description="For code validation_failed: every field.")


def problem(
    status: int, code: str, title: str, detail: str, *, headers: Mapping[str, str] | None = None, **extra: Any
) -> JSONResponse:
    """A problem answer.

    Sentences about fields are ours and may hold examples; any other may quote the request, so it is scrubbed.
    """
    if code != errors.InvalidInput.code:
        detail = scrub(detail)
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": _sentence(detail),
        "code": code,
        "request_id": origin.get().request_id,
        **extra,
    }
    return JSONResponse(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def of_error(error: ServiceError) -> JSONResponse:
    """The answer to an error."""
    headers = {"Retry-After": RETRY_AFTER_S} if isinstance(error, _RETRIABLE) else {}
    if isinstance(error, errors.NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.RateLimited):
        headers = _rate_headers(error)
    return problem(STATUS_OF[type(error)], error.code, error.title, error.detail, headers=headers, **error.extra)


def _rate_headers(error: errors.RateLimited) -> dict[str, str]:
    """As draft-ietf-httpapi-ratelimit-headers-10 writes them: what is left now, and the policy; seconds."""
    rate = error.rate
    return {
        "Retry-After": str(error.wait_s),
        "RateLimit": f'"{error.policy}";r=0;t={error.wait_s}',
        "RateLimit-Policy": f'"{error.policy}";q={rate.quota};w={rate.window_s:.0f}',
    }


def declared(*kinds: type[ServiceError], also: Mapping[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of an endpoint's problems: its own and those of every endpoint with a key."""
    by_status: dict[int, list[str]] = {}
    for kind in (*kinds, *_EVERYWHERE):
        by_status.setdefault(STATUS_OF[kind], []).append(f"`{kind.code}`")
    for status, words in (also or {}).items():
        by_status.setdefault(status, []).append(words)
    return {status: declared_as(status, *words) for status, words in sorted(by_status.items())}


def declared_by_all(*, with_body: bool) -> dict[str, dict[str, Any]]:
    """The OpenAPI entries of the problems of every endpoint."""
    return {
        str(status): declared_as(status, words)
        for status, words in _OF_ANY_ENDPOINT.items()
        if with_body or status not in _ONLY_OF_BODIES
    }


def declared_as(status: int, *words: str) -> dict[str, Any]:
    """The OpenAPI entry of a problem."""
    return {
        "description": f"{HTTPStatus(status).phrase}: {', '.join(dict.fromkeys(words))}",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def of(error: Exception | asyncio.CancelledError, scope: Scope) -> JSONResponse:
    """The answer to any exception."""
    match error:
        case ServiceError():
            return of_error(error)
        case RequestValidationError():
            return _of_invalid(error)
        case HTTPException():
            return _of_http(error, scope)
        case ClientDisconnect():  # nobody reads it; it keeps a client that left from looking like a bug of ours
            return problem(400, "bad_request", "Bad request", "The client left before the body was whole.")
        case asyncio.CancelledError():
            return _internal("This process ended before it had the answer.")
    return of_unforeseen(error)


def _of_invalid(error: RequestValidationError) -> JSONResponse:
    fields = [_field_problem(one) for one in one_for_each_value(error.errors())]
    first = f"{fields[0]['field']}: {fields[0]['message']}" if fields else "The request cannot be read."
    kind = errors.InvalidInput
    return problem(STATUS_OF[kind], kind.code, kind.title, first, errors=fields)


def _of_http(error: HTTPException, scope: Scope) -> JSONResponse:
    phrase = HTTPStatus(error.status_code).phrase if error.status_code != 413 else "Body too large"
    headers = {"Allow": _allowed(scope)} if error.status_code == 405 else error.headers
    detail = error.detail
    if detail == phrase:
        detail = _AT_THIS_ADDRESS.get(error.status_code, phrase).format_map(headers or {})
    code = _CODE_OF_HTTP.get(error.status_code) or phrase.lower().replace(" ", "_").replace("-", "_")
    return problem(error.status_code, code, phrase, detail, headers=headers)


def _allowed(scope: Scope) -> str:
    """The methods of a path. Starlette names only those of the first route that matches, and each of ours has one."""
    path = getattr(scope.get("route"), "path", "")
    methods = {method.upper() for method in scope["app"].openapi()["paths"].get(path, {"get": ...})}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def of_unforeseen(error: Exception) -> JSONResponse:
    """The answer to an unforeseen error: the database is away, or the mistake is ours."""
    if is_unreachable(error):
        log.warning("database unavailable", error=type(error).__name__)
        return of_error(errors.DatabaseUnavailable())
    log.error("unforeseen error", exc_info=error)
    report(error)
    return _internal("An internal error occurred and was logged.")


def _internal(sentence: str) -> JSONResponse:
    detail = f"{sentence} If this was a payment or a refund, look it up before you repeat it."
    return problem(500, ServiceError.code, ServiceError.title, detail)


def _field_problem(error: Mapping[str, Any]) -> dict[str, str]:
    location, message = error["loc"], sentence_of(error)
    if error["type"] == "json_invalid":
        location = ("body",)
    elif location[-1] == "[key]":  # Pydantic's name for the name of an entry
        location, message = location[:-1], f"the name {message}"
    return {"field": _field_of(location), "message": message}


def _field_of(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location[location[0] in {"body", "query", "path", "header"} :]]
    # A name may come from the request, and half of a surrogate pair cannot be written.
    return (".".join(names) or str(location[0])).encode(errors="replace").decode()


def _sentence(detail: str) -> str:
    return detail if detail.endswith((".", "!", "?")) else f"{detail}."
