"""The app: routers, middleware, documentation. Built once by ``main``."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from payment_service import __version__
from payment_service.api import (
    configs,
    health,
    hints,
    notify,
    payments,
    problems,
    refunds,
    reports,
    settling,
    waiting,
    webhooks,
)
from payment_service.api.dependencies import Rooms
from payment_service.api.middleware import Drain, Envelope

_ABOUT = """Routes each payment of a marketplace to the Kaspi account of the seller it belongs to.

Amounts are **tenge** in requests and answers about payments, and whole **tiyn** in the audit log. A payment whose
outcome is unknown is answered with **202** and must never be sent again.
"""


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build(
    rooms: Rooms,
    *,
    drain: Drain,
    schema_head: str,
    lifespan: Lifespan,
    docs: bool,
    cors_origins: Sequence[str] = (),
    metrics: bool = False,
    metrics_token: str | None = None,
) -> FastAPI:
    """Put the front door together."""
    app = FastAPI(
        title="payment-service",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
    )
    app.state.rooms = rooms
    app.state.drain = drain
    app.state.schema_head = schema_head
    problems.install(app)
    for part in (waiting, payments, refunds, configs, reports, settling, hints, notify, webhooks, health):
        app.include_router(part.router)
    if metrics:
        app.include_router(health.metrics_router(metrics_token))
    app.add_middleware(Envelope, drain=drain)
    # The last one added is the outermost: a page of another origin may read every answer, those of Envelope too.
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=[
                "X-Request-ID",
                "Idempotency-Replayed",
                "Retry-After",
                "ETag",
                "X-Next-Cursor",
                *configs.SIGNATURE_HEADERS,
            ],
        )
    _declare_problem(app)
    return app


def _declare_problem(app: FastAPI) -> None:
    """Let OpenAPI know the problem that the declared answers refer to, instead of FastAPI's own error."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schemas["Problem"].pop("$defs", {}))
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for operations in document["paths"].values():
            for operation in operations.values():
                door = problems.declared_at_the_door(with_body="requestBody" in operation)
                operation["responses"] = {**door, **operation["responses"]}
        return document

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI's documentation shows
