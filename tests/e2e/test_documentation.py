"""``/docs`` in a browser that reaches nothing but this machine."""

import re

import pytest
from playwright.async_api import Page

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("e2e")


@pytest.mark.thorough
async def test_documentation_shows_and_tries_out_the_api_without_any_other_host(rig: Rig, browser_page: Page) -> None:
    service = await rig.serve(DOCS_ENABLED="true")
    said: list[str] = []
    asked: list[str] = []
    browser_page.on("console", lambda message: said.append(message.text))
    browser_page.on("pageerror", lambda error: said.append(str(error)))
    browser_page.on("request", lambda request: asked.append(request.url))
    await browser_page.goto(f"{service.url}/docs/")
    # The key, as an engineer gives it, and a request that is really sent.
    await browser_page.get_by_role("button", name="Authorize").first.click()
    await browser_page.locator(".modal-ux input").first.fill(rig.key)
    await browser_page.locator(".modal-ux").get_by_role("button", name=re.compile("Apply|Authorize")).first.click()
    await browser_page.locator(".modal-ux").get_by_role("button", name="Close").first.click()
    operation = browser_page.locator(".opblock").filter(has=browser_page.locator('[data-path="/admin/configs"]')).first
    await operation.locator(".opblock-summary-control").click()
    await operation.get_by_role("button", name="Try it out").click()
    await operation.get_by_role("button", name="Execute").click()
    await operation.locator(".live-responses-table .response").wait_for()
    assert "920317450731" in await operation.locator(".live-responses-table").inner_text()
    assert [url for url in asked if not url.startswith((service.url, "data:"))] == []
    assert said == []
