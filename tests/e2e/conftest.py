"""One rig serves the tests of the group ``e2e``; what a test does to a process, it does to one that it started."""

import os
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright

from tests.support.database import Server
from tests.support.rig import Rig, whole

CHROMIUM = "/usr/bin/chromium"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]
QUIET += [f"--disable-{what}" for what in ("background-networking", "component-update", "sync")]


@pytest.fixture(scope="package")
async def browser() -> AsyncIterator[Browser]:
    """A browser that finds no other host than this machine."""
    if not os.access(CHROMIUM, os.X_OK):
        reason = f"there is no {CHROMIUM}: install it (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        await browser.close()


@pytest.fixture(scope="package")
async def browser_page(browser: Browser) -> Page:
    """One page of it."""
    return await browser.new_page()


@pytest.fixture(scope="package")
async def rig(server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    database_url = await server.make(f"rig_{worker_id}")
    async with whole(tmp_path_factory.mktemp("rig"), database_url) as rig:
        yield rig
