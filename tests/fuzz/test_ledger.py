"""The judge of the fuzzing is judged: it finds what it is there to find."""

from typing import Any

import asyncpg
import httpx
import pytest

from fuzz.ledger import strays
from tests.support.replies import accepted

BIN = "920317450731"
ID = "12800627774"
REQUEST = "request-of-this-test"


@pytest.fixture
async def created(client: httpx.AsyncClient, shops: dict[int, str], wire: Any) -> dict[str, Any]:
    """A payment that reached the provider, and the stand-in's entry about it."""
    wire.get("/create/").mock(return_value=accepted(ID))
    body = {"shop_id": 121038, "amount": 100, "phone": "77015211545"}
    answer = await client.post("/payments/kaspi/create", json=body, headers={"X-Request-ID": REQUEST})
    return {"op": "create", "message": f"#{answer.json()['short_code']}", "organization_bin": BIN}


def told(status: int = 200, code: str | None = None, words: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [{"id": REQUEST, "status": status, "code": code, "words": words}]


async def test_call_of_a_good_request_is_no_stray(created: dict[str, Any], sql: asyncpg.Connection) -> None:
    assert await strays(sql, [created], told()) == []


@pytest.mark.parametrize(
    "answers", [told(422, "validation_failed"), told(401), told(404, "shop_not_configured"), []], ids=str
)
async def test_call_of_a_refused_request_is_a_stray(
    answers: list[dict[str, Any]], created: dict[str, Any], sql: asyncpg.Connection
) -> None:
    assert len(await strays(sql, [created], answers)) == 1


async def test_call_without_a_row_is_a_stray(sql: asyncpg.Connection) -> None:
    entry = {"op": "create", "message": "x #ABCDEF", "organization_bin": BIN}
    refund = {"op": "refund", "external_id": ID, "amount": "1.00", "organization_bin": BIN}
    assert len(await strays(sql, [entry, refund], told())) == 2


async def test_second_call_for_one_row_is_a_stray(created: dict[str, Any], sql: asyncpg.Connection) -> None:
    assert len(await strays(sql, [created, created], told())) == 1


async def test_call_with_another_bin_is_a_stray(created: dict[str, Any], sql: asyncpg.Connection) -> None:
    assert len(await strays(sql, [{**created, "organization_bin": "210440028324"}], told())) == 1


async def test_status_that_nobody_asked_for_is_a_stray(sql: asyncpg.Connection) -> None:
    entry = {"op": "status", "external_id": ID}
    assert len(await strays(sql, [entry], told())) == 1
    assert await strays(sql, [entry], told(words=(ID,))) == []
