"""Hints: the provider's side may report that a payment changed, and the worker reads its status at once.

A hint is never trusted: a payment's state comes from the provider's own answer. Hints that are repeated, late, or of
unknown payments do no harm.
"""

import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from payment_service.api import problems
from payment_service.api.dependencies import InServices
from payment_service.api.fields import SentId
from payment_service.api.strict import StrictRoute
from payment_service.errors import HintNotVerified, RateLimited, TooManyHints
from payment_service.providers.registry import DEFAULT
from payment_service.rates import Rate, RateLimiter
from payment_service.services import Services

MAX_AGE_S = 300
PER_SECOND = 50
"""How many hints one process accepts; each makes one reading, and the worker reads at its own pace."""
_SIGNATURE: Final = re.compile(r"(?:sha256=)?([0-9a-f]{64})", re.IGNORECASE)
limiter = RateLimiter(Rate(PER_SECOND, 1))


class SignedRoute(StrictRoute):
    """A route that verifies the signature over the raw body before anything of it is parsed."""

    async def admit(self, request: Request) -> None:
        """Verify the signature over the body."""
        await _verify(request)


async def _verify(request: Request) -> None:
    """Refuse a hint whose signature is not right.

    Raises:
        HTTPException: 404 for a provider without a secret.
        HintNotVerified, TooManyHints: it is not accepted.
    """
    services: Services = request.app.state.services
    provider = request.path_params.get("name", DEFAULT)
    secret = services.providers.hint_secret(provider)
    if secret is None:
        raise HTTPException(404)
    signature = _SIGNATURE.fullmatch(request.headers.get("X-Signature", "").strip())
    if signature is None:
        raise HintNotVerified("its signature is missing or not in hex")
    body = await request.body()
    if not hmac.compare_digest(hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(), signature[1].lower()):
        raise HintNotVerified("its signature is wrong")
    request.state.verified = True
    # After the signature: without the secret nobody can use up the rate of those who have it.
    if limiter.take(provider) is not None:
        raise TooManyHints


router = APIRouter(prefix="/webhooks", tags=["hints"], route_class=SignedRoute)


class Hint(BaseModel):
    """A hint about a payment. Only the id is used."""

    model_config = ConfigDict(extra="ignore")

    payment_id: SentId
    status: str | None = Field(default=None, max_length=50)
    amount: int | float | str | None = None
    timestamp: Annotated[
        int | float | Annotated[str, StringConstraints(max_length=50)],
        Field(description="When it was sent: seconds since 1970, or ISO 8601."),
    ]


class HintAccepted(BaseModel):
    """The hint was accepted."""

    accepted: bool = True


Signature = Annotated[
    str,
    Header(
        alias="X-Signature",
        max_length=200,
        description="HMAC-SHA256 of the body with the shared secret, in hex; `sha256=` may stand before it.",
    ),
]
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: problems.declared_as(401, f"`{HintNotVerified.code}`"),
    404: problems.declared_as(404, "`not_found`"),
    422: problems.declared_as(422, "`validation_failed`"),
    429: problems.declared_as(429, f"`{TooManyHints.code}`, `{RateLimited.code}`"),
    503: problems.declared_as(503, "`database_unavailable`, `draining`"),
}


@router.post("/kaspi", status_code=202, summary="A hint about a Kaspi payment", responses=_PROBLEMS)
async def kaspi(body: Hint, services: InServices, x_signature: Signature = "") -> HintAccepted:  # noqa: ARG001 - documented
    """Tells the service that a payment changed. The provider is asked at once; the content of the hint is not used."""
    return await _take(services, DEFAULT, body)


@router.post("/provider/{name}", status_code=202, summary="A hint about a payment of any provider", responses=_PROBLEMS)
async def of_provider(
    name: Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,20}$")],
    body: Hint,
    services: InServices,
    x_signature: Signature = "",  # noqa: ARG001 - documented
) -> HintAccepted:
    """The same for a payment of the named provider. Returns 404 when no secret is set for it."""
    return await _take(services, name, body)


async def _take(services: InServices, provider: str, hint: Hint) -> HintAccepted:
    age_s = abs((datetime.now(UTC) - _moment(hint.timestamp)).total_seconds())
    if age_s > MAX_AGE_S:
        raise HintNotVerified("it is more than five minutes old")
    await services.polling.hint(provider, hint.payment_id)
    return HintAccepted()


def _moment(timestamp: float | str) -> datetime:
    try:
        if isinstance(timestamp, str) and not timestamp.isdecimal():
            moment = datetime.fromisoformat(timestamp)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return datetime.fromtimestamp(float(timestamp), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise HintNotVerified("its timestamp is not a time") from error
