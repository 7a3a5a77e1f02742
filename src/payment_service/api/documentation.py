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
_FILES: Final = {
    URL: ("index.html", "text/html"),
    f"{URL}/start.js": ("start.js", "text/javascript"),
    f"{URL}/swagger-ui.css": ("swagger-ui.css.gz", "text/css"),
    f"{URL}/swagger-ui-bundle.js": ("swagger-ui-bundle.js.gz", "text/javascript"),
}
"""By address: the file, and its media type. Our own script opens the document in the page."""


async def _file(request: Request) -> Response:
    name, media_type = _FILES[request.scope["path"]]
    content, headers = (files("payment_service.api") / "swagger_ui" / name).read_bytes(), {**_HEADERS}
    if name.endswith(".gz"):
        headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            headers["Content-Encoding"] = "gzip"
        else:
            content = gzip.decompress(content)
    return Response(content, media_type=media_type, headers=headers)


ROUTES: Final = tuple(Route(address, _file) for address in _FILES)
