"""What the proxy replies, for ``wire``."""

from itertools import count
from typing import Any

import httpx
import respx


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


def empty_reply() -> httpx.Response:
    """Success, for a refund."""
    return httpx.Response(200, headers={"Content-Length": "0"})


def link_reply(payment_id: int | str = 12800627774) -> httpx.Response:
    data = {
        "paymentId": payment_id,
        "paymentLink": f"https://pay.kaspi.kz/pay/{payment_id}",
        "expireDate": "2030-01-01T00:00:00.000+05:00",
    }
    return httpx.Response(200, json={"status": True, "data": data})


_IDS = count(12_800_000_001)
"""The provider's ids. No test gets one that another had."""


class GoodProxy:
    """A wire that takes everything on: new ids, links, refunds; ``statuses`` says how a payment stands."""

    def __init__(self, wire: respx.MockRouter) -> None:
        self.statuses: dict[str, str] = {}
        self.default = "Wait"
        self.create = wire.get("/create/").mock(side_effect=lambda _: accepted(next(_IDS)))
        self.link = wire.get("/create-link/").mock(side_effect=self._link)
        self.refund = wire.get("/refund/").mock(return_value=empty_reply())
        self.status = wire.get("/status/").mock(side_effect=self._status)

    def _link(self, _request: httpx.Request) -> httpx.Response:
        return link_reply(next(_IDS))

    def _status(self, request: httpx.Request) -> httpx.Response:
        external_id = request.url.params["externalId"]
        return status_reply(external_id, self.statuses.get(external_id, self.default))

    @property
    def money_calls(self) -> int:
        return int(self.create.call_count + self.link.call_count + self.refund.call_count)
