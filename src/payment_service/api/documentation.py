"""``/docs``: Swagger UI over the OpenAPI document, with nothing from any other host.

Its files are those of the npm package ``swagger-ui-dist``, kept compressed in ``swagger_ui/``.
"""

import gzip
from importlib.resources import files
from typing import Final

from fastapi import Request, Response
from starlette.routing import Route

URL: Final = "/docs"
OPENAPI_URL: Final = "/openapi.json"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the page: this host alone."""
_HEADERS: Final = {"Cache-Control": "private, max-age=3600", "Content-Security-Policy": POLICY}


async def page(_request: Request) -> Response:
    """The page."""
    return Response(_read("index.html"), media_type="text/html", headers=_HEADERS)


async def start(_request: Request) -> Response:
    """The script that opens the document in the page."""
    return Response(_read("start.js"), media_type="text/javascript", headers=_HEADERS)


async def styles(request: Request) -> Response:
    """Swagger UI's styles."""
    return _compressed(request, "swagger-ui.css", "text/css")


async def program(request: Request) -> Response:
    """Swagger UI's program."""
    return _compressed(request, "swagger-ui-bundle.js", "text/javascript")


def _compressed(request: Request, name: str, media_type: str) -> Response:
    content = _read(f"{name}.gz")
    headers = {**_HEADERS, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, media_type=media_type, headers=headers)


def _read(name: str) -> bytes:
    return (files("payment_service.api") / "swagger_ui" / name).read_bytes()


ROUTES: Final = (
    Route(URL, page),
    Route(f"{URL}/start.js", start),
    Route(f"{URL}/swagger-ui.css", styles),
    Route(f"{URL}/swagger-ui-bundle.js", program),
)
