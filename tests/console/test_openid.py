"""Coming in through an OpenID provider: who does, who does not, and being asked again before something is ended."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from payment_service.access import openid
from payment_service.access.attempts import OF_ADDRESS, SignInLimits
from payment_service.access.people import Role
from payment_service.access.service import Scope
from payment_service.access.sessions import Sessions
from payment_service.errors import InvalidInput
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from payment_service.settings import Settings
from tests.console.conftest import PASSWORD, SITE, SignIn, text_of
from tests.console.test_people import LONG_AGO
from tests.support.openid import CLIENT_ID, CLIENT_SECRET
from tests.support.processes import Process, clean_environment, free_port

BEGIN, CALLBACK = "/console/openid/sign-in", "/console/openid/callback"
EMAIL = "operator@example.kz"


@dataclass
class Provider:
    """The provider as a process, and what tests ask of it."""

    url: str
    client: httpx.AsyncClient

    async def next(self, sign: str = "", error: str = "", *, exchange: bool = False, **claims: Any) -> None:
        """Say what comes next; a claim that is None is left out. ``userinfo`` is stated apart from the ID token."""
        apart = {"userinfo": claims.pop("userinfo")} if "userinfo" in claims else {}
        wanted = {"claims": claims, "sign": sign, "exchange": exchange, **apart}
        wanted |= {"error": error} if error else {}
        (await self.client.post("/_next", json=wanted)).raise_for_status()

    async def asked(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = (await self.client.get("/_requests")).json()
        return found


@pytest.fixture(scope="session")
async def provider_process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Provider]:
    folder, port = tmp_path_factory.mktemp("openid"), free_port()
    words = ["tests.support.openid", "--port", str(port)]
    program = Process(words, environment=clean_environment(folder), folder=folder, name="openid", port=port)
    try:
        await program.ready("/health")
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=program.url, trust_env=False, limits=limits) as client:
            yield Provider(program.url, client)
    finally:
        await program.stop()


@pytest.fixture
async def provider(provider_process: Provider) -> Provider:
    """The provider, which says what is true."""
    await provider_process.next()
    return provider_process


@pytest.fixture
def settings(settings: Settings, provider: Provider) -> Settings:
    return settings.model_copy(
        update={
            "console_url": SITE,
            "console_oidc_issuer": provider.url,
            "console_oidc_client_id": CLIENT_ID,
            "console_oidc_client_secret": SecretStr(CLIENT_SECRET),
        }
    )


@pytest.fixture
async def account(services: Services) -> int:
    """An account without a password."""
    return (await services.people.add(EMAIL, "Айгуль", Role.ADMIN, ALL_SHOPS)).id


Browser = Callable[..., httpx.AsyncClient]


@dataclass
class Return:
    """A browser on its way back from the provider."""

    address: str
    attempt: str
    browser: httpx.AsyncClient

    async def arrive(self) -> httpx.Response:
        """Come back as a browser does from another site: with the cookie that is lax, without those that are strict."""
        self.browser.cookies.clear()
        self.browser.cookies.set("console-openid", self.attempt, domain="localhost.local", path="/console/openid")
        return await self.browser.get(self.address, headers={"Sec-Fetch-Site": "cross-site"})


@pytest.fixture
def go(browser: Browser, provider: Provider) -> Callable[..., Any]:
    """Goes to the provider by a link of ours, and asks it to send the browser back."""

    async def there(client: httpx.AsyncClient, path: str = BEGIN) -> Return:
        begun = await client.get(path)
        assert begun.status_code == 303, text_of(begun)
        where = begun.headers["location"]
        assert CLIENT_SECRET not in where
        back = await provider.client.get(where)
        [attempt] = re.findall("console-openid=([^;]+);", begun.headers["set-cookie"])
        return Return(back.headers["location"], attempt, browser())

    return there


async def sessions(sql: asyncpg.Connection) -> int:
    return int(await sql.fetchval("SELECT count(*) FROM person_session"))


# --- coming in


async def test_person_comes_in_without_a_password_and_the_record_says_how(
    account: int, browser: Browser, go: Callable[..., Any], provider: Provider, sql: asyncpg.Connection
) -> None:
    client = browser()
    form = await client.get("/console/sign-in?next=/console/tasks")
    assert "Sign in through 127.0.0.1" in text_of(form)
    back = await go(client, re.findall(rf'href="({BEGIN}[^"]+)"', form.text)[0])
    answer = await back.arrive()
    # A redirect would be part of the way from another site, on which a strict cookie stays at home.
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0;url=/console/tasks">' in answer.text
    cookies = answer.headers.get_list("set-cookie")
    assert re.fullmatch(r"console=[\w-]{43}; HttpOnly; Path=/console; SameSite=strict", cookies[0])
    assert cookies[1].startswith('console-openid=""; HttpOnly; Max-Age=0')
    assert (await back.browser.get("/console/tasks")).status_code == 200
    [asked, exchanged] = await provider.asked()
    wanted = {"response_type": "code", "scope": "openid email", "code_challenge_method": "S256"}
    assert wanted.items() <= asked.items()
    assert asked["redirect_uri"] == f"{SITE}{CALLBACK}"
    assert not {"prompt", "max_age"} & asked.keys()
    assert exchanged["code_verifier"] not in str(asked)
    entry = await sql.fetchrow("SELECT operation_type, actor, reason FROM payment_log ORDER BY id DESC LIMIT 1")
    assert tuple(entry) == ("sign-in", EMAIL, "OpenID Connect")


@pytest.mark.parametrize(
    ("site", "more"),
    [(SITE, "HttpOnly; Max-Age=600; Path=/console/openid; SameSite=lax"), ("https://pay.kz", "Secure")],
)
async def test_attempt_is_sealed_in_a_cookie_that_the_way_back_brings(browser: Browser, site: str, more: str) -> None:
    cookie = (await browser(site).get(f"{BEGIN}?next=/console/tasks")).headers["set-cookie"]
    assert re.match(r"(__Secure-)?console-openid=v2:", cookie)
    assert more in cookie
    assert "/console/tasks" not in cookie
    from_elsewhere = await browser(site).get(BEGIN, headers={"Sec-Fetch-Site": "cross-site"})
    assert from_elsewhere.headers["location"].startswith("/console/sign-in")


NOT_PROVEN, NOT_VERIFIED, NO_ACCOUNT = "does not prove who you are", "e-mail address is verified", "no account here"
DENIED = "did not let you in"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"sign": "forged"}, NOT_PROVEN),
        ({"sign": "unknown key"}, NOT_PROVEN),
        ({"sign": "none"}, NOT_PROVEN),
        ({"sign": "hmac"}, NOT_PROVEN),
        ({"aud": "another-client", "azp": CLIENT_ID}, NOT_PROVEN),
        ({"aud": [CLIENT_ID, "another-client"]}, NOT_PROVEN),
        ({"aud": [CLIENT_ID, "another-client"], "azp": "another-client"}, NOT_PROVEN),
        ({"iss": "https://id.example"}, NOT_PROVEN),
        ({"exp": 1}, NOT_PROVEN),
        ({"exp": None}, NOT_PROVEN),
        ({"nonce": "of another attempt"}, NOT_PROVEN),
        ({"nonce": None}, NOT_PROVEN),
        ({"email_verified": False}, NOT_VERIFIED),
        ({"email_verified": "true"}, NOT_VERIFIED),
        ({"email_verified": None}, NOT_VERIFIED),
        ({"email": None}, NOT_VERIFIED),
        ({"userinfo": {"sub": "42", "email": EMAIL}}, NOT_VERIFIED),
        (
            {"userinfo": {"sub": "42", "email": EMAIL, "email_verified": True}, "email": "nobody@example.kz"},
            NOT_VERIFIED,
        ),
        ({"userinfo": {"sub": "43", "email": EMAIL, "email_verified": True}}, NOT_PROVEN),
        ({"userinfo": {"email": EMAIL, "email_verified": True}}, NOT_PROVEN),
        ({"email": "operator@example.kz\x00"}, NOT_VERIFIED),
        ({"email": "nobody@example.kz"}, NO_ACCOUNT),
        ({"error": "access_denied"}, DENIED),
    ],
    ids=str,
)
async def test_who_is_not_vouched_for_stays_outside(
    account: int,
    browser: Browser,
    go: Callable[..., Any],
    provider: Provider,
    sql: asyncpg.Connection,
    wrong: dict[str, Any],
    told: str,
) -> None:
    await provider.next(**wrong)
    answer = await (await go(browser())).arrive()
    assert (answer.status_code, told in text_of(answer)) == (403, True), text_of(answer)
    assert "console=" not in answer.headers["set-cookie"]
    assert await sessions(sql) == 0
    assert await sql.fetchval("SELECT count(*) FROM person") == 1


async def test_address_may_be_stated_apart_from_the_id_token(
    account: int, browser: Browser, go: Callable[..., Any], provider: Provider, sql: asyncpg.Connection
) -> None:
    await provider.next(userinfo={"sub": "42", "email": EMAIL, "email_verified": True})
    assert (await (await go(browser())).arrive()).status_code == 200
    assert await sessions(sql) == 1


@pytest.mark.parametrize("exchange", [False, True])
async def test_keys_that_the_provider_exchanged_are_read_again(
    services: Services,
    account: int,
    browser: Browser,
    go: Callable[..., Any],
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    exchange: bool,
) -> None:
    monkeypatch.setattr("payment_service.access.openid_provider._RETRY_AFTER_S", 0)
    assert (await (await go(browser())).arrive()).status_code == 200
    await provider.next(exchange=exchange, sign="" if exchange else "forged")
    answer = await (await go(browser())).arrive()
    assert (answer.status_code, NOT_PROVEN in text_of(answer)) == ((200, False) if exchange else (403, True))


async def test_attempt_in_one_window_leaves_that_of_another_as_it_is(
    account: int, browser: Browser, go: Callable[..., Any], sql: asyncpg.Connection
) -> None:
    first, second = await go(browser()), await go(browser())
    answer = await replace(first, attempt=second.attempt).arrive()  # the later one took the cookie's place
    assert (answer.status_code, answer.headers.get("set-cookie")) == (400, None)
    assert (await second.arrive()).status_code == 200
    assert await sessions(sql) == 1


async def test_address_that_only_looks_like_that_of_an_account_is_another_one(
    services: Services, browser: Browser, go: Callable[..., Any], provider: Provider, sql: asyncpg.Connection
) -> None:
    await services.people.add("kate@example.kz", "Kate", Role.ADMIN, ALL_SHOPS)
    await provider.next(email="\N{KELVIN SIGN}ate@example.kz")
    answer = await (await go(browser())).arrive()
    assert (answer.status_code, NO_ACCOUNT in text_of(answer), await sessions(sql)) == (403, True, 0)
    await provider.next(email="KATE@Example.kz")
    assert (await (await go(browser())).arrive()).status_code == 200
    with pytest.raises(InvalidInput, match="email"):
        await services.people.add("\N{KELVIN SIGN}ate@example.kz", "Kate", Role.ADMIN, ALL_SHOPS)


async def test_account_that_has_ended_stays_outside_and_the_attempt_is_in_the_record(
    services: Services, account: int, browser: Browser, go: Callable[..., Any], sql: asyncpg.Connection
) -> None:
    await services.people.disable(account)
    answer = await (await go(browser())).arrive()
    assert (answer.status_code, NO_ACCOUNT in text_of(answer), await sessions(sql)) == (403, True, 0)
    reason = await sql.fetchval("SELECT reason FROM payment_log WHERE operation_type = 'sign-in-refused'")
    assert reason == "OpenID Connect: the account has ended"


async def test_attempt_begins_one_session(
    account: int, browser: Browser, go: Callable[..., Any], provider: Provider, sql: asyncpg.Connection
) -> None:
    back = await go(browser())
    assert (await back.arrive()).status_code == 200
    assert NOT_PROVEN in text_of(await back.arrive())  # the provider takes a code once
    [asked, *_] = await provider.asked()
    again = await provider.client.get("/authorize", params=asked)  # and may be asked for another with the same nonce
    answer = await replace(back, address=again.headers["location"]).arrive()
    assert (answer.status_code, "Begin once more" in text_of(answer), await sessions(sql)) == (400, True, 1)


async def test_attempt_of_another_browser_or_another_time_is_over(
    account: int, browser: Browser, go: Callable[..., Any], sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, theirs = await go(browser()), await go(browser())
    state = parse_qs(urlsplit(mine.address).query)["state"][0]
    for wrong in (
        replace(mine, attempt=theirs.attempt),
        replace(mine, attempt=""),
        replace(mine, attempt=mine.attempt[:-4] + "AAAA"),
        replace(mine, address=mine.address.replace(state, "")),
    ):
        answer = await wrong.arrive()
        assert (answer.status_code, "Begin once more" in text_of(answer)) == (400, True)
    began = time.time()
    for after_s in (openid.ATTEMPT_LASTS_S + 1, -openid.LEEWAY_S - 5):
        monkeypatch.setattr(time, "time", lambda moment=began + after_s: moment)
        assert (await mine.arrive()).status_code == 400
    assert await sessions(sql) == 0


@pytest.mark.parametrize(
    ("said", "instead", "told"),
    [
        ("iss=http", "iss=https", NOT_PROVEN),
        ("code=", "error=access_denied&code=", DENIED),
        ("code=", "word=", DENIED),
    ],
)
async def test_answer_of_another_provider_or_a_refusal_begins_no_session(
    account: int,
    browser: Browser,
    go: Callable[..., Any],
    sql: asyncpg.Connection,
    said: str,
    instead: str,
    told: str,
) -> None:
    back = await go(browser())
    answer = await replace(back, address=back.address.replace(said, instead)).arrive()
    assert (answer.status_code, told in text_of(answer), await sessions(sql)) == (403, True, 0)


async def test_attempts_are_limited(
    services: Services, app: FastAPI, account: int, browser: Browser, go: Callable[..., Any], provider: Provider
) -> None:
    limited = Sessions(services.database, SignInLimits(services.database))
    assert services.openid
    limits_openid = openid.OpenId(services.openid.settings, services.vault, limited)
    app.state.services = replace(services, sessions=limited, openid=limits_openid)
    back = await go(browser())
    assert (await back.arrive()).status_code == 200  # coming in uses none up
    answers = [(await back.arrive()).status_code for _ in range(OF_ADDRESS.quota + 1)]
    assert answers == [403] * OF_ADDRESS.quota + [429]


async def test_provider_that_is_away_is_told(services: Services, app: FastAPI, browser: Browser) -> None:
    assert services.openid
    nowhere = replace(services.openid.settings, issuer=f"http://127.0.0.1:{free_port()}")
    app.state.services = replace(services, openid=openid.OpenId(nowhere, services.vault, services.sessions))
    for _ in range(2):
        answer = await browser().get(BEGIN)
        assert (answer.status_code, "does not answer as it should" in text_of(answer)) == (503, True)


async def test_provider_that_hangs_is_waited_for_once_however_many_come(
    services: Services, app: FastAPI, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal called
        called += 1
        await reader.read()
        writer.close()

    assert services.openid
    monkeypatch.setattr("payment_service.access.openid_provider._RETRY_AFTER_S", 2)
    monkeypatch.setattr("payment_service.outbound.fetching.DEADLINE_S", 2)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        hanging = replace(services.openid.settings, issuer=issuer)
        app.state.services = replace(services, openid=openid.OpenId(hanging, services.vault, services.sessions))
        answers = await asyncio.gather(*(browser().get(BEGIN) for _ in range(5)))
    assert ([answer.status_code for answer in answers], called) == ([503] * 5, 1)


@pytest.mark.parametrize("document", [b"[" * 100_000, b'{"issuer": "ISSUER", "authorization_endpoint": "https://["}'])
async def test_provider_whose_documents_make_no_sense_is_told(
    services: Services, app: FastAPI, browser: Browser, document: bytes
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + document.replace(b"ISSUER", issuer.encode()))
        writer.close()

    assert services.openid
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        odd = replace(services.openid.settings, issuer=issuer)
        app.state.services = replace(services, openid=openid.OpenId(odd, services.vault, services.sessions))
        answered = await browser().get(BEGIN)
    assert (answered.status_code, "does not answer as it should" in text_of(answered)) == (503, True)


async def test_without_a_provider_there_is_nothing_of_it(services: Services, app: FastAPI, browser: Browser) -> None:
    app.state.services = replace(services, openid=None)
    assert "openid" not in (await browser().get("/console/sign-in")).text
    assert [(await browser().get(path)).status_code for path in (BEGIN, CALLBACK)] == [404, 404]


# --- being asked again


async def revoke(services: Services, client: httpx.AsyncClient) -> httpx.Response:
    """Do what needs to know who it is."""
    made = await services.access.create("bitrix", [Scope.PAYMENTS_READ], shops=ALL_SHOPS)
    return await client.post(f"/console/keys/{made.row.id}/revoke")


@pytest.mark.parametrize("ahead_s", [None, 3600], ids=["at no time", "in an hour"])
async def test_who_came_in_at_a_time_that_proves_nothing_is_asked_again_by_the_provider(
    services: Services,
    account: int,
    browser: Browser,
    go: Callable[..., Any],
    provider: Provider,
    sql: asyncpg.Connection,
    ahead_s: int | None,
) -> None:
    await provider.next(auth_time=None if ahead_s is None else int(time.time()) + ahead_s)
    back = await go(browser())
    await back.arrive()
    client = back.browser
    refused = await revoke(services, client)
    assert (refused.status_code, "Confirm first who you are." in text_of(refused)) == (422, True)
    assert 'type="password"' not in refused.text
    [link] = re.findall(r'href="(/console/openid/confirm\?next=[^"]+)"', refused.text)
    await provider.next()
    again = await go(client, link)
    [asked] = await provider.asked()
    assert (asked["prompt"], asked["max_age"]) == ("login", "0")
    answer = await again.arrive()
    assert f"url=/console/keys/{await sql.fetchval('SELECT id FROM api_key')}/revoke" in answer.text
    assert "console=" not in answer.headers["set-cookie"]
    assert (await revoke(services, client)).status_code == 303


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"auth_time": None}, "does not say that it asked you just now"),
        ({"auth_time": 1_700_000_000}, "does not say that it asked you just now"),
        ({"auth_time": 10**12}, "does not say that it asked you just now"),
        ({"auth_time": 10**400}, "does not say that it asked you just now"),
        ({"auth_time": True}, "does not say that it asked you just now"),
        ({"email": "dana@example.kz"}, "somebody else"),
    ],
    ids=str,
)
async def test_session_is_not_proved_by_an_old_answer_or_by_another_person(
    services: Services,
    sign_in: SignIn,
    go: Callable[..., Any],
    provider: Provider,
    sql: asyncpg.Connection,
    claims: dict[str, Any],
    told: str,
) -> None:
    client = await sign_in(Role.ADMIN, name="operator")
    await services.people.add("dana@example.kz", "Дана", Role.ADMIN, ALL_SHOPS)
    await sql.execute(LONG_AGO)
    await provider.next(**claims)
    answer = await (await go(client, "/console/openid/confirm")).arrive()
    assert (answer.status_code, told in text_of(answer)) == (403, True)
    refused = await revoke(services, client)
    assert (refused.status_code, 'type="password"' in refused.text) == (422, True)  # who has one may give it, too
    assert (await client.post(str(refused.url), data={"password": PASSWORD})).status_code == 303


async def test_session_that_ended_meanwhile_is_not_proved(
    services: Services, sign_in: SignIn, go: Callable[..., Any]
) -> None:
    client = await sign_in(Role.ADMIN, name="operator")
    back = await go(client, "/console/openid/confirm")
    await services.people.sign_out((await services.people.all())[0].id)
    assert (await back.arrive()).status_code == 400
    assert (await client.get("/console/openid/confirm")).headers["location"].startswith("/console/sign-in")
