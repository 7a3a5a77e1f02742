"""A stand-in of Kaspi's own r3 API: TLS with client certificates, its paths and its envelope.

Behind it the stand-in proxy applies the calls, so that the service, which asks the proxy, sees the same payments.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.php.web import Answer, Request, as_json
from tests.support.rig import ACCESS_TOKEN, Rig

_OPERATIONS = {
    "/r3/v01/remote/create": "create",
    "/r3/v01/qr/create": "create-link",
    "/r3/v01/qr/create-link": "create-link",
    "/r3/v01/payment/return": "refund",
}


@dataclass
class Kaspi:
    """What it was asked, and what it will answer instead of the truth."""

    rig: Rig
    calls: list[Request] = field(default_factory=list)
    instead: "deque[Answer]" = field(default_factory=deque)
    """The next answers. The call is applied all the same when the answer is a drop."""

    async def respond(self, request: Request) -> Answer:
        """One call."""
        self.calls.append(request)
        if self.instead and not self.instead[0].drop:
            return self.instead.popleft()
        answer = as_json(await self._said(request))
        return self.instead.popleft() if self.instead else answer

    async def _said(self, request: Request) -> dict[str, Any]:
        path = request.path.rstrip("/")
        if path in _OPERATIONS and request.method == "POST":
            return await self._moved(path, request.said)
        if path.startswith("/r3/v01/payment/status/"):
            data = await self._proxy("status", externalId=path.rsplit("/", 1)[1])
            return _envelope(data, {"Status": data["data"].get("status")})
        if not self.rig.is_token_of(request.query["OrganizationBin"], request.query["DeviceToken"]):
            return {"StatusCode": -1501, "Message": "Device not found", "Data": None}
        if path == "/r3/v01/payment/details":
            return {"StatusCode": 0, "Message": None, "Data": {"QrPaymentId": request.query["QrPaymentId"]}}
        assert path == "/r3/v01/remote/client-info", path
        return {"StatusCode": 0, "Message": None, "Data": {"ClientName": "A. Buyer"}}

    async def _moved(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked = {
            "amount": str(body["Amount"]),
            "message": body.get("Comment", "-"),
            "organizationBin": body["OrganizationBin"],
            "deviceToken": body["DeviceToken"],
        }
        if "PhoneNumber" in body:
            asked["phone"] = body["PhoneNumber"]
        if "QrPaymentId" in body:
            asked["externalId"] = str(body["QrPaymentId"])
        said = await self._proxy(_OPERATIONS[path], **asked)
        data = said["data"] if isinstance(said["data"], dict) else {}
        if path.endswith("return"):
            return _envelope(said, {"ReturnOperationId": 900_000_001})
        made = int(data.get("externalId") or data.get("paymentId") or 0)
        if path.endswith("create-link"):
            return _envelope(said, {"PaymentId": made, "PaymentLink": data.get("paymentLink")})
        return _envelope(said, {"QrPaymentId": made})

    async def _proxy(self, operation: str, **asked: str) -> dict[str, Any]:
        query = {"access_token": ACCESS_TOKEN, **asked}
        answer = await self.rig.sandbox_client.get(f"/{operation}/", params=query)
        if not answer.content:
            return {"status": True, "data": {}}
        found: dict[str, Any] = answer.json()
        return found


def _envelope(said: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    if said.get("status") is True or said.get("success") is True:
        return {"StatusCode": 0, "Message": None, "Data": data}
    [(code, message)] = said["data"]["errors"].items()
    return {"StatusCode": int(code), "Message": message, "Data": None}
