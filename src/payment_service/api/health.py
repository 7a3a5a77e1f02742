"""Is the process alive, is it ready, what does it count."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from payment_service import schema
from payment_service.api.dependencies import InRooms
from payment_service.api.middleware import Drain

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process lives."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether requests may come here, and what fails if not."""

    status: str
    failing: list[str] = []


@router.get("/health", summary="The process lives")
@router.get("/api/health", summary="The process lives")
async def health() -> Alive:
    """Answers as long as the process does; asks nobody else."""
    return Alive()


@router.get(
    "/health/ready",
    summary="Requests may come here",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not now, and what fails."}},
)
async def ready(house: InRooms, request: Request) -> JSONResponse:
    """Database reachable, schema at head, not draining."""
    failing = []
    drain: Drain = request.app.state.drain
    if drain.begun:
        failing.append("draining")
    try:
        revision = await schema.current(house.database)
        if revision != request.app.state.schema_head:
            failing.append(f"schema is at {revision or 'nothing'}, not at {request.app.state.schema_head}")
    except Exception:  # noqa: BLE001 - whatever it is, the database is not to be had
        failing.append("database is not reachable")
    answer = Readiness(status="not ready" if failing else "ready", failing=failing)
    return JSONResponse(answer.model_dump(), 503 if failing else 200)


def metrics_router(token: str | None) -> APIRouter:
    """``/metrics``, for everybody or for those who hold the token."""
    metrics = APIRouter(tags=["health"])

    @metrics.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def show(authorization: Annotated[str | None, Header()] = None) -> Response:
        if token is not None and not hmac.compare_digest((authorization or "").encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "Send the METRICS_TOKEN as 'Authorization: Bearer TOKEN'.")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return metrics
