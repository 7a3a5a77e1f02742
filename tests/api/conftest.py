"""Every answer of every test here is held against the OpenAPI document, and every log line against the secrets."""

import asyncio
import io
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from payment_service.access.service import Scope
from payment_service.observability import logs
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from tests.api.truth import Truth
from tests.conftest import ClientMaker
from tests.support.replies import GoodProxy

PHONE = "77015211545"
SHOP = 121038
_SECRETS = (
    "test-access-token",
    "-0000-4000-8000-000000000000",  # every device token of the tests
    "ciphertext",
)
_SHAPES = (
    re.compile(r"(?<![0-9A-Za-z])\+?[78]7[0-9]{9}(?![0-9A-Za-z])"),  # a whole phone
    re.compile(r"ps_[A-Za-z0-9_-]{20,}"),  # an API key
)


@pytest.fixture(autouse=True)
def log_text() -> Iterator[Callable[[], str]]:
    """All that is logged at DEBUG, as in production; no test may end with a secret in it."""
    handlers, level = logging.root.handlers, logging.root.level
    levels = {name: logging.getLogger(name).level for name in ("httpx", "httpcore", "uvicorn.access")}
    text = io.StringIO()
    logs.configure(readable=False, level="DEBUG")
    (handler,) = logging.root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(text)
    yield text.getvalue
    logging.root.handlers = handlers
    logging.root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
    structlog.reset_defaults()
    said = text.getvalue()
    found = [secret for secret in _SECRETS if secret in said]
    found += [match[0] for shape in _SHAPES for match in shape.finditer(said)]
    assert not found, f"a log line holds {found}"


_TRUTH: list[Truth] = []
"""That of the ordinary app, read once."""


@pytest.fixture
def truth(app: FastAPI) -> Truth:
    if not _TRUTH:
        _TRUTH.append(Truth(app.openapi()))
    return _TRUTH[0]


@pytest.fixture
def make_client(app: FastAPI, client_of: Callable[..., httpx.AsyncClient]) -> ClientMaker:
    """As the root's, of an app that a test can reach, with every answer checked."""

    def make(key: str | None = None, **headers: str) -> httpx.AsyncClient:
        return client_of(app, **({"Authorization": f"Bearer {key}"} if key else {}), **headers)

    return make


@pytest.fixture
async def client_of(truth: Truth) -> Any:
    """Makes clients of any app, with every answer checked: by the ordinary app's document, when none is given."""
    clients: list[httpx.AsyncClient] = []

    def make(app: FastAPI, document: Truth | None = None, **headers: str) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://service",
            headers=headers,
            event_hooks={"response": [(document or truth).check]},
        )
        clients.append(client)
        return client

    yield make
    await asyncio.gather(*(client.aclose() for client in clients))


KeyMaker = Callable[..., Any]


@pytest.fixture
def with_key(services: Services, make_client: ClientMaker) -> KeyMaker:
    """Makes a client whose key has these scopes (all, when none is named) and these shops."""

    async def make(*scopes: str, shops: list[int] | None = None, name: str = "tests") -> httpx.AsyncClient:
        made = await services.access.create(
            name, scopes or list(Scope), shops=ALL_SHOPS if shops is None else frozenset(shops)
        )
        return make_client(made.key)

    return make


def create_body(**more: Any) -> dict[str, Any]:
    return {"shop_id": SHOP, "amount": 100, "phone": PHONE, "message": "Test payment", **more}


def link_body(**more: Any) -> dict[str, Any]:
    return {"shop_id": SHOP, "amount": 100, "message": "Test payment", **more}


async def created(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    """A payment that the provider took on."""
    answer = await client.post("/payments/kaspi/create", json=create_body(**more))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def paid(client: httpx.AsyncClient, proxy: GoodProxy, **more: Any) -> dict[str, Any]:
    """A payment that the customer paid."""
    body = await created(client, **more)
    proxy.statuses[body["external_id"]] = "Processed"
    answer = await client.get(f"/payments/kaspi/status/{body['external_id']}")
    assert answer.json()["state"] == "paid"
    paid_body: dict[str, Any] = answer.json()
    return paid_body


def problem_of(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body of an answer that must be this problem."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code), body
    return body
