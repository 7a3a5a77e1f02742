"""How the tests of the stand-in call it."""

from typing import Any

import httpx

from kaspi_sandbox import SandboxConfig, create_app

SELLER = "920317450731"
OTHER_SELLER = "860214400107"
TOKEN = "11111111-aaaa-4aaa-8aaa-000000000001"
SECOND_TOKEN = "11111111-aaaa-4aaa-8aaa-000000000002"
OTHER_TOKEN = "22222222-bbbb-4bbb-8bbb-000000000001"
ACCESS_TOKEN = "the-access-token"
MERCHANTS = {SELLER: {TOKEN, SECOND_TOKEN}, OTHER_SELLER: {OTHER_TOKEN}}


def config(**changes: Any) -> SandboxConfig:
    settings: dict[str, Any] = {"access_token": ACCESS_TOKEN, "merchants": MERCHANTS} | changes
    return SandboxConfig(**settings)


class Caller:
    """Calls the proxy as a seller's client does; a parameter given as None is left out."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def call(self, op: str, **changes: str | None) -> httpx.Response:
        query = {"access_token": ACCESS_TOKEN, "organizationBin": SELLER, "deviceToken": TOKEN, **changes}
        return await self.client.get(f"/{op}/", params={name: text for name, text in query.items() if text is not None})

    async def create(self, **changes: str | None) -> httpx.Response:
        return await self.call("create", **{"phone": "77015211545", "amount": "100", "message": "Test", **changes})

    async def link(self, **changes: str | None) -> httpx.Response:
        return await self.call("create-link", **{"amount": "100", "message": "Test", **changes})

    async def status(self, external_id: str) -> str:
        answer = await self.call("status", externalId=external_id, organizationBin=None, deviceToken=None)
        word: str = answer.json()["data"]["status"]
        return word

    async def refund(self, external_id: str, amount: str, **changes: str | None) -> httpx.Response:
        return await self.call("refund", **{"externalId": external_id, "amount": amount, **changes})

    async def paid(self, **changes: str | None) -> str:
        """Make a payment that is already paid and give its id."""
        return str((await self.create(**{"phone": "77010009011", **changes})).json()["data"]["externalId"])

    async def queue(self, op: str, course: str, times: int = 1) -> httpx.Response:
        return await self.client.post("/_rules", json={"op": op, "course": course, "times": times})

    async def ledger(self, **asked: str) -> list[dict[str, Any]]:
        answer = await self.client.get("/_ledger", params=asked)
        assert answer.status_code == 200, answer.text
        entries: list[dict[str, Any]] = answer.json()
        return entries


def code_of(answer: httpx.Response) -> str:
    """The one code of a refusal."""
    envelope = answer.json()
    assert envelope.get("status", envelope.get("success")) is False
    (code,) = envelope["data"]["errors"]
    return str(code)


def client_of(settings: SandboxConfig) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(settings)), base_url="http://127.0.0.1")
