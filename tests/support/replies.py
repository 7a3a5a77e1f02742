"""What the proxy replies, for ``wire``."""

from typing import Any

import httpx


def accepted(external_id: int | str = 12800627774, **more: Any) -> httpx.Response:
    """The proxy's reply to a create that Kaspi took on."""
    data = {"externalId": external_id, "status": "Wait", **more}
    return httpx.Response(200, json={"status": True, "data": data, "http_code": 200})


def status_reply(external_id: int | str, status: str) -> httpx.Response:
    """The proxy's reply to a status request."""
    return httpx.Response(200, json={"status": True, "data": {"externalId": external_id, "status": status}})


def failure(code: int | str, message: str = "Kaspi says no") -> httpx.Response:
    """The proxy's reply when Kaspi answered with an error code."""
    return httpx.Response(200, json={"status": False, "data": {"errors": {str(code): message}}})
