"""Sellers and the record in a real browser: two people change a BIN, a test payment is paid, a CSV is opened."""

import csv
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page

from tests.e2e.test_console import PASSWORD, signed_in, watched
from tests.support.rig import Rig
from tests.support.shops import SHOPS, bin_with_checksum

pytestmark = pytest.mark.xdist_group("e2e")

OWN = 121038
NEW_BIN = bin_with_checksum("99101100006")


@pytest.fixture
async def by_two(rig: Rig) -> AsyncIterator[None]:
    """Where two people change a route; afterwards every shop has its own route again."""
    made = rig.run("migrate", ROUTE_CHANGE_NEEDS_TWO="true")
    assert made.returncode == 0, made.stderr
    assert "needs two administrators from now on" in made.stdout
    assert rig.run("migrate").stdout.startswith("The database is at schema")  # and leaves it as it is
    yield
    assert "needs one administrator from now on" in rig.run("migrate", ROUTE_CHANGE_NEEDS_TWO="false").stdout
    await rig.route_all()


@pytest.mark.thorough
async def test_two_people_change_a_bin(rig: Rig, browser: Browser, by_two: None) -> None:
    before = (await rig.create(OWN, message=rig.word())).json()
    async with watched(browser, rig) as one, watched(browser, rig) as other:
        first = await signed_in(rig, one, "first@example.kz", "--role", "admin")
        second = await signed_in(rig, other, "second@example.kz", "--role", "admin")
        await first.goto(f"/console/sellers/{OWN}")
        await first.get_by_role("link", name="Изменить маршрут").click()
        await first.get_by_label("БИН").fill(NEW_BIN)
        await first.get_by_label("убрать токен").check()
        await first.get_by_label("Почему").fill("Продавец сменил ИП, письмо от 30.11")
        await first.get_by_role("button", name="Сохранить").dblclick()
        await first.get_by_text("пока другой администратор").wait_for()

        refused = await rig.api.put(f"/admin/configs/{OWN}", json={"organization_bin": NEW_BIN})
        assert (refused.status_code, refused.json()["code"]) == (409, "route_change_needs_two")
        around = rig.run("shops", "set-token", str(OWN), text="11111111-2222-4333-8444-555555555555\n")
        assert around.returncode == 1
        assert "two administrators" in around.stderr
        await first.get_by_role("link", name="Посмотреть").click()
        assert await first.get_by_label("Подтвердить").count() == 0

        await second.goto(f"/console/sellers/{OWN}")
        await second.get_by_role("link", name="Посмотреть").click()
        await confirm(second)
        await second.get_by_text("маршрут изменён").wait_for()
    assert (await rig.payment(before["id"]))["organization_bin"] == SHOPS[OWN]
    assert (await rig.api.get(f"/admin/configs/{OWN}")).json()["organization_bin"] == NEW_BIN


async def confirm(page: Page) -> None:
    await page.get_by_label("Подтвердить").check()
    if await page.get_by_label("Ваш пароль").count():
        await page.get_by_label("Ваш пароль").fill(PASSWORD)
    await page.get_by_role("button", name="Записать").click()


@pytest.mark.thorough
async def test_test_payment_is_paid_while_the_page_changes_and_the_record_is_opened(
    rig: Rig, browser: Browser, tmp_path: Path
) -> None:
    async with watched(browser, rig) as context:
        page = await signed_in(rig, context, "tester@example.kz", "--role", "operator")
        await page.goto(f"/console/sellers/{OWN}/test")
        await page.get_by_label("Телефон").fill("8 701 521 90 17")
        await page.get_by_label("Сумма").fill("77")
        await page.get_by_role("button", name="Отправить счёт").dblclick()
        await page.get_by_role("heading", name="Ждём подтверждения").wait_for()
        payment = await rig.payment(page.url.rpartition("/")[2])
        (await rig.sandbox_client.post(f"/_payments/{payment['external_id']}/pay")).raise_for_status()
        await page.get_by_role("heading", name="Оплачено").wait_for()
        sent = [call for call in await rig.ledger(op="create") if call["amount"] == "77.00"]
        assert len(sent) == 1

        await page.goto(f"/console/record?external_id={payment['external_id']}")
        async with page.expect_download() as download:
            await page.get_by_role("link", name="CSV").click()
        file = tmp_path / "record.csv"
        await (await download.value).save_as(file)
        rows = list(csv.DictReader(file.read_text("utf-8-sig").splitlines()))
        assert {row["payment"] for row in rows} == {payment["id"]}
        assert {"create", "status"} <= {row["operation_type"] for row in rows}
        await page.get_by_role("link", name=re.compile("запрос")).first.click()
        assert "request=" in page.url
