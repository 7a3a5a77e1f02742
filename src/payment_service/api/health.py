"""About this service, liveness, readiness and metrics."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field

from payment_service import __version__
from payment_service.api import documentation, problems
from payment_service.api.dependencies import InServices
from payment_service.api.middleware import Drain
from payment_service.api.strict import StrictRoute
from payment_service.errors import NotAuthenticated
from payment_service.observability.exposition import CONTENT_TYPE, exposition
from payment_service.postgres import schema
from payment_service.services import Services

router = APIRouter(tags=["health"], route_class=StrictRoute)


class About(BaseModel):
    """What this service is."""

    name: str = "payment-service"
    version: str = __version__
    documentation: str | None = Field(description="The path of the documentation; null where it is switched off.")
    openapi: str | None = Field(description="The path of the OpenAPI document; null where it is switched off.")
    console: str | None = Field(description="Where the console for operators is; null where CONSOLE_URL is not set.")
    health: str = "/health"


class Alive(BaseModel):
    """Liveness."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether the process takes requests, and what fails if not."""

    status: str
    failing: list[str] = []


@router.get("/", summary="About this service")
async def greeting(request: Request) -> About:
    """Name and version, and where the documentation and the console are."""
    openapi_url: str | None = request.app.openapi_url
    console_url: str | None = request.app.state.console_url
    return About(
        documentation=documentation.URL if openapi_url else None,
        openapi=openapi_url,
        console=f"{console_url}/console" if console_url else None,
    )


@router.get("/health", summary="Liveness")
@router.get("/api/health", summary="Liveness")
async def health() -> Alive:
    """Returns 200 as long as the process runs. Nothing else is checked."""
    return Alive()


@router.get(
    "/health/ready",
    summary="Readiness",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready; `failing` says why."}},
)
async def ready(services: InServices, request: Request) -> JSONResponse:
    """Returns 200 when the database is reachable, the schema is current and the process is not stopping."""
    failing = []
    drain: Drain = request.app.state.drain
    if drain.begun:
        failing.append("draining")
    try:
        revision = await _schema_revision(services, request)
        if revision != request.app.state.schema_head:
            failing.append(f"schema is at {revision or 'nothing'}, not at {request.app.state.schema_head}")
    except Exception:  # noqa: BLE001 - whatever it is, the database cannot be used
        failing.append("database is not reachable")
    answer = Readiness(status="not ready" if failing else "ready", failing=failing)
    return JSONResponse(answer.model_dump(), 503 if failing else 200)


async def _schema_revision(services: Services, request: Request) -> str | None:
    """One query for all requests at the same time: no key is needed here, and no rate limit applies."""
    state = request.app.state
    asking: asyncio.Task[str | None] | None = getattr(state, "asking_revision", None)
    if asking is None or asking.done():
        asking = state.asking_revision = asyncio.create_task(schema.current(services.database))
    return await asyncio.shield(asking)


def metrics_router(token: str | None) -> APIRouter:
    """``/metrics``, for everybody or for those who hold the token."""
    metrics = APIRouter(tags=["health"], route_class=StrictRoute)

    @metrics.get(
        "/metrics",
        summary="Metrics for Prometheus",
        response_class=PlainTextResponse,
        responses={401: problems.declared_as(401, f"`{NotAuthenticated.code}`")} if token else {},
    )
    async def show(request: Request) -> Response:
        if (shown := exposition(request.headers.get("Authorization"), token)) is None:
            raise NotAuthenticated("the METRICS_TOKEN as 'Authorization: Bearer TOKEN'")
        return Response(shown, media_type=CONTENT_TYPE)

    return metrics
