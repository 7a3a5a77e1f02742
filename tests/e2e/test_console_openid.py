"""Coming in through an OpenID provider of another site, in a real browser: strict cookies, the policy, the way back."""

import asyncpg
import httpx
import pytest
from playwright.async_api import Browser

from tests.e2e.test_console import VIOLATIONS
from tests.support.openid import CLIENT_ID, CLIENT_SECRET
from tests.support.processes import Process, clean_environment, free_port
from tests.support.rig import Rig

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("e2e")]


async def test_person_comes_in_through_another_site_and_is_asked_again_there(rig: Rig, browser: Browser) -> None:
    words = ["tests.support.openid", "--port", str(free_port())]
    environment = clean_environment(rig.folder)
    provider = Process(words, environment=environment, folder=rig.folder, name="openid", port=int(words[-1]))
    port = free_port()
    # To a browser localhost and 127.0.0.1 are two sites; two ports of one address are not.
    site = f"http://localhost:{port}"
    rig.secrets.add(CLIENT_SECRET)
    client = {"CONSOLE_OIDC_CLIENT_ID": CLIENT_ID, "CONSOLE_OIDC_CLIENT_SECRET": CLIENT_SECRET}
    await rig.start_service(port, CONSOLE_URL=site, CONSOLE_OIDC_ISSUER=provider.url, **client).ready()
    made = rig.run("people", "add", "olga@example.kz", "--name", "Ольга", "--role", "admin")
    rig.secrets.add(made.stdout.split()[-1].rpartition("/")[2])
    context = await browser.new_context(locale="ru-RU", base_url=site)
    await context.add_init_script(VIOLATIONS)
    try:
        await provider.ready("/health")
        async with httpx.AsyncClient(base_url=provider.url, trust_env=False) as asked:
            await asked.post("/_next", json={"page": True, "claims": {"email": "olga@example.kz", "auth_time": None}})
            page = await context.new_page()
            await page.goto("/console/sellers")
            await page.get_by_role("link", name="Войти через 127.0.0.1").click()
            await page.get_by_role("link", name="Go back").click()
            await page.wait_for_url("**/console/sellers")
            [cookie] = await context.cookies(f"{site}/console")
            assert (cookie["name"], cookie.get("sameSite"), cookie.get("httpOnly")) == ("console", "Strict", True)

            await page.goto("/console/people/new")
            await page.get_by_role("link", name="Подтвердить через 127.0.0.1").click()
            await asked.post("/_next", json={"page": True, "claims": {"email": "olga@example.kz"}})
            await page.go_back()
            await page.get_by_role("link", name="Подтвердить через 127.0.0.1").click()
            await page.get_by_role("link", name="Go back").click()
            await page.wait_for_url("**/console/people/new")
            assert await page.get_by_role("link", name="Подтвердить").count() == 0
        assert await page.evaluate("window.violations") == []
        connection = await asyncpg.connect(rig.database_url)
        done = await connection.fetchval("SELECT count(*) FROM person_session WHERE openid_nonce IS NOT NULL")
        await connection.close()
        assert done == 1
    finally:
        await context.close()
        await provider.stop()
