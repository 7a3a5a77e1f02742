"""The payment system for Bitrix: real PHP with doubles of Bitrix's classes, the real service, the stand-in proxy."""

import asyncio
import base64
import json
import os
import random
import re
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Page as BrowserPage

from tests.e2e.php.site import CLIENT, Site, php_or_skip
from tests.e2e.php.web import Answer, Request, as_json, served
from tests.e2e.test_php import SCOPES, WEBHOOK_SECRET, event, signed
from tests.support.rig import PAYS_AT_ONCE, PHONE, Rig, sha256
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("php")

SHOP, OTHER = 121038, 576631
BY_PROPERTY, BY_XML_ID, FIXED, NO_RULE, INHERITED, NO_GOODS = 3, 4, 5, 6, 7, 8
MANAGER = Path(__file__).parent / "php" / "manager.php"


def system(**values: str) -> dict[str, Any]:
    return {
        "ACTION_FILE": "cvetykaspi",
        "ENTITY_REGISTRY_TYPE": "ORDER",
        "values": {f"CVETYKASPI_{name}": value for name, value in values.items()},
    }


SYSTEMS = {
    BY_PROPERTY: system(SELLER="PROPERTY", GOODS="SELLER"),
    BY_XML_ID: system(SELLER="XML_ID", GOODS="SELLER"),
    FIXED: system(SELLER="SHOP", SHOP=f"{FIXED}:{SHOP}", GOODS="-"),
    NO_RULE: system(GOODS="-"),
    # Nothing of its own: Bitrix gives it what is common, here the shop of another payment system.
    INHERITED: system(SELLER="SHOP", GOODS="-"),
    NO_GOODS: system(SELLER="PROPERTY"),
    "common": {"CVETYKASPI_SHOP": str(SHOP)},
}


@dataclass
class Page:
    """What a buyer sees."""

    html: str

    @property
    def text(self) -> str:
        return unescape(re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", self.html, flags=re.DOTALL))

    @property
    def attempt(self) -> int:
        """The attempt that its button asks for; 0 without one."""
        found = re.search(r'name="CVETYKASPI_ATTEMPT" value="(\d+)"', self.html)
        return int(found[1]) if found else 0

    @property
    def ask(self) -> str:
        """Where its script asks whether something changed; empty when it does not wait."""
        found = re.search(r'\}\)\(("[^"]+"), ', self.html)
        return json.loads(found[1]) if found else ""

    def hidden(self) -> dict[str, str]:
        return dict(re.findall(r'type="hidden" name="([^"]+)"(?: id="[^"]+")? value="([^"]*)"', self.html))


@dataclass
class Order:
    """One order of the shop, with one payment unless the test says otherwise."""

    shop: "Shop"
    id: int
    payments: list[int]

    @property
    def now(self) -> dict[str, Any]:
        """As Bitrix has it."""
        found: dict[str, Any] = self.shop.site.orders()[str(self.id)]
        return found

    @property
    def payment(self) -> dict[str, Any]:
        """Its first payment, as Bitrix has it."""
        found: dict[str, Any] = self.now["payments"][0]
        return found

    @property
    def order_id(self) -> str:
        """As the service knows its first payment."""
        return f"s1-{self.id}-{self.payments[0]}"

    def address(self, index: int = 0) -> str:
        return f"/bitrix/pay.php?ORDER_ID={self.id}&PAYMENT_ID={self.payments[index]}"

    async def open(self, index: int = 0, **query: str) -> Page:
        answer = await self.shop.browser.get(self.address(index) + "".join(f"&{k}={v}" for k, v in query.items()))
        assert answer.status_code == 200, answer.text
        return Page(answer.text)

    async def press(self, page: Page, way: str = "phone", phone: str = PHONE, index: int = 0) -> Page:
        """Press a button of the page."""
        body = {**page.hidden(), "CVETYKASPI_WAY": way, "CVETYKASPI_PHONE": phone}
        answer = await self.shop.browser.post(self.address(index), data=body)
        assert answer.status_code == 200, answer.text
        return Page(answer.text)

    async def pay(self, phone: str = PHONE, way: str = "phone") -> Page:
        """Open the page and press its button."""
        return await self.press(await self.open(), way, phone)

    async def asked(self, page: Page) -> dict[str, Any]:
        """What the page's script hears."""
        answer = await self.shop.browser.get(page.ask)
        found: dict[str, Any] = answer.json()
        return found

    async def paid(self) -> dict[str, Any]:
        """The order after its first payment was paid at once and the page asked."""
        page = await self.pay(PAYS_AT_ONCE)

        async def is_paid() -> bool:
            return bool((await self.asked(page))["step"] == "paid")

        await until(is_paid, "the page hears that it is paid")
        return self.payment

    def change(self, payment: dict[str, Any] | None = None, **fields: Any) -> None:
        """Change the order, and its first payment, behind the back of the client: nobody is told."""
        orders = self.shop.site.orders()
        orders[str(self.id)] |= fields
        orders[str(self.id)]["payments"][0] |= payment or {}
        self.shop.site.orders(orders)

    async def calls(self) -> list[dict[str, Any]]:
        """The creates of this order that reached the proxy."""
        return [
            entry
            for entry in await self.shop.rig.ledger()
            if entry["op"] in {"create", "create-link"} and (entry["message"] or "").startswith(f"Заказ {self.id} #")
        ]

    async def manager(self, do: str, **more: Any) -> list[str]:
        """What a manager does in Bitrix; the errors that it ended in."""
        asked = {"do": do, "order": self.id, "payment": self.payments[0], **more}
        code, out, err = await self.shop.site.php(str(MANAGER), text=json.dumps(asked))
        assert code == 0, out + err
        found: list[str] = json.loads(out)["errors"]
        return found


@dataclass
class Shop:
    """A Bitrix site with the handler, and a buyer's browser without JavaScript."""

    site: Site
    rig: Rig
    browser: httpx.AsyncClient
    made: int = field(default_factory=lambda: time.time_ns() // 1000 % 10**8 * 10)

    def order(
        self,
        system: int = BY_PROPERTY,
        seller: int | str = SHOP,
        goods: tuple[tuple[int | str, float], ...] | None = None,
        payments: tuple[dict[str, Any], ...] | None = None,
        amount: float = 17500,
        **fields: Any,
    ) -> Order:
        self.made += 1
        number = self.made
        payments = payments or ({"SUM": amount},)
        ids = [number * 2 + index for index in range(len(payments))]
        basket = [
            {"PRICE": price, "properties": {"SELLER": str(whose)}} for whose, price in goods or ((seller, amount),)
        ]
        order = {
            "properties": {"SHOP_ID": str(seller), "PHONE": "+7 701 521-15-45"},
            "basket": basket,
            "payments": [{"ID": id_, "PAY_SYSTEM_ID": system, **one} for id_, one in zip(ids, payments, strict=True)],
            **fields,
        }
        self.site.orders({**self.site.orders(), str(number): order})
        return Order(self, number, ids)

    def told(self, order: Order) -> str:
        """What people were told of an order, above Bitrix's pages."""
        notes = [
            note["MESSAGE"]
            for note in self.site.kept("admin_notify").values()
            if f"order {order.id}:" in note["MESSAGE"]
        ]
        return " ".join(notes)

    async def deliver(self, kind: str, payment: dict[str, Any]) -> str:
        """An event of the service arrives."""
        body = event(kind, payment)
        answer = await self.browser.post(
            "/local/payment-events.php", content=body, headers=signed(body, number=payment["id"] + kind)
        )
        return str(answer.json()["result"])


@pytest.fixture(scope="module")
async def shop(rig: Rig, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    php_or_skip()
    options = {
        "payment_service_url": rig.services[0].url,
        "payment_service_key": rig.make_key("bitrix-handler", *SCOPES),
        "payment_service_webhook_secret": WEBHOOK_SECRET,
    }
    site = Site(tmp_path_factory.mktemp("bitrix"), options)
    (site.www / "bitrix" / "systems.json").write_text(json.dumps(SYSTEMS))
    (site.www / "bitrix" / "admin_notify.json").write_text("{}")
    site.orders({})
    for page in ("payment-events.php", "payment-refund.php"):
        shutil.copy(CLIENT / page, site.www / "local" / page)
    async with site.web_server() as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as browser:
        yield Shop(site, rig, browser)
    # Whatever the tests did: no call of the site went to the proxy's own merchant.
    calls = [entry for entry in await rig.ledger() if (entry["message"] or "").startswith("Заказ ")]
    assert not [entry for entry in calls if entry["default_merchant_used"] or not entry["organization_bin"]]
    errors = (site.folder / "web-server.log").read_text()
    assert not re.search(r"PHP (Fatal|Warning|Notice|Deprecated)", errors), errors
    for secret in {*rig.secrets, WEBHOOK_SECRET, PHONE, PAYS_AT_ONCE}:
        assert secret not in site.log + json.dumps(site.kept("pay_system_log")) + json.dumps(site.kept("event_log"))


# --- paying


async def test_opened_page_asks_for_no_money(shop: Shop) -> None:
    order = shop.order()
    page = await order.open()
    assert (page.attempt, "17 500 ₸" in page.text.replace("\xa0", " ")) == (1, True)
    assert 'value="+7 701 521-15-45"' in page.html
    assert await order.calls() == []


async def test_phone_is_invoiced_once_for_its_seller_and_the_order_is_marked_as_bitrix_does(shop: Shop) -> None:
    order = shop.order(amount=17500.5)
    payment = await order.paid()
    [call] = await order.calls()
    assert (call["organization_bin"], call["device_token_sha256"]) == (SHOPS[SHOP], sha256(device_token_of(SHOP)))
    assert (call["amount"], call["default_merchant_used"]) == ("17500.50", False)
    assert (payment["PAID"], payment["PS_STATUS"], payment["PS_SUM"], payment["PS_CURRENCY"]) == (
        "Y",
        "Y",
        17500.5,
        "KZT",
    )
    assert payment["PAY_VOUCHER_NUM"] == call["external_id"]
    assert payment["PS_INVOICE_ID"] == (await shop.rig.payment_of_order(order.order_id) or {})["id"]
    assert "OnSalePsServiceProcessRequestBeforePaid" in shop.site.kept("events")
    assert "Оплачено" in (await order.open()).text


async def test_link_comes_with_its_qr_and_needs_no_javascript(shop: Shop) -> None:
    order = shop.order(seller=OTHER)
    page = await order.pay(way="link")
    made = await shop.rig.payment_of_order(order.order_id) or {}
    assert f'href="{made["payment_link"]}"' in page.html
    [png] = re.findall(r'src="data:image/png;base64,([^"]+)"', page.html)
    assert base64.b64decode(png).startswith(b"\x89PNG")
    here = order.address().replace("&", "&amp;")
    assert f'<noscript><meta http-equiv="refresh" content="5;url={here}"></noscript>' in page.html
    [call] = await order.calls()
    assert (call["op"], call["organization_bin"]) == ("create-link", SHOPS[OTHER])


@pytest.mark.parametrize("language", ["ru", "kk", "kz", "en"])
async def test_every_page_has_its_texts_in_every_language(shop: Shop, language: str) -> None:
    folder = shop.site.www / "local" / "php_interface" / "include" / "sale_payment" / "cvetykaspi"
    client = shop.site.integration / "PaymentService"
    used = {
        code
        for path in [folder / "handler.php", *folder.glob("template/*.php"), *client.glob("*.php")]
        for code in re.findall(r"'SALE_HPS_CVETYKASPI_(\w+[A-Z])'", path.read_text("utf-8"))
    }
    reasons = {
        "PAID",
        "PEOPLE",
        "ENDED",
        "REFUSED",
        "BUSY",
        "NOT_SENT",
        "PHONE",
        "AWAY",
        "SETTINGS",
        "REFUNDED",
        "SELLER",
        "CANCELLED",
        "CHANGED",
    }
    used |= {f"REASON_{reason}" for reason in reasons}
    used |= {f"REFUND_{code}" for code in re.findall(r"\$text\('(\w+)'", (client / "refund.php").read_text("utf-8"))}
    text = (folder / "lang" / ("kk" if language == "kz" else language) / "handler.php").read_text("utf-8")
    assert used == set(re.findall(r"\$MESS\['SALE_HPS_CVETYKASPI_(\w+)'\]", text))
    assert (await shop.order().open(lang=language)).attempt == 1


WAITS, CHECKS, REFUSED, ENDED = "Счёт отправлен", "Проверяем ваш платёж", "Kaspi отклонил", "не был оплачен"
CLOSED, NO_KASPI = "нельзя оплатить", "не принимает Kaspi"
REFUSED_OR_NOT_SENT = f"{REFUSED}|ничего не отправлено"


@pytest.mark.parametrize(
    ("suffix", "shows"),
    [
        pytest.param("9017", WAITS, id="waits"),
        pytest.param("9062", REFUSED, id="refused"),
        pytest.param("9027", CHECKS, id="lost, applied"),
        pytest.param("9053", REFUSED_OR_NOT_SENT, id="429", marks=pytest.mark.thorough),
        pytest.param("9022", CHECKS, id="hangs", marks=pytest.mark.thorough),
        pytest.param("9023", CHECKS, id="hangs, applied", marks=pytest.mark.thorough),
        pytest.param("9026", CHECKS, id="lost", marks=pytest.mark.thorough),
        pytest.param("9031", CHECKS, id="500", marks=pytest.mark.thorough),
        pytest.param("9039", CHECKS, id="-999", marks=pytest.mark.thorough),
    ],
)
async def test_every_course_is_shown_as_it_is_and_asks_once(shop: Shop, suffix: str, shows: str) -> None:
    order = shop.order()
    first = await order.open()
    page = await order.press(first, phone=f"7701521{suffix}")
    assert re.search(shows, page.text), page.text
    again = await order.press(first, phone=f"7701521{suffix}")  # the page was loaded anew, or the button pressed twice
    opened = await order.open()
    assert len(await order.calls()) == 1
    if shows in {WAITS, CHECKS}:
        assert (page.attempt, again.attempt, opened.attempt) == (0, 0, 0)
    else:
        assert (page.attempt, again.attempt, opened.attempt) == (2, 2, 2)
    assert order.payment.get("PAID", "N") == "N"


async def test_buyer_tries_again_only_after_the_last_attempt_has_ended(shop: Shop) -> None:
    order = shop.order()
    first = await order.open()
    page = await order.press(first, phone="77015219013")

    async def ended() -> Page | None:
        found = await order.open()
        return found if found.attempt == 2 else None

    second = await until(ended, "the declined invoice has ended")
    assert ENDED in second.text
    assert page.attempt == 0
    # The page of the first attempt, with the back button: nothing is sent, and the buyer sees where it stands.
    assert (await order.press(first)).attempt == 2
    assert WAITS in (await order.press(second, phone="77015219017")).text
    assert len(await order.calls()) == 2


async def test_two_clicks_in_two_processes_send_once(shop: Shop) -> None:
    order = shop.order()
    page = await order.open()
    pages = await asyncio.gather(*(order.press(page, phone="77015219017") for _ in range(4)))
    assert [WAITS in one.text for one in pages] == [True] * 4
    assert len(await order.calls()) == 1


async def test_site_whose_own_folder_cannot_be_written_sends_nothing(shop: Shop) -> None:
    order = shop.order()
    page = await order.open()
    folder = shop.site.options["payment_service_folder"]
    try:
        shop.site.options["payment_service_folder"] = str(MANAGER)  # a file
        shop.site.save_options()
        assert CLOSED in (await order.press(page)).text
    finally:
        shop.site.options["payment_service_folder"] = folder
        shop.site.save_options()
    assert await order.calls() == []


async def test_both_buttons_at_once_send_once(shop: Shop) -> None:
    order = shop.order(amount=17500.17)
    page = await order.open()
    await asyncio.gather(*(order.press(page, way, "77015219017") for way in ("phone", "link", "phone", "link")))
    assert len(await order.calls()) == 1


async def test_order_that_is_open_at_the_service_already_is_shown_and_not_asked_for(shop: Shop) -> None:
    order = shop.order()
    page = await order.open()
    await shop.rig.create(SHOP, order_id=order.order_id, amount=17500, phone="77015219017")
    assert WAITS in (await order.press(page)).text
    assert await order.calls() == []


@pytest.mark.parametrize("phone", ["", "123", "+1 202 555 01 11", "7701521154", "7701521154x", "870152115455"])
async def test_what_is_no_phone_is_asked_for_again(shop: Shop, phone: str) -> None:
    order = shop.order()
    page = await order.pay(phone)
    assert ("Проверьте номер" in page.text, page.attempt) == (True, 1)
    assert await order.calls() == []


async def test_form_of_another_visitor_or_another_payment_is_not_obeyed(shop: Shop) -> None:
    order, other = shop.order(), shop.order()
    page = await order.open()
    body = {**page.hidden(), "CVETYKASPI_WAY": "phone", "CVETYKASPI_PHONE": PHONE}
    for change in ({"sessid": "0" * 32}, {"CVETYKASPI_PAYMENT": str(other.payments[0])}):
        answer = await shop.browser.post(order.address(), data={**body, **change})
        assert Page(answer.text).attempt == 1
    assert await order.calls() == await other.calls() == []


@pytest.mark.thorough
async def test_waiting_page_changes_by_itself(shop: Shop, browser_page: BrowserPage) -> None:
    order = shop.order()
    await browser_page.goto(str(shop.browser.base_url.join(order.address())))
    await browser_page.fill("input[type=tel]", "+7 701 521-90-17")
    await browser_page.click("button[value=phone]")
    await browser_page.get_by_text(WAITS).wait_for()
    payment = await shop.rig.payment_of_order(order.order_id) or {}
    (await shop.rig.sandbox_client.post(f"/_payments/{payment['external_id']}/pay")).raise_for_status()
    await browser_page.get_by_text("Спасибо, оплата получена.").wait_for()
    assert len(await order.calls()) == 1


# --- what the service, or something in its place, answers


@dataclass
class InBetween:
    """In the service's place: knows of no payment, and answers a create as it is told."""

    answer: Answer
    find: Answer = field(default_factory=lambda: as_json({"items": []}))
    creates: list[Request] = field(default_factory=list)

    async def respond(self, request: Request) -> Answer:
        if request.method == "GET":
            return replace(self.find, body=self.find.body.replace(b"ASKED", request.query.get("order_id", "").encode()))
        self.creates.append(request)
        return self.answer


def problem(code: str, status: int) -> Answer:
    return as_json({"code": code, "detail": f"It is {code}.", "status": status}, status)


@pytest.fixture
async def pay_between(shop: Shop) -> AsyncIterator[Callable[[InBetween], Awaitable[Page]]]:
    address = shop.site.options["payment_service_url"]

    async def pay(between: InBetween) -> Page:
        order = shop.order()
        page = await order.open()
        async with served(between.respond) as url:
            shop.site.options["payment_service_url"] = url
            shop.site.save_options()
            return await order.press(page)

    yield pay
    shop.site.options["payment_service_url"] = address
    shop.site.save_options()


@pytest.mark.parametrize(
    ("answer", "shows", "creates"),
    [
        pytest.param(problem("rate_limited", 429), "Слишком много", 1, id="429"),
        # Surely not sent, says the service: the client asks again, under the same key.
        pytest.param(problem("not_sent", 503), "ничего не отправлено", 3, id="503 not sent"),
        pytest.param(as_json({"id": "01a", "state": "unknown", "detail": "Not known."}, 202), CHECKS, 1, id="202"),
        pytest.param(Answer(drop=True), CHECKS, 1, id="lost"),
        pytest.param(problem("draining", 503), "ничего не отправлено", 1, id="503", marks=pytest.mark.thorough),
        pytest.param(problem("order_already_open", 409), "отклонил", 1, id="409 open", marks=pytest.mark.thorough),
        pytest.param(problem("still_running", 409), CHECKS, 1, id="409 running", marks=pytest.mark.thorough),
        pytest.param(Answer(502, b"<html>", "text/html"), CHECKS, 1, id="502", marks=pytest.mark.thorough),
        pytest.param(Answer(200, b"<html>", "text/html"), CHECKS, 1, id="html", marks=pytest.mark.thorough),
        pytest.param(problem("internal_error", 500), CHECKS, 1, id="500", marks=pytest.mark.thorough),
        pytest.param(problem("shop_inactive", 403), NO_KASPI, 1, id="403", marks=pytest.mark.thorough),
        pytest.param(problem("shop_not_configured", 404), NO_KASPI, 1, id="404", marks=pytest.mark.thorough),
        pytest.param(problem("authentication_required", 401), CLOSED, 1, id="401", marks=pytest.mark.thorough),
    ],
)
async def test_every_answer_is_shown_as_it_is_and_nothing_unsure_is_sent_twice(
    pay_between: Callable[[InBetween], Awaitable[Page]], answer: Answer, shows: str, creates: int
) -> None:
    between = InBetween(answer)
    page = await pay_between(between)
    assert shows in page.text
    assert len(between.creates) == creates
    assert len({request.headers["idempotency-key"] for request in between.creates}) == 1


async def test_service_that_cannot_say_what_it_has_is_asked_for_nothing(
    pay_between: Callable[[InBetween], Awaitable[Page]],
) -> None:
    for find in (problem("database_unavailable", 503), Answer(200, b"<html>", "text/html"), as_json({"what": 1})):
        between = InBetween(as_json({}), find)
        page = await pay_between(between)
        assert "не можем узнать" in page.text
        assert between.creates == []


@pytest.mark.parametrize(
    ("state", "shows", "attempt"),
    [
        ("pending", WAITS, 0),
        ("unknown", CHECKS, 0),
        ("sending", WAITS, 0),
        ("paid", "Оплачено", 0),
        ("failed", ENDED, 2),
    ],
)
async def test_button_of_an_attempt_that_was_made_asks_for_nothing(
    pay_between: Callable[[InBetween], Awaitable[Page]], state: str, shows: str, attempt: int
) -> None:
    made = {"id": "01a", "state": state, "shop_id": SHOP, "order_id": "ASKED", "amount": 17500, "refunded_amount": 0}
    between = InBetween(as_json({}), as_json({"items": [made]}))
    page = await pay_between(between)
    assert (shows in page.text, page.attempt, between.creates) == (True, attempt, [])


# --- whose money it is


MORE_THAT_IS_UNSURE: list[dict[str, Any]] = [
    {"system": NO_GOODS},
    {"system": BY_XML_ID},
    {"system": BY_XML_ID, "payments": ({"SUM": 17500, "XML_ID": "121038"},)},
    {"seller": "none"},
    {"properties": {}},
    {"goods": ((SHOP, 10000), (OTHER, 7500))},
    {"goods": ((SHOP, 10000), ("", 7500))},
    {"payments": ({"SUM": 17500, "CURRENCY": "RUB"},)},
]


@pytest.mark.parametrize(
    "wrong",
    [
        {"system": NO_RULE},
        {"system": INHERITED},
        {"seller": ""},
        {"seller": SHOP, "goods": ((OTHER, 17500),)},
        {"goods": ((SHOP, 10000), (OTHER, 7500)), "payments": ({"SUM": 10000},)},
        {
            "system": BY_XML_ID,
            "goods": ((SHOP, 10000), (OTHER, 7500)),
            "payments": ({"SUM": 17500, "XML_ID": f"shop-{SHOP}"},),
        },
        *(pytest.param(wrong, marks=pytest.mark.thorough) for wrong in MORE_THAT_IS_UNSURE),
    ],
    ids=str,
)
async def test_payment_without_one_sure_seller_cannot_be_paid(shop: Shop, wrong: dict[str, Any]) -> None:
    order = shop.order(**wrong)
    page = await order.open()
    assert (page.attempt, CLOSED in page.text) == (0, True)
    body = {"CVETYKASPI_PAYMENT": str(order.payments[0]), "CVETYKASPI_ATTEMPT": "1", "CVETYKASPI_WAY": "link"}
    body["sessid"] = (await shop.order().open()).hidden()["sessid"]
    forged = Page((await shop.browser.post(order.address(), data=body)).text)
    assert CLOSED in forged.text
    assert await order.calls() == []


async def test_order_of_two_sellers_is_two_payments_each_to_its_own(shop: Shop) -> None:
    payments = ({"SUM": 10000, "XML_ID": f"shop-{SHOP}"}, {"SUM": 9000, "XML_ID": f"shop-{OTHER}"})
    goods = ((SHOP, 10000.0), (OTHER, 7500.0))
    order = shop.order(BY_XML_ID, goods=goods, payments=payments, PRICE_DELIVERY=1500)
    for index in range(2):
        await order.press(await order.open(index), phone="77015219017", index=index)
    calls = await order.calls()
    assert [(call["organization_bin"], call["amount"]) for call in calls] == [
        (SHOPS[SHOP], "10000.00"),
        (SHOPS[OTHER], "9000.00"),
    ]


async def test_fixed_shop_that_names_its_own_payment_system_is_paid(shop: Shop) -> None:
    order = shop.order(FIXED, seller=OTHER)
    await order.pay("77015219017")
    [call] = await order.calls()
    assert call["organization_bin"] == SHOPS[SHOP]


# --- events, and pages that ask


def event_of(order: Order, **change: Any) -> dict[str, Any]:
    return {
        "id": f"p{order.id}",
        "version": 3,
        "state": "paid",
        "status": "Processed",
        "external_id": str(order.id),
        "shop_id": SHOP,
        "order_id": order.order_id,
        "amount": 17500,
        "refunded_amount": 0,
        **change,
    }


async def test_event_marks_the_payment_that_it_names(shop: Shop) -> None:
    order = shop.order(payments=({"SUM": 17500}, {"SUM": 17500}))
    assert await shop.deliver("payment.paid", event_of(order)) == "done"
    assert [one["PAID"] for one in order.now["payments"]] == ["Y", "N"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shop_id": OTHER}, "seller_differs"),
        ({"amount": 17499.99}, "amount_differs"),
        ({"amount": 1750}, "amount_differs"),
        ({"currency": "RUB"}, "currency_differs"),
        ({"order_id": "s1-{order}-1"}, "no_such_order"),
        ({"order_id": "s2-{order}-{payment}"}, "no_such_order"),
        ({"order_id": "{order}"}, "amount_differs"),
    ],
    ids=str,
)
async def test_event_of_another_seller_sum_currency_or_payment_marks_nothing(
    shop: Shop, change: dict[str, Any], word: str
) -> None:
    order = shop.order()
    told = {
        name: value.format(order=order.id, payment=order.payments[0]) if isinstance(value, str) else value
        for name, value in change.items()
    }
    assert await shop.deliver("payment.paid", event_of(order, **told)) == word
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("N", None)
    assert f"Kaspi has {told.get('amount', 17500):.2f} tenge" in shop.told(order)
    assert order.now["MARKED"] == "Y" or order.payment["MARKED"] == "Y"


async def test_money_for_a_cancelled_order_goes_to_people(shop: Shop) -> None:
    order = shop.order(CANCELED="Y")
    assert await shop.deliver("payment.paid", event_of(order)) == "order_cancelled"
    assert (order.payment["PAID"], order.payment["MARKED"]) == ("N", "Y")
    assert "the order is cancelled. Refund it" in shop.told(order)
    assert ["PAYMENT", order.payments[0]] in [marker[:2] for marker in shop.site.kept("markers")]
    assert "Заказ отменён" in (await order.open()).text


async def test_cancelled_order_with_an_open_invoice_tells_people(shop: Shop) -> None:
    order, quiet = shop.order(), shop.order()
    await order.pay("77015219017")
    assert await order.manager("cancel") == await quiet.manager("cancel") == []
    assert "its invoice of 17500.00 tenge at Kaspi can still be paid" in shop.told(order)
    assert shop.told(quiet) == ""


async def test_paid_order_that_is_cancelled_tells_people(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    assert await order.manager("cancel") == []
    assert "Kaspi has its money. Refund it" in shop.told(order)


# --- the order changes while its invoice is open


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        pytest.param({"payment": {"PAID": "Y"}}, "Оплачено", id="paid in cash"),
        pytest.param({"payment": {"SUM": 20000}}, "Заказ изменился", id="another sum"),
        pytest.param({"properties": {"SHOP_ID": str(OTHER)}}, "Заказ изменился", id="another seller"),
        pytest.param(
            {"DATE_INSERT": "2100-01-01", "payment": {"PS_INVOICE_ID": None}},
            "Заказ изменился",
            id="of an earlier order of this number",
        ),
    ],
)
async def test_link_that_is_not_for_the_order_as_it_is_now_is_not_shown(
    shop: Shop, change: dict[str, Any], shows: str
) -> None:
    order = shop.order()
    page = await order.pay(way="link")
    link = (await shop.rig.payment_of_order(order.order_id) or {})["payment_link"]
    assert f'href="{link}"' in page.html
    order.change(**change)
    opened, pressed = await order.open(), await order.pay(way="link")
    assert (shows in opened.text, shows in pressed.text) == (True, True)
    assert link not in opened.html + pressed.html
    assert (await order.asked(page))["step"] != "waiting"
    assert len(await order.calls()) == 1


async def test_money_for_a_payment_that_somebody_had_marked_as_paid_is_told_once_and_stays_marked(shop: Shop) -> None:
    order = shop.order()
    order.change({"PAID": "Y"})
    assert await shop.deliver("payment.paid", event_of(order)) == "paid_before"
    assert "was marked as paid before" in shop.told(order)
    assert (order.payment["PAID"], order.payment["PS_SUM"], order.payment["MARKED"]) == ("Y", 17500, "Y")
    assert await shop.deliver("payment.late_success", event_of(order)) == "already"
    # Kaspi's money went back; the cash did not.
    assert await shop.deliver("refund.succeeded", event_of(order, version=4, refunded_amount=17500)) == "done"
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("Y", 0)


async def test_payment_of_another_installation_is_no_matter_of_this_one(shop: Shop) -> None:
    order = shop.order()
    other = {"order_id": f"b{order.order_id}"}
    assert await shop.deliver("payment.paid", event_of(order, **other)) == "other_site"
    refund = event_of(order, **other, version=4, refunded_amount=5)
    assert await shop.deliver("refund.succeeded", refund) == "other_site"
    assert (order.now.get("MARKED"), order.payment.get("MARKED"), shop.told(order)) == (None, None, "")


@pytest.mark.parametrize("named", ["s1-{id}-5", "{id}"])
async def test_money_for_a_deleted_order_is_told_to_people(shop: Shop, named: str) -> None:
    order = shop.order()
    orders = shop.site.orders()
    del orders[str(order.id)]
    shop.site.orders(orders)
    told = event_of(order, order_id=named.format(id=order.id))
    assert await shop.deliver("payment.paid", told) == "no_such_order"
    assert "Kaspi has 17500.00 tenge for this order, and there is no such order" in shop.told(order)


async def test_payment_whose_invoice_is_open_is_not_deleted(shop: Shop) -> None:
    order, quiet = shop.order(), shop.order()
    await order.pay("77015219017")
    [error] = await order.manager("delete")
    assert "cannot be deleted, and its invoice of 17500.00 tenge at Kaspi can still be paid" in error
    assert len(order.now["payments"]) == 1
    assert await quiet.manager("delete") == []
    assert quiet.now["payments"] == []


@pytest.mark.parametrize("fields", [{"SUM": 20000}, {"PAID": "Y"}, {"PAY_SYSTEM_ID": NO_RULE}], ids=str)
async def test_change_of_a_payment_whose_invoice_is_open_tells_people(shop: Shop, fields: dict[str, Any]) -> None:
    order, quiet = shop.order(), shop.order()
    await order.pay("77015219017")
    for one in (order, quiet):
        assert await one.manager("change", fields=fields) == []
    assert "its invoice of 17500.00 tenge at Kaspi can still be paid" in shop.told(order)
    assert shop.told(quiet) == ""


async def test_page_of_somebody_else_is_told_nothing(shop: Shop) -> None:
    order, other = shop.order(), shop.order()
    page = await order.pay("77015219017")
    foreign = page.ask.replace(f"PAYMENT_ID={order.payments[0]}", f"PAYMENT_ID={other.payments[0]}")
    for ask in (foreign, re.sub("TOKEN=.*", "TOKEN=", page.ask)):
        assert (await shop.browser.get(ask)).json() == {"step": "forbidden"}


async def test_order_is_marked_once_however_many_pages_ask(shop: Shop) -> None:
    order = shop.order()
    page = await order.pay("77015219017")
    payment = await shop.rig.payment_of_order(order.order_id) or {}
    (await shop.rig.sandbox_client.post(f"/_payments/{payment['external_id']}/pay")).raise_for_status()
    await shop.rig.in_state(payment["id"], "paid")
    before = len(shop.site.kept("events"))
    slow = shop.site.www / "bitrix" / "save_takes_s.json"
    slow.write_text("[0.3]")
    try:
        said = await asyncio.gather(*(order.asked(page) for _ in range(3)))
    finally:
        slow.unlink()
    assert [one["step"] for one in said] == ["paid"] * 3
    assert order.payment["PAID"] == "Y"
    assert shop.site.kept("events")[before:].count("OnSalePsServiceProcessRequestBeforePaid") == 1


async def test_check_by_a_manager_brings_the_payment_to_what_kaspi_says(shop: Shop) -> None:
    order = shop.order()
    await order.pay(PAYS_AT_ONCE)

    async def is_paid() -> bool:
        assert await order.manager("check") == []
        return bool(order.payment["PAID"] == "Y")

    await until(is_paid, "the check finds it paid")
    assert order.payment["PS_STATUS"] == "Y"


# --- refunds


async def refunds_of(order: Order) -> list[dict[str, Any]]:
    return await order.shop.rig.ledger(op="refund", external_id=order.payment["PAY_VOUCHER_NUM"])


async def test_refund_from_the_order_form_reaches_kaspi_once_and_whole(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    first, second = await asyncio.gather(order.manager("return"), order.manager("return"))
    assert [] in (first, second)
    [refund] = await refunds_of(order)
    assert (refund["amount"], refund["organization_bin"]) == ("17500.00", SHOPS[SHOP])
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("N", 0)
    await order.manager("return")
    assert len(await refunds_of(order)) == 1
    page = await order.open()
    assert (page.attempt, "возвращены" in page.text) == (0, True)


async def test_part_is_refunded_and_an_old_page_cannot_refund_it_again(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    late = asyncio.create_task(order.manager("refund", sum=500, dwell_s=1.5))
    await asyncio.sleep(0.5)
    assert await order.manager("refund", sum=500) == []
    [error] = await late
    assert "500.00 tenge" in error
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("Y", 17000)
    assert await order.manager("refund", sum=500) == []
    assert [entry["amount"] for entry in await refunds_of(order)] == ["500.00", "500.00"]
    assert await order.manager("return") == []
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("N", 0)
    assert [entry["amount"] for entry in await refunds_of(order)][2:] == ["16500.00"]


async def test_two_managers_at_once_pay_back_one_of_their_parts(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    said = await asyncio.gather(*(order.manager("refund", sum=sum_, dwell_s=0.5) for sum_ in (500, 700, 900)))
    assert sorted(map(len, said)) == [0, 1, 1]
    assert len(await refunds_of(order)) == 1


async def test_unknown_refund_is_shown_as_such_and_blocks(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    [error] = await order.manager("refund", sum=100.27)
    assert "Неизвестно, вернул ли Kaspi деньги" in error
    assert (order.payment["PAID"], order.payment["MARKED"]) == ("Y", "Y")
    for again in ({"do": "refund", "sum": 100.27}, {"do": "refund", "sum": 1}, {"do": "return"}):
        [error] = await order.manager(**again)
        assert "Неизвестно, вернул ли Kaspi деньги" in error
    assert len(await refunds_of(order)) == 1
    assert "Неизвестно" in shop.told(order)


async def test_what_is_refunded_elsewhere_reaches_the_order_when_a_manager_checks(shop: Shop) -> None:
    order = shop.order()
    payment = await order.paid()
    await shop.rig.refund(payment["PAY_VOUCHER_NUM"], amount=500)
    [error] = await order.manager("return")
    assert "500.00 tenge" in error
    await order.manager("check")
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("Y", 17000)
    await shop.rig.refund(payment["PAY_VOUCHER_NUM"], full=True)
    await order.manager("check")
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("N", 0)
    # It may be paid anew: the order stands, and nobody returned it in Bitrix.
    assert (await order.open()).attempt == 2


async def test_refused_refund_is_told_and_may_be_tried_again(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    [error] = await order.manager("refund", sum=100.74)
    assert "-99000020" in error
    assert order.payment["PAID"] == "Y"
    assert await order.manager("return") == []
    assert [entry["applied"] for entry in await refunds_of(order)] == [False, True]


async def test_console_names_the_seller_and_refunds_a_part(shop: Shop) -> None:
    order, unsure = shop.order(), shop.order(NO_RULE)
    console = str(shop.site.integration / "PaymentService" / "console.php")
    code, out, _err = await shop.site.php(console, "seller", str(order.payments[0]))
    assert (code, out) == (0, f"ok    shop {SHOP}\n")
    code, out, _err = await shop.site.php(console, "seller", str(unsure.payments[0]))
    assert (code, "no rule" in out) == (1, True)
    await order.paid()
    for sum_, good in (("", False), ("0", False), ("x", False), ("500.5", True)):
        code, out, _err = await shop.site.php(console, "refund", str(order.payments[0]), sum_)
        assert (code == 0) is good, out
    assert [entry["amount"] for entry in await refunds_of(order)] == ["500.50"]
    assert order.payment["PS_SUM"] == 16999.5


async def test_manager_pays_back_a_part_on_a_page_and_a_second_press_pays_nothing(shop: Shop) -> None:
    order = shop.order()
    await order.paid()
    menu = (await shop.browser.get("/bitrix/order_view.php", params={"ID": order.id})).json()
    address = f"/local/payment-refund.php?PAYMENT_ID={order.payments[0]}"
    assert [item.get("LINK") for item in menu] == [None, address]
    page = Page((await shop.browser.get(address)).text)
    assert "17500.00 ₸" in page.text
    body = {**page.hidden(), "SUM": "1 500,50"}
    for change in ({"SUM": ""}, {"SUM": "0"}, {"SUM": "-5"}, {"SUM": "1e3"}, {"sessid": "0" * 32}):
        await shop.browser.post(address, data={**body, **change})
    first, second = [Page((await shop.browser.post(address, data=body)).text) for _ in range(2)]
    assert ("Возвращено 1500.50 ₸" in first.text, "уже был возврат" in second.text) == (True, True)
    assert [entry["amount"] for entry in await refunds_of(order)] == ["1500.50"]
    rest = Page((await shop.browser.post(address, data={**second.hidden(), "SUM": "15999.50"})).text)
    assert "SHOWN" not in rest.hidden()
    assert (order.payment["PAID"], order.payment["PS_SUM"]) == ("N", 0)


async def test_page_for_refunds_is_the_managers_alone(shop: Shop) -> None:
    order = shop.order()
    address = f"/local/payment-refund.php?PAYMENT_ID={order.payments[0]}"
    for right, status in (("D", 403), ("P", 403), ("U", 200)):
        assert (await shop.browser.get(address, headers={"Cookie": f"RIGHT={right}"})).status_code == status
    for payment in ("", "1", "x", f"{order.payments[0]}x"):
        assert (await shop.browser.get("/local/payment-refund.php", params={"PAYMENT_ID": payment})).status_code == 404


async def test_what_no_event_told_is_marked_and_what_a_backup_forgot_is_marked_again(shop: Shop) -> None:
    order, quiet = shop.order(), shop.order()
    console = str(shop.site.integration / "PaymentService" / "console.php")
    made = (await shop.rig.create(SHOP, order_id=order.order_id, amount=17500, phone=PAYS_AT_ONCE)).json()
    foreign = (await shop.rig.create(SHOP, order_id=str(quiet.id), amount=17500, phone=PAYS_AT_ONCE)).json()
    for one in (made, foreign):
        await shop.rig.in_state(one["id"], "paid")

    async def paid() -> str:
        code, out, err = await shop.site.php(console, "paid", "1")
        assert code == 0, out + err
        return str(order.payment.get("PAID", "N"))

    assert await paid() == "Y"
    # A mark that a person took away stays away.
    order.change({"PAID": "N"})
    assert await paid() == "N"
    # The shop's database was put back to a backup.
    order.change({"PS_STATUS": None, "PS_INVOICE_ID": None, "PAY_VOUCHER_NUM": None})
    shutil.rmtree(shop.site.own / "webhooks")
    assert await paid() == "Y"
    # An order that is named by its ID alone may need the site's own rules.
    assert quiet.payment.get("PAID", "N") == "N"
    assert [(await shop.site.php(console, "paid", days))[0] for days in ("x", "0", "31")] == [1, 1, 1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another user")
async def test_command_line_of_another_user_leaves_no_files_that_the_site_cannot_lock(shop: Shop) -> None:
    console = str(shop.site.integration / "PaymentService" / "console.php")
    os.chown(shop.site.own, 65534, 65534)
    try:
        code, out, _err = await shop.site.php(console, "paid")
    finally:
        os.chown(shop.site.own, 0, 0)
    assert (code, "files of another user would stop the site" in out) == (1, True)


async def test_time_zone_of_the_command_line_makes_no_order_younger_than_its_invoice(shop: Shop) -> None:
    order = shop.order()
    await order.pay("77015219017")
    payment = await shop.rig.payment_of_order(order.order_id) or {}
    (await shop.rig.sandbox_client.post(f"/_payments/{payment['external_id']}/pay")).raise_for_status()
    await shop.rig.in_state(payment["id"], "paid")
    # Local time of Almaty, which a PHP without a time zone takes for UTC.
    order.change(DATE_INSERT=(datetime.now(UTC) + timedelta(hours=5)).strftime("%Y-%m-%d %H:%M:%S"))
    code, out, _err = await shop.site.php(str(shop.site.integration / "PaymentService" / "console.php"), "paid", "1")
    assert (code, order.payment.get("PAID")) == (0, "Y"), out


async def test_agent_sends_what_the_journal_keeps_and_asks_to_be_called_again(shop: Shop) -> None:
    code = (
        "$_SERVER['DOCUMENT_ROOT'] = getenv('DOCUMENT_ROOT');"
        "require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';"
        "require $_SERVER['DOCUMENT_ROOT'] . '/local/classes/Integration/PaymentService/include.php';"
        "Integration\\PaymentService\\Agents::register(); Integration\\PaymentService\\Agents::register();"
        "echo $said = Integration\\PaymentService\\Agents::replay(); eval($said);"
        "echo $said = Integration\\PaymentService\\Agents::paid(); eval($said);"
    )
    status, out, err = await shop.site.php("-r", code)
    agents = [f"\\Integration\\PaymentService\\Agents::{name}();" for name in ("replay", "paid")]
    assert (status, out) == (0, "".join(agents)), err
    assert shop.site.kept("agents") == dict(zip(agents, (300, 3600), strict=True))


LIVES = range(20, 32)
DOINGS = ("open", "press", "press", "pay", "decline", "events", "sum", "cash", "delete", "part", "return", "cancel")


@pytest.mark.thorough
@pytest.mark.parametrize("seed", LIVES)
async def test_whatever_happens_to_an_order_its_money_is_marked_or_told(shop: Shop, seed: int) -> None:
    chance = random.Random(seed)
    order = shop.order()
    old = await order.open()
    seen: dict[str, list[dict[str, Any]]] = {}

    async def payments() -> list[dict[str, Any]]:
        items = (await shop.rig.api.get("/payments", params={"order_id": order.order_id})).json()["items"]
        for one in items:
            states = seen.setdefault(one["id"], [])
            if one not in states:
                states.append(one)
        return list(items)

    async def do(what: str) -> None:
        nonlocal old
        made = await payments()
        pending = [one for one in made if one["state"] == "pending"]
        match what:
            case "open":
                old = await order.open()
            case "press":
                await order.press(old, phone="77015219017")
            case "pay" | "decline" if pending:
                address = f"/_payments/{pending[0]['external_id']}/{what}"
                (await shop.rig.sandbox_client.post(address)).raise_for_status()
                await shop.rig.in_state(pending[0]["id"], "paid", "cancelled", "failed")
            case "events":
                states = [one for each in seen.values() for one in each if one["state"] == "paid"]
                for one in chance.sample(states, len(states)):
                    kind = "refund.succeeded" if one["refunded_amount"] else "payment.paid"
                    await shop.deliver(kind, one)
            case "sum" if order.now["payments"] and order.payment.get("PAID", "N") == "N":
                await order.manager("change", fields={"SUM": chance.choice((17500, 20000))})
            case "cash" if order.now["payments"]:
                await order.manager("change", fields={"PAID": "Y"})
            case "delete" if order.now["payments"]:
                await order.manager("delete")
            case "part" | "return" if order.now["payments"]:
                await order.manager("refund" if what == "part" else "return", sum=500)
            case "cancel" if chance.random() < 0.3:
                await order.manager("cancel")

    for _ in range(14):
        if not order.now["payments"]:
            break
        await do(chance.choice(DOINGS))
        open_or_paid = [
            one
            for one in await payments()
            if one["state"] in {"pending", "unknown", "sending"}
            or (one["state"] == "paid" and one["refunded_amount"] < one["amount"])
        ]
        assert len(open_or_paid) <= 1, open_or_paid
    await payments()
    await do("events")
    for one in await payments():
        kept = one["amount"] - one["refunded_amount"] if one["state"] == "paid" else 0
        marked = bool(order.now["payments"]) and order.payment.get("PAID") == "Y" and order.payment["PS_SUM"] == kept
        assert not kept or marked or re.search("tenge for this order|Kaspi has its money", shop.told(order))
