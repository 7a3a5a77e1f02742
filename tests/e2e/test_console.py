"""The console in a real browser, over the real service: what it shows, does once, and never asks for."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Request

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("e2e")

PASSWORD = "peonies and roses"
OWN, FOREIGN = 121038, 576631
VIOLATIONS = """
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective + event.blockedURI));
"""


@asynccontextmanager
async def watched(browser: Browser, rig: Rig) -> AsyncIterator[BrowserContext]:
    """A browser of one person. It fails when a page broke the policy or asked another host for anything."""
    context = await browser.new_context(locale="ru-RU", base_url=rig.services[0].url)
    await context.add_init_script(VIOLATIONS)
    trouble: list[str] = []
    host = urlsplit(rig.services[0].url).netloc

    def look_at(request: Request) -> None:
        if urlsplit(request.url).netloc != host:
            trouble.append(f"asked {request.url}")

    def read(message: Any) -> None:
        if "Content Security Policy" in message.text or message.type == "error":
            trouble.append(message.text)

    context.on("request", look_at)
    context.on("console", read)
    context.on("weberror", lambda error: trouble.append(str(error.error)))
    yield context
    for page in context.pages:
        assert await page.evaluate("window.violations") == []
    assert trouble == []
    await context.close()


@pytest.fixture
async def context(browser: Browser, rig: Rig) -> AsyncIterator[BrowserContext]:
    async with watched(browser, rig) as context:
        yield context


async def signed_in(rig: Rig, context: BrowserContext, email: str, *words: str) -> Page:
    """A person who came in by the link that the command line printed."""
    made = rig.run("people", "add", email, "--name", "Айгуль", *words)
    assert made.returncode == 0, made.stderr
    path = made.stdout.split()[-1]
    rig.secrets |= {path.rpartition("/")[2], PASSWORD}
    page = await context.new_page()
    await page.goto(path)
    await page.get_by_label("Новый пароль").fill(PASSWORD)
    await page.get_by_label("Ещё раз").fill(PASSWORD)
    await page.get_by_role("button", name="Сохранить").click()
    await page.wait_for_url(re.compile(r"/console$"))
    return page


async def test_operator_finds_a_payment_sees_it_paid_and_refunds_half_of_it_once(
    rig: Rig, context: BrowserContext
) -> None:
    page = await signed_in(rig, context, "operator@example.kz", "--role", "operator")
    order = rig.word()
    made = (await rig.create(OWN, amount=17500, phone="77015219017", order_id=order)).json()

    await page.get_by_role("searchbox").press_sequentially(order)
    await page.locator("#found .rows a").get_by_text("17\u00a0500").click()
    await page.get_by_role("heading", name="Ждём подтверждения").wait_for()

    # It is paid elsewhere, and the page that is open changes by itself.
    (await rig.sandbox_client.post(f"/_payments/{made['external_id']}/pay")).raise_for_status()
    await page.get_by_role("heading", name="Оплачено").wait_for()

    await page.get_by_role("link", name="Вернуть деньги").click()
    await page.get_by_label("Часть").check()
    await page.get_by_label("Для подтверждения введите сумму").fill("8 750")
    await page.get_by_label("Почему возвращаем").fill("букет увял")
    await page.get_by_role("button", name="Отправить деньги обратно").dblclick()
    await page.get_by_role("heading", name="часть возвращена").wait_for()
    assert "operator@example.kz" in await page.locator(".timeline").inner_text()
    refunds = [call for call in await rig.ledger(op="refund") if call["external_id"] == made["external_id"]]
    assert [call["amount"] for call in refunds] == ["8750.00"]

    await page.go_back()
    await page.go_back()
    await page.go_forward()
    assert len([call for call in await rig.ledger(op="refund") if call["external_id"] == made["external_id"]]) == 1


# In make test: tests/console/test_pages.py, without a browser.
@pytest.mark.thorough
async def test_florist_is_refused_what_is_of_another_shop(rig: Rig, context: BrowserContext) -> None:
    own, foreign = await rig.paid(OWN, order_id=rig.word()), await rig.paid(FOREIGN, order_id=rig.word())
    page = await signed_in(rig, context, "florist@example.kz", "--role", "florist", "--shop", str(OWN))
    await page.goto(f"/console?q={own['order_id']}")
    await page.wait_for_url(f"**/console/payments/{own['id']}")
    await page.goto(f"/console?q={foreign['order_id']}")
    assert "ничего нет" in await page.locator("#found").inner_text()
    answer = await context.request.get(f"/console/payments/{foreign['id']}")
    assert answer.status == 404


async def test_pages_work_without_javascript(rig: Rig, browser: Browser) -> None:
    made = await rig.paid(OWN, order_id=rig.word())
    context = await browser.new_context(locale="ru-RU", base_url=rig.services[0].url, java_script_enabled=False)
    page = await signed_in(rig, context, "plain@example.kz", "--role", "operator")
    await page.get_by_role("searchbox").fill(made["order_id"])
    await page.get_by_role("button", name="Найти").click()
    if await page.get_by_role("button", name="Спросить Kaspi").count():
        await page.get_by_role("button", name="Спросить Kaspi").click()
    await page.get_by_role("link", name="Вернуть деньги").click()
    typed = page.get_by_label("Для подтверждения введите сумму")
    await page.get_by_label("Почему возвращаем").fill("букет увял")
    for amount in (1, made["amount"]):
        await typed.fill(str(amount))
        await page.get_by_role("button", name="Отправить деньги обратно").click()
        if amount == 1:
            await page.get_by_role("alert").get_by_text("Осталось к возврату").wait_for()
    await page.get_by_role("heading", name="возвращено полностью").wait_for()
    await context.close()
