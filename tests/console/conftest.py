"""People who are signed in to the console of the app, and payments for them to look at."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from payment_service.access.people import Role
from payment_service.money import Money
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services

PASSWORD = "peonies and roses"
SITE = "http://localhost"
FROM_OUR_PAGE = {"Sec-Fetch-Site": "same-origin"}
OWN, FOREIGN = 121038, 576631
SignIn = Callable[..., Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def browser(app: FastAPI, quick_hashes: None) -> Any:
    """Makes browsers that follow no redirect, keep cookies and say that their forms come from our pages."""
    clients: list[httpx.AsyncClient] = []

    def make(site: str = SITE, **headers: str) -> httpx.AsyncClient:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url=site,
            headers={"Accept-Language": "en", **FROM_OUR_PAGE, **headers},
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def sign_in(services: Services, browser: Callable[..., httpx.AsyncClient]) -> SignIn:
    """Makes a person of a role and returns their browser, signed in."""

    async def make(
        role: Role = Role.OPERATOR, *shops: int, name: str = "", refund_limit: str = ""
    ) -> httpx.AsyncClient:
        email = f"{name or role}@example.kz"
        limit = Money.from_tenge(refund_limit) if refund_limit else None
        seen = frozenset(shops) if shops else ALL_SHOPS
        person = await services.people.add(email, "Айгуль", role, seen, refund_limit=limit)
        token = await services.people.link(person.id)
        await services.people.set_password(str(token), PASSWORD)
        client = browser()
        answer = await client.post("/console/sign-in", data={"email": email, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return client

    return make


def text_of(answer: httpx.Response) -> str:
    """What a page says, without its markup."""
    return " ".join(re.sub(r"<[^>]+>", " ", answer.text).split())
