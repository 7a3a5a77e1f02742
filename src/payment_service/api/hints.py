"""Hints from outside: whoever runs a provider's side may say that something changed, and the worker asks at once.

Nothing that a hint says is believed: money's state comes from the provider's own answer. Hints that are repeated,
late, or of payments nobody knows do no harm.
"""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from payment_service.api import problems
from payment_service.api.dependencies import InRooms
from payment_service.api.exact import ExactRoute
from payment_service.api.fields import SentId
from payment_service.errors import HintNotVerified, TooManyHints

router = APIRouter(prefix="/webhooks", tags=["hints"], route_class=ExactRoute)

MAX_AGE_S = 300
PER_SECOND = 50
"""Hints that one process takes; each makes one reading, and the worker reads at its own pace."""
_limiter = FixedWindowRateLimiter(MemoryStorage())
_limit = RateLimitItemPerSecond(PER_SECOND)


class Hint(BaseModel):
    """What somebody says of a payment. Only the id is used."""

    model_config = ConfigDict(extra="ignore")

    payment_id: SentId
    status: str | None = Field(default=None, max_length=50)
    amount: int | float | str | None = None
    timestamp: Annotated[int | float | str, Field(description="When it was sent: seconds since 1970, or ISO 8601.")]


class HintTaken(BaseModel):
    """It was heard. What it makes of a payment the provider decides."""

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
    429: problems.declared_as(429, f"`{TooManyHints.code}`"),
    503: problems.declared_as(503, "`database_unavailable`, `draining`"),
}


@router.post("/kaspi", status_code=202, summary="A hint about a Kaspi payment", responses=_PROBLEMS)
async def kaspi(body: Hint, request: Request, house: InRooms, x_signature: Signature = "") -> HintTaken:
    """Say that a payment changed: it is asked about now, and the provider is believed."""
    return await _take(house, "kaspi", request, body, x_signature)


@router.post("/provider/{name}", status_code=202, summary="A hint about a payment of any provider", responses=_PROBLEMS)
async def of_provider(
    name: Annotated[str, Path(pattern=r"^[a-z0-9_-]{1,20}$")],
    body: Hint,
    request: Request,
    house: InRooms,
    x_signature: Signature = "",
) -> HintTaken:
    """As for Kaspi, for whichever provider has a secret here."""
    return await _take(house, name, request, body, x_signature)


async def _take(house: InRooms, provider: str, request: Request, hint: Hint, signature: str) -> HintTaken:
    secret = house.hint_secrets.get(provider)
    if secret is None:
        raise HTTPException(404)
    expected = hmac.new(secret.encode(), await request.body(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.removeprefix("sha256=").lower().encode()):
        raise HintNotVerified("its signature is not right")
    age_s = abs((datetime.now(UTC) - _moment(hint.timestamp)).total_seconds())
    if age_s > MAX_AGE_S:
        raise HintNotVerified("it is more than five minutes old")
    # After the signature: whoever has no secret cannot use up what those have who do.
    if not await _limiter.hit(_limit, provider):
        raise TooManyHints
    await house.following.hint(hint.payment_id)
    return HintTaken()


def _moment(timestamp: float | str) -> datetime:
    try:
        if isinstance(timestamp, str) and not timestamp.isdecimal():
            moment = datetime.fromisoformat(timestamp)
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return datetime.fromtimestamp(float(timestamp), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise HintNotVerified("its timestamp is no time") from error
