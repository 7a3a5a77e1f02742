"""The app: routers, middleware, documentation. Built once by ``main``."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from fastapi import FastAPI
from starlette.types import ASGIApp

from payment_service import __version__
from payment_service.api import (
    callers,
    configs,
    documentation,
    examples,
    health,
    hints,
    notify,
    operations,
    payments,
    problems,
    refunds,
    reports,
    settling,
    sums,
    waiting,
    webhooks,
)
from payment_service.api.middleware import Drain, RequestMiddleware
from payment_service.api.throttle import Throttle
from payment_service.services import Services

_ABOUT = """Routes each payment of a marketplace to the Kaspi account of the seller it belongs to.

Amounts are **tenge** in requests and answers about payments, and whole **tiyn** in the audit log. A payment whose
outcome is unknown is answered with **202** and must never be sent again.
"""

ALLOWED_HEADERS: Final = (
    "Authorization",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "X-API-Key",
    "X-Request-ID",
)
"""What a page of another origin may send."""
EXPOSED_HEADERS: Final = (
    "Allow",
    "Content-Disposition",
    "Content-Length",
    "Date",
    "ETag",
    "Idempotency-Replayed",
    "Last-Modified",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "WWW-Authenticate",
    "X-Next-Cursor",
    "X-Request-ID",
    *configs.SIGNATURE_HEADERS,
)
"""What a page of another origin may read of an answer."""
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Api(FastAPI):
    """FastAPI as the router and the documentation; around its routes one middleware instead of its own six."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the middleware around the routes."""
        return RequestMiddleware(self.router, self.state.drain, self.state.cors)


def build(
    services: Services,
    *,
    throttle: Throttle,
    drain: Drain,
    schema_head: str,
    lifespan: Lifespan,
    docs: bool,
    console_url: str | None = None,
    cors_origins: Sequence[str] = (),
    metrics: bool = False,
    metrics_token: str | None = None,
) -> FastAPI:
    """Put the API together."""
    app = Api(
        title="payment-service",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its parts from other hosts; ours is in documentation.py
        redoc_url=None,
        openapi_url=documentation.OPENAPI_URL if docs else None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is in observability/
        openapi_tags=[dict(tag) for tag in operations.TAGS],
        servers=[dict(server) for server in operations.SERVERS],
    )
    app.state.services = services
    app.state.throttle = throttle
    app.state.drain = drain
    app.state.schema_head = schema_head
    app.state.console_url = console_url
    app.state.cors = cors_origins and {
        "allow_origins": list(cors_origins),
        "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        "allow_headers": ALLOWED_HEADERS,
        "expose_headers": EXPOSED_HEADERS,
    }
    # Their routes themselves, those of payments first: to look into included routers takes longer than most answers.
    for part in (
        waiting,
        sums,
        payments,
        refunds,
        configs,
        reports,
        settling,
        hints,
        notify,
        webhooks,
        callers,
        health,
    ):
        app.router.routes += part.router.routes
    if metrics:
        app.router.routes += health.metrics_router(metrics_token).routes
    if docs:
        app.router.routes += documentation.ROUTES
    _declare_problem(app)
    return app


def document() -> dict[str, Any]:
    """The OpenAPI document, without anything behind it."""
    nothing: Any = None
    app = build(nothing, throttle=nothing, drain=Drain(), schema_head="", lifespan=nothing, docs=False)
    return app.openapi()


def _declare_problem(app: FastAPI) -> None:
    """Let OpenAPI know the problem that the declared answers refer to, instead of FastAPI's own error."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = make()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schemas["Problem"].pop("$defs", {}))
        for name, whole in examples.EXAMPLES.items():
            schemas[name]["examples"] = whole
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                operation["operationId"] = operations.NAMES[method, path]
                common = problems.declared_by_all(with_body="requestBody" in operation)
                operation["responses"] = {**common, **operation["responses"]}
        return document

    app.openapi = openapi  # type: ignore[method-assign] # the way that FastAPI's documentation shows
