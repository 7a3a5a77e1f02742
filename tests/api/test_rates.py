"""Who asks too often is told when to ask again, before the database is used; nobody pays for another."""

import asyncio
import re
from unittest.mock import patch

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from payment_service.access.service import Access
from payment_service.api.throttle import Throttle
from payment_service.rates import Rate, network_of
from payment_service.services import Services
from payment_service.settings import Settings
from tests.api.conftest import KeyMaker, create_body, created, problem_of
from tests.api.test_hints import SECRET, hint_of, signed
from tests.conftest import ClientMaker
from tests.support.books import change_by_hand
from tests.support.replies import GoodProxy

QUOTA = 20
"""Per ten seconds: two per second in the settings."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Low rates."""
    return settings.model_copy(
        update={
            "rate_limits": True,
            "rate_per_key": QUOTA // 10,
            "rate_per_address": QUOTA // 10,
            "phone_invoices_per_minute": 2,
            "phone_invoices_per_day": 3,
            "kaspi_webhook_secret": SecretStr(SECRET),
        }
    )


@pytest.fixture(autouse=True)
def _world(shops: dict[int, str], proxy: GoodProxy, services: Services, app: FastAPI) -> None:
    """Seven shops, a good proxy, and limits for which no time passes, however slow this machine is."""
    throttle = app.state.throttle
    for limiter in (throttle._keys, throttle._addresses, *services.payments.phones._limiters):
        limiter._clock = lambda: 1000.0


def refused(answer: httpx.Response, policy: str) -> None:
    body = problem_of(answer, 429, "rate_limited")
    wait = answer.headers["retry-after"]
    assert wait.isdigit()
    assert int(wait) >= 1
    assert answer.headers["ratelimit"] == f'"{policy}";r=0;t={wait}'
    assert re.fullmatch(rf'"{policy}";q=\d+;w=\d+', answer.headers["ratelimit-policy"])
    assert "Try again in" in body["detail"]


async def test_key_that_asks_too_often_is_told_when_to_ask_again(client: httpx.AsyncClient) -> None:
    answers = [await client.get("/payments") for _ in range(QUOTA + 2)]
    # The first one paid with the address: the key was not known yet.
    assert [answer.status_code for answer in answers[: QUOTA + 1]] == [200] * (QUOTA + 1)
    refused(answers[-1], "key")


async def test_one_key_does_not_pay_for_another(client: httpx.AsyncClient, with_key: KeyMaker) -> None:
    other = await with_key(name="other")
    for _ in range(QUOTA + 2):
        await client.get("/payments")
    assert (await other.get("/payments")).status_code == 200


async def test_guessed_keys_are_refused_without_the_database_and_keep_no_good_key_out(
    client: httpx.AsyncClient, make_client: ClientMaker
) -> None:
    assert (await client.get("/payments")).status_code == 200
    guesses = [make_client(f"ps_guess-{number}") for number in range(QUOTA + 5)]
    answers = [await guess.get("/payments") for guess in guesses[:QUOTA]]
    assert {answer.status_code for answer in answers} == {401}
    with patch.object(Access, "caller_with", side_effect=AssertionError("the database was asked")):
        for guess in guesses[QUOTA:]:
            refused(await guess.get("/payments"), "address")
    assert (await client.get("/payments")).status_code == 200


async def test_key_that_was_revoked_is_a_guess_again(
    client: httpx.AsyncClient, sql: asyncpg.Connection, app: FastAPI
) -> None:
    await client.get("/payments")
    await change_by_hand(sql, "api_key:1", "UPDATE api_key SET revoked_at = now()")
    answers = [await client.get("/payments") for _ in range(QUOTA + 2)]
    assert {answer.status_code for answer in answers[: QUOTA + 1]} == {401}
    refused(answers[-1], "address")
    assert not app.state.throttle._known


async def test_requests_without_a_key_are_limited_by_address_and_health_is_not(make_client: ClientMaker) -> None:
    nobody = make_client()
    answers = [await nobody.get("/payments") for _ in range(QUOTA + 1)]
    refused(answers[-1], "address")
    for path in ("/health", "/api/health", "/health/ready"):
        assert (await nobody.get(path)).status_code == 200


async def test_valid_keys_and_signatures_cost_their_address_nothing(
    client: httpx.AsyncClient, make_client: ClientMaker
) -> None:
    for _ in range(QUOTA * 2):
        assert (await make_client().post("/webhooks/kaspi", **signed(hint_of("999")))).status_code == 202
    for _ in range(QUOTA):
        assert (await make_client().get("/payments")).status_code == 401


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("unix-socket", "unix-socket"),
        ("x" * 5000, "x" * 100),
    ],
)
def test_address_is_counted_as_what_one_customer_has(host: str, counted: str) -> None:
    assert network_of(host) == counted


# --- invoices to a phone


async def test_phone_gets_no_more_invoices_than_it_may(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    answers = [await client.post(CREATE, json=create_body(amount=amount)) for amount in (100, 101, 102)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused(answers[-1], "phone")
    assert "7701" not in answers[-1].text
    assert proxy.money_calls == 2


async def test_refused_invoice_leaves_nothing_behind_and_binds_no_key(
    client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    for amount in (100, 101):
        await client.post(CREATE, json=create_body(amount=amount))
    key = {"Idempotency-Key": "the-third-invoice"}
    refused(await client.post(CREATE, json=create_body(amount=102), headers=key), "phone")
    assert await sql.fetchval("SELECT count(*) FROM payment") == 2
    assert await sql.fetchval("SELECT count(*) FROM idempotency_claim") == 0
    other = create_body(amount=102, phone="77015550000")
    assert (await client.post(CREATE, json=other, headers=key)).status_code == 200


async def test_replay_is_no_new_invoice(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    key = {"Idempotency-Key": "the-first-invoice"}
    first = await client.post(CREATE, json=create_body(amount=100), headers=key)
    await client.post(CREATE, json=create_body(amount=101))
    for _ in range(4):
        again = await client.post(CREATE, json=create_body(amount=100), headers=key)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json()["id"] == first.json()["id"]
        assert (await client.post(CREATE, json=create_body(amount=101))).status_code == 200
    assert proxy.money_calls == 2


async def test_invoice_that_was_not_sent_does_not_count(client: httpx.AsyncClient, proxy: GoodProxy) -> None:
    proxy.create.mock(side_effect=httpx.ConnectError("refused"))
    for amount in range(100, 105):
        problem_of(await client.post(CREATE, json=create_body(amount=amount)), 503, "not_sent")


async def test_links_and_other_phones_are_not_counted_with_it(client: httpx.AsyncClient) -> None:
    for amount in (100, 101):
        await client.post(CREATE, json=create_body(amount=amount))
    link = {name: value for name, value in create_body(amount=200).items() if name != "phone"}
    for amount in (200, 201, 202):
        assert (await client.post(f"{CREATE}-link", json={**link, "amount": amount})).status_code == 200
    assert (await client.post(CREATE, json=create_body(phone="77015550001"))).status_code == 200


CREATE = "/payments/kaspi/create"


# --- readings of a status


async def test_status_asked_for_many_times_within_a_second_is_read_once(
    client: httpx.AsyncClient, proxy: GoodProxy, services: Services
) -> None:
    services.reading.shared._shared_for_s = 60  # a second, however slow this machine is
    payment = await created(client)
    path = f"/payments/kaspi/status/{payment['external_id']}"
    answers = await asyncio.gather(*(client.get(path) for _ in range(8)))
    answers += [await client.get(path)]
    assert {answer.status_code for answer in answers} == {200}
    assert proxy.status.call_count == 1


async def test_status_is_read_again_after_a_second(
    client: httpx.AsyncClient, proxy: GoodProxy, services: Services
) -> None:
    payment = await created(client)
    path = f"/payments/kaspi/status/{payment['external_id']}"
    services.reading.shared._shared_for_s = 0.05
    await client.get(path)
    proxy.statuses[payment["external_id"]] = "Processed"
    await asyncio.sleep(0.1)
    assert (await client.get(path)).json()["state"] == "paid"


async def test_right_to_see_a_payment_is_not_shared_with_its_reading(
    client: httpx.AsyncClient, with_key: KeyMaker, proxy: GoodProxy
) -> None:
    payment = await created(client)
    foreign = await with_key(shops=[576631], name="foreign")
    path = f"/payments/kaspi/status/{payment['external_id']}"
    mine, theirs = await asyncio.gather(client.get(path), foreign.get(path))
    assert mine.status_code == 200
    problem_of(theirs, 404, "payment_not_found")
    problem_of(await foreign.get(path), 404, "payment_not_found")
    stranger = "/payments/kaspi/status/999000999"
    proxy.statuses["999000999"] = "Processed"
    assert (await client.get(stranger)).status_code == 200
    problem_of(await foreign.get(stranger), 404, "payment_not_found")


def test_keys_that_are_known_are_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who signs hints may present any key, and what comes with a signature is known."""
    monkeypatch.setattr("payment_service.api.throttle._KNOWN_KEYS", 2)
    throttle = Throttle(Rate(9, 1), Rate(9, 1))
    for key in "abc":
        throttle.observe(throttle.admit(key, ("192.0.2.1", 1)), verified=True, refused=False)
    assert [throttle.admit(key, ("192.0.2.1", 1)).address for key in "abc"] == ["192.0.2.1", None, None]
