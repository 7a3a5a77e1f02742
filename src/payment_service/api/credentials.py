"""How an API key is sent: as ``Authorization: Bearer KEY``, or as ``X-API-Key: KEY``."""

from collections.abc import Mapping
from typing import Final

from fastapi.security import APIKeyHeader, HTTPBearer

BEARER: Final = HTTPBearer(auto_error=False, description="An API key.")
API_KEY_HEADER: Final = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")


def presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    """The API key that a request presents. A bearer token has precedence over the other header."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    bearer = credentials.strip() if scheme.lower() == b"bearer" else b""
    return (bearer or headers.get(b"x-api-key", b"")).decode("latin-1") or None
