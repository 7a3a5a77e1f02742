"""The app: routers, middleware, documentation. Built once by ``serve``."""

from collections.abc import Callable
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
from payment_service.postgres import schema
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
_CORS: Final = {
    "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ALLOWED_HEADERS,
    "expose_headers": EXPOSED_HEADERS,
}
_RESOURCES: Final = (
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
)
"""Those of payments are matched first."""
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Api(FastAPI):
    """FastAPI as the router and the documentation; around its routes one middleware instead of its own six."""

    def build_middleware_stack(self) -> ASGIApp:
        """Put the middleware around the routes."""
        return RequestMiddleware(self.router, self.state.drain, self.state.cors)


def build(services: Services, *, throttle: Throttle, drain: Drain, lifespan: Lifespan) -> FastAPI:
    """The API over these services, with what their settings switch on."""
    settings = services.settings
    app = _documented(lifespan, openapi_url=documentation.OPENAPI_URL if settings.serves_docs else None)
    app.state.services = services
    app.state.throttle = throttle
    app.state.drain = drain
    app.state.schema_head = schema.head()
    app.state.console_url = settings.console_url
    app.state.cors = settings.cors_origins and {"allow_origins": settings.cors_origins, **_CORS}
    if settings.metrics_public or settings.metrics_token is not None:
        token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
        app.router.routes += health.metrics_router(token).routes
    if settings.serves_docs:
        app.router.routes += documentation.ROUTES
    return app


def document() -> dict[str, Any]:
    """The OpenAPI document, without anything behind it."""
    return _documented(None, openapi_url=None).openapi()


def _documented(lifespan: Lifespan | None, *, openapi_url: str | None) -> FastAPI:
    """Every operation, and the document of them."""
    app = Api(
        title="payment-service",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its parts from other hosts; ours is in documentation.py
        redoc_url=None,
        openapi_url=openapi_url,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is in observability/
        openapi_tags=[dict(tag) for tag in operations.TAGS],
        servers=[dict(server) for server in operations.SERVERS],
    )
    # Their routes themselves: to look into included routers takes longer than most answers.
    for resource in _RESOURCES:
        app.router.routes += resource.router.routes
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
