"""Is the process alive, is it ready, what does it count."""

import hmac

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from payment_service import schema
from payment_service.api import problems
from payment_service.api.dependencies import InRooms
from payment_service.api.exact import ExactRoute
from payment_service.api.middleware import Drain
from payment_service.errors import NotAuthenticated

router = APIRouter(tags=["health"], route_class=ExactRoute)


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
    metrics = APIRouter(tags=["health"], route_class=ExactRoute)

    @metrics.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={401: problems.declared_as(401, f"`{NotAuthenticated.code}`")} if token else {},
    )
    async def show(request: Request) -> Response:
        given = request.headers.get("Authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise NotAuthenticated("the METRICS_TOKEN as 'Authorization: Bearer TOKEN'")
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return metrics
