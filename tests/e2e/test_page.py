"""The stand-in's page in a browser: a person pays and declines there, and the service sees it."""

import re
from typing import Any

import pytest
from playwright.async_api import Page

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("e2e")

WAITS = "77015219017"


async def press(page: Page, button: str, payment: dict[str, Any]) -> None:
    card = page.locator("article.invoice").filter(has_text=payment["external_id"])
    await card.get_by_role("button", name=re.compile(f"^{button} ")).click()
    await card.wait_for(state="detached")


@pytest.mark.parametrize(
    ("button", "end"), [pytest.param("Pay", "paid", marks=pytest.mark.thorough), ("Decline", "failed")]
)
async def test_service_sees_what_a_person_pressed(rig: Rig, browser_page: Page, button: str, end: str) -> None:
    made = (await rig.create(message=rig.word(), phone=WAITS)).json()
    await browser_page.goto(rig.sandbox.url)
    await press(browser_page, button, made)
    await rig.in_state(made["id"], end)


async def test_link_leads_to_the_payment_that_it_is_for(rig: Rig, browser_page: Page) -> None:
    made = (await rig.create(link=True, message=rig.word(), amount="990.17")).json()
    await browser_page.goto(made["payment_link"])
    chosen = browser_page.locator("article.invoice.chosen")
    await chosen.wait_for()
    assert made["external_id"] in await chosen.inner_text()
    await press(browser_page, "Pay", made)
    await rig.in_state(made["id"], "paid")


async def test_message_is_shown_as_text_and_never_as_markup(rig: Rig, browser_page: Page) -> None:
    word = f"<img src=x onerror=alert(1)> {rig.word()}"
    made = (await rig.create(message=word, phone=WAITS)).json()
    await browser_page.goto(rig.sandbox.url)
    card = browser_page.locator("article.invoice").filter(has_text=made["external_id"])
    assert word in await card.inner_text()
    assert await card.locator("img").count() == 0
