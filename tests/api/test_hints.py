"""Hints from outside: verified, never believed, harmless however often and late they come."""

import hashlib
import hmac
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from payment_service.api import hints, strict
from payment_service.rates import Rate, RateLimiter
from payment_service.services import Services
from payment_service.settings import Settings
from tests.api.conftest import created, paid, problem_of
from tests.support.replies import GoodProxy
from tests.support.second_provider import SecondProvider

SECRET = "a-secret-of-the-proxys-owner"
PATHS = ["/webhooks/kaspi", "/webhooks/provider/kaspi"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A proxy's owner who signs hints."""
    return settings.model_copy(update={"kaspi_webhook_secret": SecretStr(SECRET)})


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven shops, a good proxy, nobody who has hinted yet."""
    monkeypatch.setattr(hints, "limiter", RateLimiter(Rate(hints.PER_SECOND, 1)))


def signed(body: dict[str, Any], *, secret: str = SECRET, prefix: str = "sha256=") -> dict[str, Any]:
    return signed_text(json.dumps(body), secret=secret, prefix=prefix)


def signed_text(text: str, *, secret: str = SECRET, prefix: str = "sha256=") -> dict[str, Any]:
    content = text.encode()
    signature = hmac.new(secret.encode(), content, hashlib.sha256).hexdigest()
    return {"content": content, "headers": {"Content-Type": "application/json", "X-Signature": prefix + signature}}


def hint_of(external_id: str, **more: Any) -> dict[str, Any]:
    return {"payment_id": external_id, "status": "Processed", "amount": 100, "timestamp": int(time.time()), **more}


async def is_due(sql: asyncpg.Connection) -> bool:
    return bool(await sql.fetchval("SELECT next_check_at <= now() FROM payment"))


@pytest.mark.parametrize("path", PATHS)
async def test_hint_makes_the_worker_ask_now_and_changes_nothing_itself(
    path: str, client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    payment = await created(client)
    assert not await is_due(sql)
    answer = await client.post(path, **signed(hint_of(payment["external_id"])))
    assert (answer.status_code, answer.json()) == (202, {"accepted": True})
    assert await is_due(sql)
    assert (await client.get(f"/payments/{payment['id']}")).json()["state"] == "pending"


async def test_hint_of_another_provider_moves_no_payment_of_the_same_id(
    client: httpx.AsyncClient, services: Services, sql: asyncpg.Connection
) -> None:
    services.providers.register("second", SecondProvider(1), hint_secret="the-secret-of-the-second")
    payment = await created(client)
    hint = signed(hint_of(payment["external_id"]), secret="the-secret-of-the-second")
    assert (await client.post("/webhooks/provider/second", **hint)).status_code == 202
    assert (await client.post("/webhooks/provider/kaspi", **hint)).status_code == 401
    assert not await is_due(sql)


@pytest.mark.parametrize(
    "timestamp",
    [
        lambda now: now.timestamp(),
        lambda now: str(int(now.timestamp())),
        lambda now: now.isoformat(),
        lambda now: now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        lambda now: now.replace(tzinfo=None).isoformat(),
        lambda now: (now - timedelta(seconds=200)).isoformat(),
    ],
)
async def test_time_may_be_written_in_any_common_way(timestamp: Any, client: httpx.AsyncClient) -> None:
    hint = hint_of("12800000001", timestamp=timestamp(datetime.now(UTC)))
    assert (await client.post(PATHS[0], **signed(hint, prefix=""))).status_code == 202


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "another-secret-of-sixteen"},
        {"prefix": "sha1="},
        {"prefix": "00"},
    ],
)
async def test_hint_with_a_wrong_signature_is_refused(
    wrong: dict[str, str], client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    payment = await created(client)
    problem_of(
        await client.post(PATHS[0], **signed(hint_of(payment["external_id"]), **wrong)), 401, "hint_not_verified"
    )
    assert not await is_due(sql)


async def test_hint_without_a_signature_is_refused(client: httpx.AsyncClient) -> None:
    problem_of(await client.post(PATHS[0], json=hint_of("12800000001")), 401, "hint_not_verified")


@pytest.mark.parametrize("timestamp", [0, 1e29, -1e29, "yesterday", "2020-01-01T00:00:00Z", "9999999999"])
async def test_hint_of_another_time_is_refused(timestamp: Any, client: httpx.AsyncClient) -> None:
    answer = await client.post(PATHS[0], **signed(hint_of("12800000001", timestamp=timestamp)))
    problem_of(answer, 401, "hint_not_verified")


@pytest.mark.parametrize("ago_s", [310, -310])
async def test_hint_is_taken_for_five_minutes(ago_s: int, client: httpx.AsyncClient) -> None:
    for age_s, status in ((ago_s, 401), (ago_s * 0.9, 202)):
        hint = hint_of("12800000001", timestamp=time.time() - age_s)
        assert (await client.post(PATHS[0], **signed(hint))).status_code == status


async def test_unknown_ended_and_repeated_hints_do_no_harm(
    client: httpx.AsyncClient, proxy: GoodProxy, sql: asyncpg.Connection
) -> None:
    payment = await paid(client, proxy)
    before = await sql.fetch("SELECT * FROM payment")
    for external_id in ("999", payment["external_id"], payment["external_id"]):
        assert (await client.post(PATHS[0], **signed(hint_of(external_id)))).status_code == 202
    assert await sql.fetch("SELECT * FROM payment") == before


async def test_flood_is_limited(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "limiter", RateLimiter(Rate(3, 180)))
    answers = [await client.post(PATHS[0], **signed(hint_of("999"))) for _ in range(4)]
    assert [answer.status_code for answer in answers[:3]] == [202] * 3
    problem_of(answers[3], 429, "too_many_hints")
    assert answers[3].headers["retry-after"]


async def test_whoever_cannot_sign_uses_up_nothing(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "limiter", RateLimiter(Rate(1, 60)))
    for _ in range(3):
        await client.post(PATHS[0], json=hint_of("999"))
    assert (await client.post(PATHS[0], **signed(hint_of("999")))).status_code == 202


async def test_provider_without_a_secret_has_no_way_to_hint(client: httpx.AsyncClient) -> None:
    problem_of(await client.post("/webhooks/provider/halyk", **signed(hint_of("999"))), 404, "not_found")


ABSURD = [
    "1e999999999999",
    "-1e999999999999",
    "1e-999999999999",
    "1e31",
    "1E+0000000000000031",
    "9" * 41,
    "0." + "1" * 40,
]


@pytest.mark.parametrize("number", ABSURD, ids=lambda number: number[:20])
@pytest.mark.parametrize("field", ["timestamp", "amount", "payment_id", "never_heard_of"])
async def test_absurd_number_is_refused_while_it_is_read(field: str, number: str, client: httpx.AsyncClient) -> None:
    hint = hint_of("12800000001")
    hint.pop(field, None)
    content = json.dumps(hint)[:-1] + f', "{field}": {number}}}'
    answer = await client.post(PATHS[0], **signed_text(content))
    problem_of(answer, 422, "validation_failed")
    assert "a number has" in answer.json()["detail"]


@pytest.mark.parametrize(
    "content", ["{", "[" * 60_000, '{"timestamp": 1e999999999999}', ""], ids=lambda text: text[:20]
)
@pytest.mark.parametrize("signature", ["", "sha256=", "0" * 64, "sha256=" + "f" * 64, "x" * 64])
async def test_nothing_of_an_unsigned_hint_is_parsed(
    content: str, signature: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "exact_json", None)
    headers = {"Content-Type": "application/json", "X-Signature": signature}
    problem_of(await client.post(PATHS[0], content=content, headers=headers), 401, "hint_not_verified")


async def test_nothing_of_a_hint_too_many_is_parsed(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "limiter", RateLimiter(Rate(1, 60)))
    assert (await client.post(PATHS[0], **signed_text(""))).status_code == 422
    monkeypatch.setattr(strict, "exact_json", None)
    problem_of(await client.post(PATHS[0], **signed(hint_of("999"))), 429, "too_many_hints")
