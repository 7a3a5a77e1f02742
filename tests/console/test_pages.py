"""The console's pages, asked over HTTP: who may do what, what a form may be sent by, and that money goes back once."""

import asyncio
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
import respx
from fastapi import FastAPI
from starlette.routing import Route

from payment_service.access.attempts import OF_ACCOUNT, SignInLimits
from payment_service.access.people import Role
from payment_service.access.sessions import Sessions
from payment_service.console import app as console
from payment_service.payments.models import Payment
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import Services
from tests.console.conftest import FOREIGN, OWN, PASSWORD, SignIn, text_of
from tests.console.test_people import LONG_AGO
from tests.support.asking import TESTS, ask
from tests.support.database import without_laws
from tests.support.replies import GoodProxy

REASON = "Seen in the cabinet by Aigul"


async def paid(services: Services, proxy: GoodProxy, shop_id: int = OWN, tenge: int = 100, **more: Any) -> Payment:
    """A payment that its customer paid."""
    payment = (await services.payments.create(ask(tenge, shop_id=shop_id, **more))).payment
    proxy.statuses[str(payment.external_id)] = "Processed"
    return await services.reading.refresh(payment)


async def unknown(services: Services, wire: respx.MockRouter, proxy: GoodProxy, **more: Any) -> Payment:
    """A payment whose outcome nobody knows."""
    proxy.create.mock(return_value=httpx.Response(500))
    payment = (await services.payments.create(ask(**more))).payment
    assert payment.state == "unknown"
    return payment


def refund_form(seen: int = 0, amount: str = "", *, left: str = "100", **more: str) -> dict[str, str]:
    how = "part" if amount else "all"
    return {"seen": str(seen), "how": how, "amount": amount or left, "reason": "roses had wilted", **more}


# --- coming in


@pytest.mark.parametrize("path", ["", "/tasks", f"/payments/{UUID(int=1)}", f"/payments/{UUID(int=1)}/refund"])
async def test_nobody_sees_a_page_without_a_session(browser: Callable[..., httpx.AsyncClient], path: str) -> None:
    client = browser()
    answer = await client.get(f"/console{path}")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/console/sign-in")
    made_up = await client.get(f"/console{path}", headers={"Cookie": "console=" + "x" * 43})
    assert made_up.status_code == 303


async def test_page_that_was_wanted_is_shown_after_the_sign_in(
    services: Services, shops: dict[int, str], browser: Callable[..., httpx.AsyncClient], sign_in: SignIn
) -> None:
    await sign_in()
    client = browser()
    where = (await client.get("/console/tasks")).headers["location"]
    form = await client.get(where)
    assert 'name="next" value="/console/tasks"' in form.text
    data = {"email": "operator@example.kz", "password": PASSWORD, "next": "/console/tasks"}
    answer = await client.post("/console/sign-in", data=data)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/tasks")
    assert (await client.get("/console/tasks")).status_code == 200


async def test_sign_in_leads_to_no_other_site(sign_in: SignIn, browser: Callable[..., httpx.AsyncClient]) -> None:
    await sign_in()
    evil = ["https://evil.example", "//evil.example", "/console/../evil", "/console//evil.example", "/docs", "\\evil"]
    evil += ["/consolex", "/console?//evil.example", "/console/tasks?a=<b>", "?", "/console//?a=b"]
    for wanted in evil:
        data = {"email": "operator@example.kz", "password": PASSWORD, "next": wanted}
        assert (await browser().post("/console/sign-in", data=data)).headers["location"] == "/console", wanted


async def test_filters_of_a_page_survive_the_sign_in_and_another_language(
    sign_in: SignIn, browser: Callable[..., httpx.AsyncClient]
) -> None:
    client = await sign_in()
    wanted = "/console/deliveries?q=17+500&state=dead&state=waiting"
    where = (await browser().get(wanted)).headers["location"]
    form = await browser().get(where)
    [kept] = re.findall(r'name="next" value="([^"]+)"', form.text)
    data = {"email": "operator@example.kz", "password": PASSWORD, "next": kept.replace("&amp;", "&")}
    assert (await browser().post("/console/sign-in", data=data)).headers["location"] == wanted
    kazakh = await client.get("/console/language/kk", headers={"Referer": f"http://localhost{wanted}"})
    assert kazakh.headers["location"] == wanted


async def test_wrong_password_comes_back_with_a_sentence(
    sign_in: SignIn, browser: Callable[..., httpx.AsyncClient]
) -> None:
    await sign_in()
    answer = await browser().post("/console/sign-in", data={"email": "operator@example.kz", "password": "wrong"})
    assert answer.status_code == 403
    assert "is not right" in text_of(answer)
    assert "set-cookie" not in answer.headers


async def test_too_many_attempts_are_told_with_how_long_to_wait(
    services: Services, app: FastAPI, sign_in: SignIn, browser: Callable[..., httpx.AsyncClient]
) -> None:
    await sign_in()
    app.state.services = replace(services, sessions=Sessions(services.database, SignInLimits(services.database)))
    data = {"email": "operator@example.kz", "password": "wrong"}
    answers = [await browser().post("/console/sign-in", data=data) for _ in range(OF_ACCOUNT.quota + 1)]
    assert [answer.status_code for answer in answers] == [403] * OF_ACCOUNT.quota + [429]
    assert re.search(r"Too many attempts\. Try again in \d+ s\.", text_of(answers[-1]))


@pytest.mark.parametrize(
    ("site", "cookie"),
    [
        ("http://localhost:8015", r"console=[\w-]{43}; HttpOnly; Path=/console; SameSite=strict"),
        ("http://pay.example.kz", r"__Secure-console=[\w-]{43}; HttpOnly; Path=/console; SameSite=strict; Secure"),
        ("https://localhost", r"__Secure-console=[\w-]{43}; HttpOnly; Path=/console; SameSite=strict; Secure"),
    ],
)
async def test_cookie_is_strict_and_leaves_this_machine_over_tls_only(
    sign_in: SignIn, browser: Callable[..., httpx.AsyncClient], site: str, cookie: str
) -> None:
    await sign_in()
    data = {"email": "operator@example.kz", "password": PASSWORD}
    answer = await browser(site).post("/console/sign-in", data=data)
    assert re.fullmatch(cookie, answer.headers["set-cookie"]), answer.headers["set-cookie"]


async def test_signing_out_ends_the_session_and_not_only_the_cookie(sign_in: SignIn) -> None:
    client = await sign_in()
    token = client.cookies["console"]
    assert (await client.post("/console/sign-out")).status_code == 303
    assert (await client.get("/console", headers={"Cookie": f"console={token}"})).status_code == 303


async def test_live_part_sends_whose_session_ended_to_the_sign_in(sign_in: SignIn, services: Services) -> None:
    client = await sign_in()
    [person] = await services.people.all()
    await services.people.sign_out(person.id)
    path = f"/console/payments/{UUID(int=1)}"
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://localhost{path}"}
    answer = await client.get(f"{path}/live", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"].startswith("/console/sign-in?next=%2Fconsole%2Fpayments%2F")


async def test_link_in_a_message_opens_with_the_session_that_is_there(sign_in: SignIn) -> None:
    client = await sign_in()
    token = client.cookies["console"]
    client.cookies.clear()  # a strict cookie stays behind when another site leads here
    first = await client.get("/console/tasks", headers={"Sec-Fetch-Site": "cross-site"})
    assert first.status_code == 200
    assert '<meta http-equiv="refresh" content="0">' in first.text
    assert (await client.get("/console/tasks", headers={"Cookie": f"console={token}"})).status_code == 200


async def test_one_time_link_is_used_by_its_form_alone_and_signs_in(
    services: Services, browser: Callable[..., httpx.AsyncClient]
) -> None:
    person = await services.people.add("a@b.kz", "Айгуль", Role.ADMIN, ALL_SHOPS)
    path = f"/console/link/{await services.people.link(person.id)}"
    client = browser()
    for _ in range(2):  # mail programs look at links as well
        assert (await client.get(path)).status_code == 200
    differ = await client.post(path, data={"password": PASSWORD, "again": "another one"})
    weak = await client.post(path, data={"password": "short", "again": "short"})
    assert (differ.status_code, weak.status_code) == (422, 422)
    assert (await client.post(path, data={"password": PASSWORD, "again": PASSWORD})).status_code == 303
    assert (await client.get("/console")).status_code == 200
    assert (await client.get(path)).status_code == 404
    assert (await client.post(path, data={"password": PASSWORD, "again": PASSWORD})).status_code == 404


# --- what a form may be sent by


async def test_change_comes_from_a_page_of_ours(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    del client.headers["Sec-Fetch-Site"]
    path = f"/console/payments/{payment.id}/refund"
    foreign: list[dict[str, str]] = [
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {},
    ]
    for headers in foreign:
        assert (await client.post(path, data=refund_form(amount="1"), headers=headers)).status_code == 403, headers
    assert proxy.refund.call_count == 0
    for seen, headers in enumerate(({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"})):
        answer = await client.post(path, data=refund_form(seen, amount="1"), headers=headers)
        assert answer.headers["location"].endswith("done=refunded")


# --- roles and shops

DELIVERING = {Role.OPERATOR, Role.ADMIN}
PAGES: dict[str, tuple[str, str, Collection[Role]]] = {
    "GET search": ("GET", "", set(Role)),
    "GET tasks": ("GET", "/tasks", set(Role)),
    # --- day and month
    "GET sums": ("GET", "/sums", set(Role)),
    "GET sums.csv": ("GET", "/sums.csv", set(Role)),
    # --- webhooks and messages, keys and people
    "POST replay payment": ("POST", "/payments/{id}/replay", DELIVERING),
    "GET webhooks": ("GET", "/webhooks", DELIVERING),
    "GET new webhook": ("GET", "/webhooks/new", {Role.ADMIN}),
    "POST new webhook": ("POST", "/webhooks/new", {Role.ADMIN}),
    "GET switch": ("GET", "/webhooks/{id}/switch", {Role.ADMIN}),
    "POST switch": ("POST", "/webhooks/{id}/switch", {Role.ADMIN}),
    "GET replay many": ("GET", "/webhooks/{id}/replay", DELIVERING),
    "POST replay many": ("POST", "/webhooks/{id}/replay", DELIVERING),
    "GET deliveries": ("GET", "/deliveries", DELIVERING),
    "GET delivery": ("GET", "/deliveries/{id}", DELIVERING),
    "POST replay one": ("POST", "/deliveries/{id}/replay", DELIVERING),
    "GET messages": ("GET", "/messages", DELIVERING),
    "GET keys": ("GET", "/keys", {Role.ADMIN}),
    "GET new key": ("GET", "/keys/new", {Role.ADMIN}),
    "POST new key": ("POST", "/keys/new", {Role.ADMIN}),
    "GET revoke": ("GET", "/keys/{id}/revoke", {Role.ADMIN}),
    "POST revoke": ("POST", "/keys/{id}/revoke", {Role.ADMIN}),
    "GET people": ("GET", "/people", {Role.ADMIN}),
    "GET new person": ("GET", "/people/new", {Role.ADMIN}),
    "POST new person": ("POST", "/people/new", {Role.ADMIN}),
    "GET person": ("GET", "/people/{id}", {Role.ADMIN}),
    "POST person": ("POST", "/people/{id}", {Role.ADMIN}),
    "GET payment": ("GET", "/payments/{id}", set(Role)),
    "GET live": ("GET", "/payments/{id}/live", set(Role)),
    "POST ask": ("POST", "/payments/{id}/ask", set(Role)),
    "GET refund": ("GET", "/payments/{id}/refund", {Role.FLORIST, Role.OPERATOR, Role.ADMIN}),
    "POST refund": ("POST", "/payments/{id}/refund", {Role.FLORIST, Role.OPERATOR, Role.ADMIN}),
    "GET settle": ("GET", "/payments/{id}/settle", {Role.OPERATOR, Role.ADMIN}),
    "POST settle": ("POST", "/payments/{id}/settle", {Role.OPERATOR, Role.ADMIN}),
    "GET undo": ("GET", "/payments/{id}/undo", {Role.OPERATOR, Role.ADMIN}),
    "POST undo": ("POST", "/payments/{id}/undo", {Role.OPERATOR, Role.ADMIN}),
    "POST settle refund": ("POST", "/payments/{id}/refunds/{id}/settle", {Role.OPERATOR, Role.ADMIN}),
    # sellers, the record, health
    "GET sellers": ("GET", "/sellers", set(Role)),
    "GET seller": ("GET", "/sellers/{id}", set(Role)),
    "GET route": ("GET", "/sellers/{id}/route", {Role.ADMIN}),
    "POST route": ("POST", "/sellers/{id}/route", {Role.ADMIN}),
    "GET change": ("GET", "/sellers/{id}/changes/{id}", {Role.ADMIN}),
    "POST change": ("POST", "/sellers/{id}/changes/{id}", {Role.ADMIN}),
    "GET test payment": ("GET", "/sellers/{id}/test", {Role.OPERATOR, Role.ADMIN}),
    "POST test payment": ("POST", "/sellers/{id}/test", {Role.OPERATOR, Role.ADMIN}),
    "GET record": ("GET", "/record", {Role.OPERATOR, Role.ACCOUNTANT, Role.ADMIN}),
    "GET record as CSV": ("GET", "/record.csv", {Role.OPERATOR, Role.ACCOUNTANT, Role.ADMIN}),
    "GET health": ("GET", "/health", {Role.OPERATOR, Role.ADMIN}),
    "GET confirm": ("GET", "/openid/confirm", set(Role)),
    "POST undo refund": ("POST", "/payments/{id}/refunds/{id}/undo", {Role.OPERATOR, Role.ADMIN}),
}


@pytest.mark.parametrize("role", Role)
async def test_every_page_is_for_the_roles_that_the_table_names(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, role: Role
) -> None:
    payment = await paid(services, proxy)
    client = await (sign_in(role, OWN) if role == Role.FLORIST else sign_in(role))
    for name, (method, path, roles) in PAGES.items():
        data = refund_form(amount="1") if path.endswith("/refund") else {"reason": REASON, "found": "failed"}
        answer = await client.request(
            method, f"/console{path.format(id=payment.id)}", data=data if method == "POST" else None
        )
        assert (answer.status_code == 403) == (role not in roles), (name, answer.status_code)
        assert answer.status_code < 500, (name, answer.text)
    page = await client.get(f"/console/payments/{payment.id}")
    assert ("Refund…" in page.text) == (role != Role.ACCOUNTANT)


def test_every_page_has_its_row() -> None:
    public = {"/sign-in", "/sign-out", "/link/{token}", "/language/{code}", "/static/{name}", "/{rest:path}"}
    public |= {"/openid/sign-in", "/openid/callback", "/api/{rest:path}"}
    served = {
        (method, re.sub(r"\{\w+\}", "{id}", route.path.removeprefix("/console")))
        for route in console._router.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
        if route.path.removeprefix("/console") not in public
    }
    told = {(method, path) for method, path, _ in PAGES.values()}
    refunds = {("GET", f"/payments/{{id}}/refunds/{{id}}/{what}") for what in ("settle", "undo")}
    assert served == told | refunds


async def test_florist_sees_and_refunds_only_their_own(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    own = await paid(services, proxy, OWN, order_id="own-1")
    foreign = await paid(services, proxy, FOREIGN, order_id="foreign-1")
    client = await sign_in(Role.FLORIST, OWN)
    first = (await client.get("/console")).text
    assert str(own.id) in first
    assert str(foreign.id) not in first
    for wanted in ("foreign-1", str(foreign.external_id), str(foreign.short_code), str(foreign.id)):
        found = await client.get("/console", params={"q": wanted})
        assert (found.status_code, "Nothing found" in found.text) == (200, True), wanted
    missing = UUID(int=7)
    for method, path in (("GET", ""), ("GET", "/live"), ("GET", "/refund"), ("POST", "/refund"), ("POST", "/ask")):
        answers = [
            await client.request(
                method, f"/console/payments/{one}{path}", data=refund_form() if method == "POST" else None
            )
            for one in (foreign.id, missing)
        ]
        assert [answer.status_code for answer in answers] == [404, 404], path
        assert answers[0].text == answers[1].text
    assert proxy.refund.call_count == 0
    await client.post(f"/console/payments/{own.id}/refund", data=refund_form())
    assert proxy.refund.call_count == 1


async def test_florist_of_no_shop_sees_nothing(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    payment = await paid(services, proxy)
    client = await sign_in(Role.FLORIST, OWN)
    async with without_laws(sql):
        await sql.execute("UPDATE person SET shops = '{}'")
    page = await client.get("/console")
    assert "No payments yet." in page.text
    assert (await client.get(f"/console/payments/{payment.id}")).status_code == 404


# --- search


async def test_exact_hit_opens_the_payment(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment = await paid(services, proxy, order_id="12345")
    await paid(services, proxy, tenge=55, order_id="12346")
    client = await sign_in()
    names = [payment.order_id, payment.external_id, payment.short_code, str(payment.short_code).lower(), payment.id]
    for name in names:
        answer = await client.get("/console", params={"q": f" {name} "})
        assert answer.headers.get("location") == f"/console/payments/{payment.id}", name
        typed = await client.get("/console", params={"q": str(name)}, headers={"HX-Request": "true"})
        assert str(payment.id) in typed.text  # as one types nothing is opened


async def test_digits_and_sums_list_what_they_may_mean(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment = await paid(services, proxy, tenge=17500)
    other = await paid(services, proxy, tenge=55, phone="77015210000")
    client = await sign_in()
    for wanted in ("1545", "•••1545", "17500", "17 500", "17\u00a0500\u00a0₸", "17500.00", "17500,00"):
        answer = await client.get("/console", params={"q": wanted})
        assert answer.status_code == 200
        assert str(payment.id) in answer.text, wanted
        assert str(other.id) not in answer.text


async def test_whatever_is_typed_is_only_looked_for(sign_in: SignIn) -> None:
    client = await sign_in()
    for wanted in ("'; DROP TABLE payment", "<script>alert(1)</script>", "%", "\x00", "0", "9" * 64, "1e5", "{{7*7}}"):
        answer = await client.get("/console", params={"q": wanted})
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "“49”" not in answer.text


async def test_newest_are_shown_page_by_page(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    made = [str((await paid(services, proxy, tenge=100 + n)).id) for n in range(27)]
    client = await sign_in()
    first = await client.get("/console")
    [older] = re.findall(r'href="(/console\?cursor=[^"]+)"', first.text)
    second = await client.get(older)
    shown = [re.findall(r'href="/console/payments/([^"]+)"', page.text) for page in (first, second)]
    assert shown[0] + shown[1] == made[::-1]
    assert (await client.get("/console?cursor=made-up")).status_code == 422


# --- one payment


async def test_live_part_is_sent_only_when_something_changed(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment = (await services.payments.create(ask())).payment
    client = await sign_in()
    page = await client.get(f"/console/payments/{payment.id}")
    [live] = re.findall(r'hx-get="([^"]+)"', page.text)
    assert "Waiting for the buyer" in page.text
    assert (await client.get(live)).status_code == 204
    proxy.statuses[str(payment.external_id)] = "Processed"
    await services.reading.refresh(payment)
    changed = await client.get(live)
    assert changed.status_code == 200
    assert "Kaspi says: paid" in changed.text
    assert changed.text.startswith("<title>100\u00a0₸ · paid</title>")
    assert "<html" not in changed.text
    await client.post(f"/console/payments/{payment.id}/refund", data=refund_form(amount="40"))
    [live] = re.findall(r'hx-get="([^"]+)"', changed.text)
    assert "partly refunded" in (await client.get(live)).text


async def test_kaspi_is_asked_by_the_button(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment = (await services.payments.create(ask())).payment
    proxy.statuses[str(payment.external_id)] = "Processed"
    client = await sign_in(Role.ACCOUNTANT)
    answer = await client.post(f"/console/payments/{payment.id}/ask")
    assert answer.status_code == 303
    assert "Kaspi was asked" in (await client.get(answer.headers["location"])).text
    assert (await services.reading.get(TESTS, payment.id)).state == "paid"


# --- money goes back once


async def test_pressed_twice_pays_back_once(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    path = f"/console/payments/{payment.id}/refund"
    answers = await asyncio.gather(*(client.post(path, data=refund_form(amount="50")) for _ in range(3)))
    assert {answer.status_code for answer in answers} == {303}
    assert proxy.refund.call_count == 1
    again = await client.post(path, data=refund_form(amount="50"))  # the back button, and pressed once more
    assert again.headers["location"].endswith("done=seen-before")
    assert proxy.refund.call_count == 1
    assert [refund.amount for refund in await services.refunds.of_payment(payment.id)] == [5000]


@pytest.mark.parametrize("amounts", [("50", "50"), ("50", "20"), ("", "50")])
async def test_two_people_who_see_the_same_page_pay_back_once(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, amounts: tuple[str, str]
) -> None:
    payment = await paid(services, proxy)
    people = [await sign_in(name="one"), await sign_in(name="two")]
    path = f"/console/payments/{payment.id}/refund"
    answers = await asyncio.gather(
        *(client.post(path, data=refund_form(amount=amount)) for client, amount in zip(people, amounts, strict=True))
    )
    assert proxy.refund.call_count == 1
    assert {answer.status_code for answer in answers} <= {303, 409, 422}
    assert len(await services.refunds.of_payment(payment.id)) == 1


async def test_second_refund_is_asked_for_from_a_page_that_shows_the_first(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    path = f"/console/payments/{payment.id}/refund"
    await client.post(path, data=refund_form(amount="50"))
    form = await client.get(path)
    assert 'name="seen" value="1"' in form.text
    assert (await client.post(path, data=refund_form(1, left="50"))).headers["location"].endswith("done=refunded")
    assert proxy.refund.call_count == 2
    actors = await sql.fetch("SELECT DISTINCT actor FROM payment_log WHERE operation_type = 'refund'")
    assert [row["actor"] for row in actors] == ["operator@example.kz"]
    assert "Nothing is left to refund" in (await client.get(path)).text


async def test_refund_keeps_its_reason_and_is_not_made_without(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    path = f"/console/payments/{payment.id}/refund"
    for reason in ("", "  ", "no"):
        answer = await client.post(path, data=refund_form(amount="40", reason=reason))
        assert (answer.status_code, "why the money goes back" in answer.text) == (422, True)
    assert proxy.refund.call_count == 0
    await client.post(path, data=refund_form(amount="40", reason="two roses were broken"))
    reasons = await sql.fetch("SELECT reason FROM payment_log WHERE operation_type = 'refund'")
    assert [row["reason"] for row in reasons] == ["two roses were broken"]
    page = text_of(await client.get(f"/console/payments/{payment.id}"))
    assert "Refund asked for 40 ₸" in page
    assert "operator@example.kz “two roses were broken”" in page


async def test_link_has_its_qr_code_and_all_of_a_payment_is_copied_as_text(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment = (await services.payments.create(ask(17500, phone=None, order_id="12345"))).payment
    page = (await (await sign_in()).get(f"/console/payments/{payment.id}")).text
    assert re.search(r'<img src="data:image/svg\+xml[^"]+" alt="QR code of the link"', page)
    [text] = re.findall(r'data-copy="(17[^"]+)"', page)
    for told in (
        "17\u00a0500\u00a0₸ · waiting\n",
        f"BIN {payment.organization_bin}\n",
        "Order: 12345\n",
        str(payment.id),
    ):
        assert told in text


async def test_sum_that_is_none_comes_back_with_a_sentence_and_sends_nothing(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    path = f"/console/payments/{payment.id}/refund"
    for amount in ("0", "-5", "abc", "1.234", "100.01", "1e2", "NaN", "\u0665"):
        answer = await client.post(path, data=refund_form(amount=amount))
        assert answer.status_code == 422, amount
        assert 'class="notice bad"' in answer.text
    assert proxy.refund.call_count == 0


async def test_all_that_is_left_goes_back_only_when_its_sum_was_typed(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment, client = await paid(services, proxy, tenge=17500), await sign_in()
    path = f"/console/payments/{payment.id}/refund"
    assert 'name="amount" inputmode="decimal" autocomplete="off" value=""' in (await client.get(path)).text
    for typed in ("", " ", "1750", "17499.99", "17500.01", "175000"):
        for how in ("all", "", "both"):
            answer = await client.post(path, data=refund_form(how=how, amount="", left=typed))
            assert answer.status_code == 422, (typed, how)
            assert "Left to refund: 17\u00a0500\u00a0₸." in answer.text
    assert proxy.refund.call_count == 0
    for _ in range(2):
        assert (await client.post(path, data=refund_form(left="17 500,00"))).status_code == 303
    assert [refund.amount for refund in await services.refunds.of_payment(payment.id)] == [1_750_000]


async def test_old_session_is_asked_for_the_password_before_money_leaves(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    await sql.execute(LONG_AGO)
    path = f"/console/payments/{payment.id}/refund"
    assert 'name="password"' in (await client.get(path)).text
    for wrong in ("", "wrong password"):
        assert (await client.post(path, data=refund_form(password=wrong))).status_code == 422
    assert proxy.refund.call_count == 0
    right = await client.post(path, data=refund_form(password=PASSWORD))
    assert right.headers["location"].endswith("done=refunded")
    assert 'name="password"' not in (await client.get(path)).text


async def test_person_with_a_limit_sends_back_no_more_than_that_of_one_payment(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment, client = await paid(services, proxy), await sign_in(Role.FLORIST, OWN, refund_limit="50")
    path = f"/console/payments/{payment.id}/refund"
    assert "at most 50\u00a0₸ more" in (await client.get(path)).text
    for amount in ("", "50.01"):
        assert (await client.post(path, data=refund_form(amount=amount))).status_code == 403
    assert (await client.post(path, data=refund_form(amount="30"))).status_code == 303
    assert (await client.post(path, data=refund_form(1, amount="20.01"))).status_code == 403  # not in two parts either
    proxy.refund.mock(return_value=httpx.Response(500))
    assert (await client.post(path, data=refund_form(1, amount="20"))).status_code == 303
    assert (await client.post(path, data=refund_form(2, amount="1"))).status_code == 403  # it may have been paid back
    assert proxy.refund.call_count == 2


async def test_refund_of_unknown_outcome_is_said_so_and_offers_no_second_one(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment, client = await paid(services, proxy), await sign_in()
    proxy.refund.mock(return_value=httpx.Response(500))
    answer = await client.post(f"/console/payments/{payment.id}/refund", data=refund_form())
    assert answer.headers["location"].endswith("done=refund-unknown")
    page = text_of(await client.get(answer.headers["location"]))
    assert "We are checking a refund" in page
    assert "Refund…" not in page


# --- tasks


async def test_more_tasks_than_a_page_shows_are_counted_and_the_oldest_shown(
    services: Services,
    wire: respx.MockRouter,
    shops: dict[int, str],
    proxy: GoodProxy,
    sign_in: SignIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, *others = [await unknown(services, wire, proxy, order_id=f"order-{number}") for number in range(3)]
    client = await sign_in()
    monkeypatch.setattr("payment_service.console.lists.TASKS_ON_PAGE", 1)
    page = await client.get("/console/tasks")
    assert "3 things wait for people" in text_of(page)
    assert "Only the oldest 1 is shown" in text_of(page)
    assert str(first.id) in page.text
    assert not any(str(other.id) in page.text for other in others)


async def settle_form(client: httpx.AsyncClient, path: str, **given: str) -> dict[str, str]:
    """What a person sends from the form of that address."""
    found = re.search('name="seen" value="([^"]*)"', (await client.get(path)).text)
    return {"seen": found[1] if found else "", "reason": REASON, **given}


async def test_task_is_settled_and_taken_back_by_another(
    services: Services,
    wire: respx.MockRouter,
    shops: dict[int, str],
    proxy: GoodProxy,
    sign_in: SignIn,
    sql: asyncpg.Connection,
) -> None:
    payment = await unknown(services, wire, proxy)
    one, two = await sign_in(name="one"), await sign_in(name="two")
    tasks = await one.get("/console/tasks")
    assert "(1) Tasks" in tasks.text
    assert str(payment.short_code) in tasks.text
    proxy.default = "Processed"
    path = f"/console/payments/{payment.id}"
    form = await settle_form(one, f"{path}/settle", found="paid", external_id="")
    bad = await one.post(f"{path}/settle", data=form)
    assert (bad.status_code, "Take the Kaspi id" in bad.text) == (422, True)
    form["external_id"] = "12800999001"
    await sql.execute(LONG_AGO)
    assert (await one.post(f"{path}/settle", data=form)).status_code == 422
    form["password"] = PASSWORD
    assert (await one.post(f"{path}/settle", data=form)).headers["location"].endswith("done=settled")
    page = text_of(await one.get(path))
    assert REASON in page
    assert "one@example.kz" in page
    assert "Nothing waits for people." in (await one.get("/console/tasks")).text
    undoing = await settle_form(two, f"{path}/undo", reason="another order")
    own = await one.post(f"{path}/undo", data=undoing)
    assert (own.status_code, "another person has to undo it" in own.text) == (403, True)
    assert (await two.post(f"{path}/undo", data=undoing)).status_code == 422
    undoing["password"] = PASSWORD
    assert (await two.post(f"{path}/undo", data=undoing)).headers["location"].endswith("undone")
    assert "We do not know the outcome yet" in (await two.get(path)).text


async def test_form_of_yesterday_settles_nothing_today(
    services: Services, wire: respx.MockRouter, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    """One found nothing yesterday; meanwhile another found it paid, and that was undone."""
    payment = await unknown(services, wire, proxy)
    one, two, three = [await sign_in(name=name) for name in ("one", "two", "three")]
    path = f"/console/payments/{payment.id}"
    proxy.default = "Processed"
    of_yesterday = await settle_form(one, f"{path}/settle", found="paid", external_id="12800999001")
    await two.post(f"{path}/settle", data=of_yesterday)
    undoing = await settle_form(three, f"{path}/undo")
    assert (await three.post(f"{path}/undo", data=undoing)).headers["location"].endswith("undone")
    late = await one.post(f"{path}/settle", data=of_yesterday)
    assert late.headers["location"].endswith("done=changed-before")
    assert "Something has changed since you opened that form" in (await one.get(late.headers["location"])).text
    again = await settle_form(one, f"{path}/settle", found="paid", external_id="12800999001")
    assert (await one.post(f"{path}/settle", data=again)).headers["location"].endswith("done=settled")
    assert (await three.post(f"{path}/undo", data=undoing)).headers["location"].endswith("done=changed-before")


async def test_what_kaspi_contradicts_is_not_settled(
    services: Services, wire: respx.MockRouter, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    payment = await unknown(services, wire, proxy)
    client = await sign_in()
    path = f"/console/payments/{payment.id}/settle"
    answer = await client.post(path, data=await settle_form(client, path, found="paid", external_id="12800999001"))
    assert (answer.status_code, "Kaspi says otherwise" in answer.text) == (409, True)
    assert REASON in answer.text  # what was typed stays


async def test_refund_is_settled_and_taken_back(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    payment, one, two = await paid(services, proxy), await sign_in(name="one"), await sign_in(name="two")
    proxy.refund.mock(return_value=httpx.Response(500))
    await one.post(f"/console/payments/{payment.id}/refund", data=refund_form())
    [refund] = await services.refunds.of_payment(payment.id)
    path = f"/console/payments/{payment.id}/refunds/{refund.id}"
    assert f"{path}/settle" in (await one.get("/console/tasks")).text
    form = await settle_form(one, f"{path}/settle", found="failed")
    early = await one.post(f"{path}/settle", data=form)
    assert (early.status_code, "Look into the cabinet again" in early.text) == (409, True)
    done = await one.post(f"{path}/settle", data={**form, "found": "succeeded"})
    assert done.headers["location"].endswith("done=settled")
    undoing = await settle_form(two, f"{path}/undo")
    assert (await two.post(f"{path}/undo", data=undoing)).headers["location"].endswith("done=undone")
    elsewhere = f"/console/payments/{payment.id}/refunds/{UUID(int=3)}/settle"
    assert (await one.get(elsewhere)).status_code == 404


# --- every answer


@pytest.mark.parametrize(
    "path", ["/sign-in", "", "/nothing/here", "/link/made-up", "/static/console.css", "/static/none", "/language/xx"]
)
async def test_every_answer_carries_the_policy(browser: Callable[..., httpx.AsyncClient], path: str) -> None:
    answer = await browser().get(f"/console{path}")
    assert answer.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == answer.headers["cross-origin-opener-policy"] == "same-origin"


async def test_policy_is_of_the_console_alone(client: httpx.AsyncClient, shops: dict[int, str]) -> None:
    for path in ("/payments", "/health", "/nothing"):
        assert "content-security-policy" not in (await client.get(path)).headers


async def test_session_opens_nothing_of_the_api(sign_in: SignIn) -> None:
    assert (await (await sign_in(Role.ADMIN)).get("/payments")).status_code == 401


async def test_file_is_kept_for_good_under_an_address_that_changes_with_it(
    browser: Callable[..., httpx.AsyncClient],
) -> None:
    page = await browser().get("/console/sign-in")
    files = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page.text)
    assert len(set(files)) == 4
    for file in set(files):
        answer = await browser().get(file)
        assert "immutable" in answer.headers["cache-control"]
        assert re.search(r"\?v=[0-9a-f]{16}$", file)
    weight = sum([len((await browser().get(file)).content) for file in {*files}])
    assert weight < 100_000
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("language", ["ru", "kk", "en"])
async def test_language_is_chosen_and_kept(browser: Callable[..., httpx.AsyncClient], language: str) -> None:
    client = browser(**{"Accept-Language": "de"})
    assert '<html lang="ru">' in (await client.get("/console/sign-in")).text  # Russian first
    headers = {"Referer": "http://localhost/console/sign-in"}
    answer = await client.get(f"/console/language/{language}", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/sign-in")
    assert f'<html lang="{language}">' in (await client.get("/console/sign-in")).text


async def test_database_that_is_away_is_told_on_a_page(
    sign_in: SignIn, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await sign_in()

    async def away(*_: Any, **__: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("payment_service.console.lists.queries.search", away)
    answer = await client.get("/console")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text


async def test_form_of_another_kind_is_refused(sign_in: SignIn) -> None:
    client = await sign_in()
    answer = await client.post("/console/sign-in", json={"email": "a"})
    assert answer.status_code == 415
