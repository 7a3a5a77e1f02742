"""The console in a real browser: webhooks sent again, sums as CSV, sessions that end elsewhere, use by everybody."""

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from playwright.async_api import Browser, BrowserContext

from tests.e2e.test_console import FOREIGN, OWN, context, signed_in, watched
from tests.support.axe import violations
from tests.support.rig import Rig
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("e2e")
__all__ = ["context"]


@dataclass
class Hook:
    """A receiver that answers with a status; ``calls`` are the ids of events that it was told."""

    status: int = 500
    calls: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            [event_id] = re.findall(r"(?im)^webhook-id: (\S+)", head)
            self.calls.append(event_id)
            writer.write(f"HTTP/1.1 {self.status} Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        finally:
            writer.close()

    async def called(self, times: int) -> None:
        """Wait until it was called so often."""

        async def often() -> bool:
            return len(self.calls) >= times

        await until(often, f"the webhook was called {times} times")


@pytest.fixture
async def hook(rig: Rig) -> AsyncIterator[Hook]:
    """A webhook of one shop, which fails at first."""
    hook = Hook()
    server = await asyncio.start_server(hook.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/webhook"
    made = (await rig.api.post("/admin/webhooks", json={"url": url, "shops": [OWN]})).raise_for_status().json()
    rig.secrets.add(made["secret"])
    yield hook
    (await rig.api.delete(f"/admin/webhooks/{made['id']}")).raise_for_status()
    server.close()


@pytest.mark.thorough
async def test_webhook_that_failed_is_sent_again_by_the_button(rig: Rig, context: BrowserContext, hook: Hook) -> None:
    page = await signed_in(rig, context, "hooks@example.kz", "--role", "operator")
    made = (await rig.create(OWN, message=rig.word(), phone="77015219017")).json()
    await hook.called(1)
    await page.goto(f"/console/deliveries?q={made['id']}&state=waiting")
    await page.locator(".events a").first.click()
    assert "500" in await page.locator(".tries").inner_text()
    hook.status = 204
    await page.get_by_role("button", name="Попробовать сейчас").dblclick()
    await page.wait_for_url("**done=replayed")
    await hook.called(2)
    assert hook.calls == [hook.calls[0]] * 2
    await page.reload()
    assert "доставлен" in await page.locator("h1").inner_text()


@pytest.mark.thorough
async def test_what_the_cabinet_shows_is_written_down_and_taken_back_by_another(
    rig: Rig, browser: Browser, context: BrowserContext
) -> None:
    word = rig.word()
    made = (await rig.create(OWN, message=word, phone="77015219042")).json()
    assert made["state"] == "unknown"
    page = await signed_in(rig, context, "settles@example.kz", "--role", "operator")
    await page.goto("/console/tasks")
    await page.locator(f"a[href='/console/payments/{made['id']}/settle']").click()
    await page.get_by_label("не прошёл").check()
    await page.get_by_label("Кто, что и где увидел").fill("Айгуль: в кабинете счёта нет")
    await page.get_by_role("button", name="Записать").dblclick()
    await page.wait_for_url("**done=settled")
    await page.get_by_text("Айгуль: в кабинете счёта нет").first.wait_for()

    async with watched(browser, rig) as other:
        page = await signed_in(rig, other, "undoes@example.kz", "--role", "operator")
        await page.goto(f"/console/payments/{made['id']}")
        await page.locator("#do-undo").click()
        await page.get_by_label("Почему она неверна").fill("смотрели чужой кабинет")
        await page.get_by_role("button", name="Снять отметку").click()
        await page.get_by_role("heading", name="Исход пока неизвестен").wait_for()
    assert len([call for call in await rig.ledger(op="create") if word in call["message"]]) == 1


@pytest.mark.thorough
async def test_florist_sees_the_sums_of_the_own_shop_and_opens_them_as_csv(rig: Rig, context: BrowserContext) -> None:
    for shop_id, amount in ((OWN, 4321), (FOREIGN, 8765)):
        made = await rig.paid(shop_id, amount=amount)
        await rig.in_state(made["id"], "paid")
    page = await signed_in(rig, context, "sums@example.kz", "--role", "florist", "--shop", str(OWN))
    await page.get_by_role("link", name="Итоги").click()
    await page.get_by_role("heading", name="По продавцам").wait_for()
    said = await page.locator("main").inner_text()
    assert SHOPS[OWN] in said
    assert SHOPS[FOREIGN] not in said
    async with page.expect_download() as download:
        await page.get_by_role("link", name="CSV").click()
    content = await asyncio.to_thread((await (await download.value).path()).read_bytes)
    own, total = csv.DictReader(io.StringIO(content.decode("utf-8-sig")))
    assert (own["shop_id"], own["organization_bin"]) == (str(OWN), SHOPS[OWN])
    assert float(own["paid"]) >= 4321
    assert own["paid"] == total["paid"]


@pytest.mark.thorough
async def test_person_whose_session_ended_elsewhere_signs_in_again_and_is_where_they_were(
    rig: Rig, browser: Browser
) -> None:
    # In a browser of its own: that it is refused, which is the point, is an error to the browser.
    context = await browser.new_context(locale="ru-RU", base_url=rig.services[0].url)
    page = await signed_in(rig, context, "ended@example.kz", "--role", "operator")
    made = await rig.paid(OWN)
    await page.goto(f"/console/payments/{made['id']}")
    people = json.loads(rig.run("people", "list", "--json").stdout)
    [person] = [one["id"] for one in people if one["email"] == "ended@example.kz"]
    assert rig.run("people", "sign-out", str(person)).returncode == 0
    await page.wait_for_url("**/console/sign-in?next=**")  # the page asked by itself whether it changed
    await page.get_by_label("Электронная почта").fill("ended@example.kz")
    await page.get_by_label("Пароль").fill("peonies and roses")
    await page.get_by_role("button", name="Войти").click()
    await page.wait_for_url(f"**/console/payments/{made['id']}")
    await context.close()


@pytest.fixture
async def screens(rig: Rig, hook: Hook) -> list[str]:
    """The addresses of every screen, with something to see on each."""
    made = (await rig.create(OWN, link=True, message=rig.word(), order_id=rig.word())).json()
    paid = await rig.paid(OWN)
    await rig.in_state(paid["id"], "paid")
    await rig.refund(paid["external_id"], amount=1)
    unknown = (await rig.create(OWN, message=rig.word(), phone="77015219029")).json()
    await hook.called(1)
    chat = {"channel": "telegram", "address": "-100777", "events": ["payment.paid"]}
    bound = await rig.api.post("/admin/notify", json=chat)
    assert bound.status_code in {201, 409}, bound.text
    deliveries = (await rig.api.get("/admin/deliveries?limit=1")).json()["items"]
    [endpoint] = [one["id"] for one in (await rig.api.get("/admin/webhooks")).json() if one["is_active"]]
    return [
        "",
        "?q=nothing-like-that",
        "/tasks",
        f"/payments/{made['id']}",
        f"/payments/{paid['id']}",
        f"/payments/{paid['id']}/refund",
        f"/payments/{unknown['id']}/settle",
        f"/payments/{unknown['id']}/undo",
        "/sums",
        "/sums?month=2020-01",
        "/webhooks",
        f"/webhooks/{endpoint}/replay?kind=failed&since=2026-01-01T00:00",
        "/webhooks/new",
        f"/webhooks/{endpoint}/switch",
        "/deliveries",
        f"/deliveries/{deliveries[0]['id']}",
        "/messages",
        "/keys",
        "/keys/new",
        "/keys/1/revoke",
        "/people",
        "/people/new",
        "/people/1",
        "/sellers",
        f"/sellers/{OWN}",
        f"/sellers/{OWN}/route",
        f"/sellers/{OWN}/test",
        "/record",
        "/health",
    ]


ASKED_AGAIN = """
    document.querySelector("main form")?.insertAdjacentHTML("beforeend", '<input class="hidden" type="email">')
"""
"""The field for password managers, which a form has when the password was given more than ten minutes ago."""


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(r"^$|^/payments/[\w-]+$|^/sums$|^/keys/new$", id="most used"),
        pytest.param(r"", id="all", marks=pytest.mark.thorough),
    ],
)
async def test_every_screen_can_be_used_by_everybody_in_light_and_dark_and_fits_a_phone(
    rig: Rig, context: BrowserContext, screens: list[str], wanted: str
) -> None:
    page = await signed_in(rig, context, f"{rig.word()[8:]}@example.kz", "--role", "admin")
    found = {}
    for path in filter(re.compile(wanted).search, screens):
        await page.emulate_media(color_scheme="light", reduced_motion="reduce")
        await page.goto(f"/console{path}")
        found[path] = await violations(page)
        await page.emulate_media(color_scheme="dark")
        found[f"{path} in the dark"] = await violations(page, "color-contrast")
        size = page.viewport_size
        await page.set_viewport_size({"width": 360, "height": 800})
        await page.evaluate(ASKED_AGAIN)
        width = await page.evaluate("document.documentElement.scrollWidth")
        found[f"{path} on a phone"] = [f"{width} wide"] if width > 360 else []
        await page.set_viewport_size(size or {"width": 1280, "height": 800})
    assert {path: wrong for path, wrong in found.items() if wrong} == {}
