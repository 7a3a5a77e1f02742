"""The client that shops install, as real PHP against the real service, the stand-in proxy and a stand-in of Kaspi."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.php.certificates import PASSWORD, Papers, issue
from tests.e2e.php.kaspi import Kaspi
from tests.e2e.php.site import Site, Threw, php_or_skip
from tests.e2e.php.web import Answer, Request, as_json, served
from tests.support.processes import free_port
from tests.support.rig import PAYS_AT_ONCE, PHONE, Rig, sha256, tenge
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("php")

SHOP = 121038
BIN = SHOPS[SHOP]
SCOPES = ["config:read", "secrets:read", "reports:write", "payments:write", "payments:read", "refunds:write"]
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret of this test, 32 bytes!").decode()
NOBODY = "http://127.0.0.1:1"
DAY_S = 86_400
sellers = pytest.mark.parametrize("shop_id", SHOPS)


@pytest.fixture(scope="module", autouse=True)
def _php() -> None:
    php_or_skip()


@pytest.fixture(scope="module")
def key(rig: Rig) -> str:
    """A key as docs/bitrix.md says to make it."""
    return rig.make_key("bitrix", *SCOPES)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return issue(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
async def kaspi(rig: Rig, papers: Papers) -> AsyncIterator[tuple[Kaspi, str]]:
    """Kaspi's own API, and its address."""
    stand_in = Kaspi(rig)
    async with served(stand_in.respond, papers.of_server()) as url:
        yield stand_in, url


class Sites:
    """Makes sites, and in the end looks through what they wrote for what must never be written."""

    def __init__(self, rig: Rig, key: str, papers: Papers, kaspi_url: str) -> None:
        self.rig = rig
        self.options = {
            "payment_service_url": rig.services[0].url + "/api",
            "payment_service_key": key,
            "payment_service_webhook_secret": WEBHOOK_SECRET,
            "kaspi_url": kaspi_url,
            "kaspi_certificate": str(papers.certificate),
            "kaspi_key": str(papers.key),
            "kaspi_key_password": PASSWORD,
            "kaspi_ca_file": str(papers.authority),
        }
        self.made: list[Site] = []

    def make(self, folder: Path) -> Site:
        self.made.append(Site(folder, dict(self.options)))
        return self.made[-1]

    def check(self) -> None:
        secrets = {*self.rig.secrets, PASSWORD, WEBHOOK_SECRET}
        for site in self.made:
            for path in [*site.own.glob("*.log"), *site.own.glob("journal/**/*.json"), *site.folder.glob("*.log")]:
                written = path.read_text("utf-8")
                assert not [secret for secret in secrets if secret in written], path
                assert not re.search(r"(?<![0-9A-Za-z])\+?[78]7\d{9}(?![0-9A-Za-z])", written), path


@pytest.fixture(scope="module")
def sites(rig: Rig, key: str, papers: Papers, kaspi: tuple[Kaspi, str]) -> Iterator[Sites]:
    sites = Sites(rig, key, papers, kaspi[1])
    yield sites
    sites.check()


@pytest.fixture
def site(sites: Sites, tmp_path: Path) -> Site:
    return sites.make(tmp_path)


# --- through the service


@dataclass
class Sold:
    """What a page that lets the service do everything got, in order."""

    word: str
    created: dict[str, Any]
    paid: dict[str, Any]
    status: dict[str, Any]
    refunds: list[Any]
    link: dict[str, Any]
    ledger: list[dict[str, Any]]


async def sell(sites: Sites, folder: Path, shop_id: int) -> Sold:
    site, word = sites.make(folder), sites.rig.word()
    order = {"shop_id": shop_id, "order_id": word, "amount": 17500.5, "phone": PAYS_AT_ONCE, "message": word}
    link = {"shop_id": shop_id, "order_id": f"{word} link", "amount": "990", "message": word}
    created, again, linked = await site.client(
        ("createPayment", [order]), ("createPayment", [order]), ("createPaymentLink", [link])
    )
    assert again["id"] == created["id"]
    external_id = created["external_id"]
    paid, status, *refunds = await site.client(
        ("waitForPayment", [created["id"], 20, 0.1]),
        ("getPaymentStatus", [external_id]),
        ("refund", [shop_id, external_id, 500.25]),
        ("refund", [shop_id, external_id, "500.25"]),
        ("refund", [shop_id, external_id, 500.25, {"attempt": 2}]),
        ("refundAll", [shop_id, external_id]),
        ("refund", [shop_id, external_id, 1]),
    )
    return Sold(word, created, paid, status, refunds, linked, await sites.rig.ledger(external_id=external_id))


@pytest.fixture(scope="module")
async def sold(sites: Sites, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Sold]:
    """A day of each seller, all at once."""
    days = await asyncio.gather(*(sell(sites, tmp_path_factory.mktemp(f"shop{shop}"), shop) for shop in SHOPS))
    return dict(zip(SHOPS, days, strict=True))


@sellers
def test_payment_through_the_service_reaches_its_seller_once(sold: dict[int, Sold], shop_id: int) -> None:
    day = sold[shop_id]
    assert (day.created["state"], day.paid["state"], day.status["state"]) == ("pending", "paid", "paid")
    [create] = [entry for entry in day.ledger if entry["op"] == "create"]
    assert (create["organization_bin"], create["device_token_sha256"]) == (
        SHOPS[shop_id],
        sha256(device_token_of(shop_id)),
    )
    assert create["amount"] == "17500.50"


@sellers
def test_link_through_the_service_is_of_its_seller(sold: dict[int, Sold], shop_id: int) -> None:
    link = sold[shop_id].link
    assert (link["organization_bin"], link["success"]) == (SHOPS[shop_id], True)
    assert link["payment_link"].startswith("http")


@sellers
def test_same_refund_is_made_once_and_another_attempt_is_another_refund(sold: dict[int, Sold], shop_id: int) -> None:
    part, repeated, second, rest, too_much = sold[shop_id].refunds
    assert part["refund_id"] == repeated["refund_id"] != second["refund_id"]
    assert tenge(rest["refunded_amount"]) == tenge("16500")
    assert (too_much.kind, too_much.code) == ("Rejected", "refund_exceeds_remainder")
    refunds = [entry for entry in sold[shop_id].ledger if entry["op"] == "refund" and entry["applied"]]
    assert [entry["amount"] for entry in refunds] == ["500.25", "500.25", "16500.00"]
    assert {entry["organization_bin"] for entry in refunds} == {SHOPS[shop_id]}


async def test_payment_whose_outcome_is_unknown_is_told_so_and_never_sent_again(site: Site, rig: Rig) -> None:
    word = rig.word()
    order = {"shop_id": SHOP, "order_id": word, "amount": 100, "phone": "77015219027", "message": word}
    first, again, [found] = await site.client(
        ("createPayment", [order]), ("createPayment", [order]), ("findPayments", [SHOP, word])
    )
    assert (first.kind, again.kind) == ("OutcomeUnknown", "OutcomeUnknown")
    assert first.id == again.id == found["id"]
    assert len(await rig.applied(word)) == 1


@pytest.mark.parametrize(
    ("change", "kind", "code", "provider_code"),
    [
        ({"shop_id": 404}, "NotFound", "shop_not_configured", ""),
        ({"phone": "77015219062"}, "Rejected", "payment_rejected", "-1501"),
        ({"phone": "123"}, "BadRequest", "validation_failed", ""),
        ({"amount": 0}, "BadRequest", "", ""),
        ({"order_id": ""}, "BadRequest", "", ""),
    ],
    ids=str,
)
async def test_refusal_is_an_exception_of_its_kind(
    site: Site, rig: Rig, change: dict[str, Any], kind: str, code: str, provider_code: str
) -> None:
    order = {"shop_id": SHOP, "order_id": rig.word(), "amount": 100, "phone": PHONE, **change}
    [threw] = await site.client(("createPayment", [order]))
    assert (threw.kind, threw.code, threw.provider_code) == (kind, code, provider_code)


async def test_wrong_key_is_a_bad_request_and_no_outage(site: Site) -> None:
    [threw] = await site.client(("getPaymentConfig", [SHOP]), key="ps_not-a-key-0123456789")
    assert (threw.kind, threw.code) == ("BadRequest", "authentication_required")


# --- when money was asked for and something between us failed


class Between:
    """Something in the service's place that answers what it is told, in order, and counts."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.requests = list(answers), list[Request]()

    async def respond(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


NOT_SENT = as_json({"code": "not_sent", "detail": "Nothing was sent.", "status": 503}, 503)
HTML = Answer(200, b"<html>maintenance</html>", "text/html")
CREATED = {"id": "01a", "state": "pending", "shop_id": SHOP, "order_id": "order 1", "success": True}


async def pay(site: Site, between: Between, **options: Any) -> Any:
    order = {"shop_id": SHOP, "order_id": "order 1", "amount": 100, "phone": PHONE}
    async with served(between.respond) as url:
        [said] = await site.client(("createPayment", [order]), url=url, pauses_s=[0.01, 0.01], **options)
    return said


async def test_what_was_surely_not_sent_is_sent_again_under_the_same_key(site: Site) -> None:
    between = Between(NOT_SENT, NOT_SENT, as_json(CREATED))
    assert (await pay(site, between))["id"] == "01a"
    keys = [request.headers["idempotency-key"] for request in between.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert re.fullmatch(r"bx1-[0-9a-f]{48}", keys[0])


@pytest.mark.parametrize(
    "answer",
    [
        Answer(drop=True),
        Answer(wait_s=5),
        Answer(500, b"oops", "text/plain"),
        Answer(502, b"<html>bad gateway</html>", "text/html"),
        Answer(302, headers=(("Location", "https://elsewhere.example/"),)),
        HTML,
        as_json({**CREATED, "shop_id": 576631}),
        as_json({**CREATED, "order_id": "order 2"}),
        as_json({"status": "error", "message": "Application not found"}, 404),
        as_json({"code": "internal_error", "detail": "Look it up."}, 500),
    ],
    ids=["dropped", "slow", "500", "502", "302", "html", "of another shop", "of another order", "no app", "problem"],
)
async def test_money_call_whose_bytes_left_is_asked_once_and_called_unknown(site: Site, answer: Answer) -> None:
    between = Between(answer)
    threw = await pay(site, between, total_timeout_s=0.4)
    assert threw.kind == "OutcomeUnknown"
    assert len(between.requests) == 1


async def test_redirect_is_not_followed(site: Site) -> None:
    elsewhere = Between(as_json(CREATED))
    async with served(elsewhere.respond) as url:
        threw = await pay(site, Between(Answer(307, headers=(("Location", url),))))
    assert (threw.kind, elsewhere.requests) == ("OutcomeUnknown", [])


async def test_refused_connection_is_unavailable_and_says_that_nothing_was_sent(site: Site) -> None:
    order = {"shop_id": SHOP, "order_id": "order 1", "amount": 100, "phone": PHONE}
    [threw] = await site.client(("createPayment", [order]), url=NOBODY, pauses_s=[0.01])
    assert threw.kind == "Unavailable"
    assert "Nothing was sent" in threw.message


async def test_certificate_that_nobody_vouches_for_is_not_trusted(site: Site, kaspi: tuple[Kaspi, str]) -> None:
    [config] = await site.client(("getPaymentConfig", [SHOP]), url=kaspi[1])
    assert config.kind == "Unavailable"
    assert "certificate" in config.message.lower()


# --- the order of trust


async def trusted(site: Site, **options: Any) -> Any:
    """What the site believes of the shop's routing."""
    [said] = await site.client(("getPaymentConfig", [SHOP]), **options)
    return said


async def test_fresh_answer_is_cached_for_an_hour(site: Site) -> None:
    assert (await trusted(site))["trust"] == "fresh"
    cached = await trusted(site, url=NOBODY)
    assert (cached["trust"], cached["organization_bin"], cached["device_token"]) == (
        "cached",
        BIN,
        device_token_of(SHOP),
    )
    assert site.counts == {"config.fresh": 1, "config.cached": 1}


async def test_answer_older_than_an_hour_is_asked_for_again_by_its_etag(site: Site) -> None:
    await trusted(site)
    later = await trusted(site, clock_ahead_s=3700, debug=True)
    assert (later["trust"], later["organization_bin"]) == ("fresh", BIN)
    assert '"http_status":304' in site.log


OUTAGES = {
    "slow": Answer(wait_s=5),
    "dropped": Answer(drop=True),
    "500": Answer(500, b"oops", "text/plain"),
    "problem 503": as_json({"code": "database_unavailable", "detail": "Away.", "status": 503}, 503),
    "html": HTML,
    "redirect": Answer(301, headers=(("Location", "/"),)),
    "404 of a gateway": as_json({"status": "error", "code": 404, "message": "Application not found"}, 404),
    "not signed": as_json({"shop_id": SHOP, "organization_bin": SHOPS[576631], "is_active": True, "provider": "kaspi"}),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_outage_is_bridged_by_the_last_known_answer_of_the_same_shop(site: Site, outage: str) -> None:
    await trusted(site)
    later = {"clock_ahead_s": 2 * DAY_S, "total_timeout_s": 0.4}
    async with served(Between(OUTAGES[outage]).respond) as url:
        during = await trusted(site, url=url, **later)
    assert (during["trust"], during["organization_bin"]) == ("last_known", BIN)
    assert site.counts["config.last_known"] == 1
    assert "config.last_known" in site.log


async def test_outage_of_a_stopped_service_is_bridged_as_well(site: Site) -> None:
    await trusted(site)
    during = await trusted(site, url=NOBODY, clock_ahead_s=2 * DAY_S)
    assert (during["trust"], during["organization_bin"]) == ("last_known", BIN)


async def test_answer_younger_than_an_hour_bridges_an_outage_of_a_site_that_asks_each_time(site: Site) -> None:
    assert (await trusted(site, cache_time=0))["trust"] == "fresh"
    assert (await trusted(site, cache_time=0))["trust"] == "fresh"
    assert (await trusted(site, cache_time=0, url=NOBODY))["trust"] == "cached"


async def test_last_known_answer_ends_after_seven_days(site: Site) -> None:
    await trusted(site)
    assert (await trusted(site, url=NOBODY, clock_ahead_s=7 * DAY_S - 60))["trust"] == "last_known"
    threw = await trusted(site, url=NOBODY, clock_ahead_s=7 * DAY_S + 60)
    assert threw.kind == "Unavailable"
    assert site.counts["config.none"] == 1


async def test_altered_cache_is_noticed_and_never_used(site: Site) -> None:
    await trusted(site)
    [entry] = (site.own / "config").glob("*.json")
    entry.write_text(entry.read_text().replace(BIN, SHOPS[576631]))
    threw = await trusted(site, url=NOBODY)
    assert threw.kind == "Unavailable"
    assert "config.cache_altered" in site.log
    assert (await trusted(site))["organization_bin"] == BIN


async def test_entry_of_another_shop_is_never_taken_for_this_one(site: Site) -> None:
    await site.client(("getPaymentConfig", [576631]))
    shutil.copy(site.own / "config" / "576631.json", site.own / "config" / f"{SHOP}.json")
    assert (await trusted(site, url=NOBODY)).kind == "Unavailable"


async def test_table_of_the_deployment_is_trusted_when_nothing_else_is_known(site: Site, rig: Rig) -> None:
    exported = rig.run("shops", "export", "--format", "php", "--with-tokens")
    table = site.folder / "shops.php"
    table.write_text(exported.stdout)
    said = await trusted(site, url=NOBODY, shops_file=str(table))
    assert (said["trust"], said["organization_bin"], said["device_token"]) == ("table", BIN, device_token_of(SHOP))
    unknown = await site.client(("getPaymentConfig", [404]), url=NOBODY, shops_file=str(table))
    assert unknown[0].kind == "Unavailable"
    table.write_text(exported.stdout.replace("'is_active' => true", "'is_active' => false"))
    assert (await trusted(site, url=NOBODY, shops_file=str(table))).kind == "Unavailable"


async def test_default_bin_is_used_only_where_it_was_switched_on_and_is_logged_as_an_error(site: Site) -> None:
    assert (await trusted(site, url=NOBODY)).kind == "Unavailable"
    said = await trusted(
        site, url=NOBODY, default_bin_for_every_shop="891027350515", default_device_token="a-token-of-it"
    )
    assert (said["trust"], said["organization_bin"]) == ("default_bin", "891027350515")
    assert "ERROR config.default_bin_used" in site.log
    assert site.counts["config.default_bin"] == 1


@pytest.mark.parametrize(("shop_id", "kind"), [(404, "NotFound"), (990_008, "Inactive")])
async def test_refusal_of_the_service_is_an_answer_and_no_outage(site: Site, rig: Rig, shop_id: int, kind: str) -> None:
    if kind == "Inactive":
        body = {"shop_id": shop_id, "organization_bin": BIN, "is_active": False}
        (await rig.api.post("/admin/configs", json=body)).raise_for_status()
    default = {"default_bin_for_every_shop": "891027350515"}
    [now] = await site.client(("getPaymentConfig", [shop_id]), **default)
    [later] = await site.client(("getPaymentConfig", [shop_id]), url=NOBODY, **default)
    assert (now.kind, later.kind) == (kind, kind)
    assert "config.default_bin" not in site.counts


async def test_shop_that_was_switched_off_stays_off_in_an_outage(site: Site, rig: Rig) -> None:
    await trusted(site)
    await rig.api.delete(f"/admin/configs/{SHOP}")
    try:
        assert (await trusted(site, clock_ahead_s=4000)).kind == "Inactive"
    finally:
        await rig.api.put(f"/admin/configs/{SHOP}", json={"is_active": True})
    assert (await trusted(site, url=NOBODY, clock_ahead_s=4001)).kind == "Inactive"
    assert (await trusted(site, clock_ahead_s=4002))["trust"] == "fresh"


# --- direct, with our configuration


@dataclass
class Direct:
    """What a page that calls Kaspi itself got, and what each side saw."""

    answers: list[Any]
    calls: list[Request]
    logs: list[dict[str, Any]]
    ledger: list[dict[str, Any]]


OPERATIONS = ["createRemotePay", "getCreteQr", "createLink", "status", "paymentReturn", "get", "remoteClientInfo"]


async def sell_directly(sites: Sites, stand_in: Kaspi, folder: Path, shop_id: int) -> Direct:
    site, rig = sites.make(folder), sites.rig
    began = datetime.now(UTC).isoformat()
    wrong = {"OrganizationBin": "891027350515", "DeviceToken": "somebody-elses"}
    pay = {"Amount": 1250.5, "PhoneNumber": PAYS_AT_ONCE, "Comment": rig.word(), **wrong}
    link = {"Amount": 300, "Comment": rig.word(), **wrong}
    made = await site.kaspi(
        ("createRemotePay", [pay, shop_id]), ("getCreteQr", [link, shop_id]), ("createLink", [link, shop_id])
    )
    external_id = made[0]["data"]["Data"]["QrPaymentId"]
    rest = await site.kaspi(
        ("status", [external_id, shop_id]),
        ("paymentReturn", [{"QrPaymentId": external_id, "Amount": "50.25", **wrong}, shop_id]),
        ("get", [{"QrPaymentId": external_id}, shop_id]),
        ("remoteClientInfo", [{"phoneNumber": PHONE}, shop_id]),
    )
    assert site.waiting == []
    wanted: dict[str, str | int] = {"shop_id": shop_id, "since": began, "limit": 1000}
    logs = await rig.api.get("/admin/logs", params=wanted)
    return Direct(
        made + rest,
        [call for call in stand_in.calls if call.said.get("OrganizationBin") == SHOPS[shop_id]],
        logs.json(),
        await rig.ledger(external_id=external_id),
    )


@pytest.fixture(scope="module")
async def directly(
    sites: Sites, kaspi: tuple[Kaspi, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Direct]:
    kaspi[0].calls.clear()
    days = await asyncio.gather(
        *(sell_directly(sites, kaspi[0], tmp_path_factory.mktemp(f"direct{shop}"), shop) for shop in SHOPS)
    )
    return dict(zip(SHOPS, days, strict=True))


@sellers
def test_direct_call_carries_the_bin_and_token_of_its_shop(directly: dict[int, Direct], shop_id: int) -> None:
    day = directly[shop_id]
    assert [answer["data"]["StatusCode"] for answer in day.answers] == [0] * len(OPERATIONS)
    assert len(day.calls) == len(OPERATIONS) - 1  # a status needs no BIN
    assert {call.said["DeviceToken"] for call in day.calls} == {device_token_of(shop_id)}
    assert {call.certificate_of for call in day.calls} == {"shop-site"}
    applied = [entry for entry in day.ledger if entry["op"] != "status"]
    assert [(entry["op"], entry["amount"], entry["organization_bin"]) for entry in applied] == [
        ("create", "1250.50", SHOPS[shop_id]),
        ("refund", "50.25", SHOPS[shop_id]),
    ]


@sellers
def test_direct_call_is_reported_after_its_outcome(directly: dict[int, Direct], shop_id: int) -> None:
    day = directly[shop_id]
    external_id = str(day.answers[0]["data"]["Data"]["QrPaymentId"])
    lines = [line for line in reversed(day.logs) if line["source"] == "client"]
    told = {line["operation_type"]: line for line in lines}
    assert list(told) == ["create", "create-qr", "create-link", "status", "refund", "details", "client-info"]
    assert len(lines) == len(told)
    assert [told[name]["amount"] for name in ("create", "create-link", "refund")] == [125_050, 30_000, 5_025]
    assert {told[name]["external_id"] for name in ("create", "status", "refund", "details")} == {external_id}
    assert told["status"]["status"] == "Processed"
    assert {told[name]["organization_bin"] for name in ("create", "refund")} == {SHOPS[shop_id]}


async def test_payment_made_directly_is_known_to_the_service(directly: dict[int, Direct], rig: Rig) -> None:
    external_id = str(directly[SHOP].answers[0]["data"]["Data"]["QrPaymentId"])

    async def adopted() -> dict[str, Any] | None:
        [item] = (await rig.api.get("/payments", params={"external_id": external_id})).json()["items"]
        return item if item["state"] == "paid" else None

    payment = await until(adopted, "the reported payment is followed to its end")
    assert (payment["shop_id"], payment["organization_bin"], payment["source"]) == (SHOP, BIN, "client")


@pytest.mark.parametrize(
    ("context", "shop"),
    [
        ({"context": {"arOrder": {"SHOP_ID": "75509"}, "arProduct": {"SHOP_ID": 8}}, "get": {"shop_id": "9"}}, 75509),
        ({"context": {"arProduct": {"SHOP_ID": "69292"}}, "get": {"shop_id": "9"}}, 69292),
        ({"get": {"shop_id": "49237"}, "server": {"HTTP_X_SHOP_ID": "9"}}, 49237),
        ({"server": {"HTTP_X_SHOP_ID": "56195"}}, 56195),
        ({}, None),
        ({"context": {"arOrder": {"SHOP_ID": "none"}}, "server": {"HTTP_X_SHOP_ID": "56195"}}, None),
    ],
    ids=["order", "product", "request", "header", "nobody", "nonsense"],
)
async def test_shop_is_found_in_the_context_in_that_order(
    site: Site, context: dict[str, Any], shop: int | None
) -> None:
    [said] = await site.kaspi(("getShopIdFromContext", []), **context)
    assert (said.kind if isinstance(said, Threw) else said) == (shop or "BadRequest")


async def test_default_shop_is_used_only_where_the_site_sets_one(site: Site) -> None:
    site.options["payment_service_default_shop_id"] = "71691"
    assert await site.kaspi(("getShopIdFromContext", [])) == [71691]


async def test_lost_answer_of_kaspi_is_unknown_and_reported_so(site: Site, kaspi: tuple[Kaspi, str], rig: Rig) -> None:
    word = rig.word()
    kaspi[0].instead.append(Answer(drop=True))
    [threw] = await site.kaspi(("createRemotePay", [{"Amount": 77, "PhoneNumber": PHONE, "Comment": word}, 56195]))
    assert threw.kind == "OutcomeUnknown"
    assert len([call for call in kaspi[0].calls if call.said.get("Comment") == word]) == 1
    wanted: dict[str, str | int] = {"shop_id": 56195, "operation_type": "create", "limit": 1}
    [line] = (await rig.api.get("/admin/logs", params=wanted)).json()
    assert (line["amount"], line["external_id"], line["source"]) == (7_700, None, "client")
    assert line["error_message"].startswith("Outcome unknown")


async def test_refusal_of_kaspi_is_returned_as_kaspi_said_it(site: Site, kaspi: tuple[Kaspi, str]) -> None:
    kaspi[0].instead.append(as_json({"StatusCode": -99000003, "Message": "Another trade point", "Data": None}))
    [said] = await site.kaspi(("paymentReturn", [{"QrPaymentId": 5, "Amount": 10}, SHOP]))
    assert (said["outcome"], said["data"]["StatusCode"], said["http_code"]) == ("rejected", -99000003, "200")
    assert "DeviceToken" not in said["sentData"]


async def test_kaspi_without_our_certificate_is_not_reached(site: Site, papers: Papers, tmp_path: Path) -> None:
    stranger = issue(tmp_path / "stranger")
    site.options |= {"kaspi_certificate": str(stranger.certificate), "kaspi_key": str(stranger.key)}
    [said] = await site.kaspi(("status", [5, SHOP]))
    assert said["data"] is None
    assert said["curlErrors"]


async def test_kaspi_that_nobody_vouches_for_is_sent_nothing(
    site: Site, kaspi: tuple[Kaspi, str], papers: Papers, tmp_path: Path
) -> None:
    site.options["kaspi_ca_file"] = str(issue(tmp_path / "stranger").authority)
    before = len(kaspi[0].calls)
    [threw] = await site.kaspi(("createRemotePay", [{"Amount": 5, "PhoneNumber": PHONE}, SHOP]))
    assert (threw.kind, len(kaspi[0].calls)) == ("Unavailable", before)


async def test_debug_log_tells_details_and_no_secret(site: Site, rig: Rig) -> None:
    pay = {"Amount": 100, "PhoneNumber": PHONE, "Comment": rig.word()}
    await site.kaspi(("createRemotePay", [pay, SHOP]), debug=True)
    assert "DEBUG kaspi.answered" in site.log
    assert "DEBUG service.answered" in site.log
    for secret in (*rig.secrets, PASSWORD, PHONE):
        assert secret not in site.log


# --- while the service is down


async def test_operations_made_during_an_outage_are_reported_once_each_when_it_is_over(site: Site, rig: Rig) -> None:
    service = await rig.serve()
    site.options["payment_service_url"] = service.url
    await site.client(("getPaymentConfig", [SHOP]))
    await service.stop()
    words = [rig.word() for _ in range(3)]
    pays = [{"Amount": 10 + n, "PhoneNumber": PHONE, "Comment": word} for n, word in enumerate(words)]
    made = await site.kaspi(*(("createRemotePay", [pay, SHOP]) for pay in pays))
    ids = [str(answer["data"]["Data"]["QrPaymentId"]) for answer in made]
    assert [report["external_id"] for report in site.waiting] == ids

    site.options["payment_service_url"] = rig.services[0].url
    kept = site.own / "journal"
    shutil.copytree(kept, site.folder / "copy")
    codes = [await site.php(str(site.integration / "PaymentService" / "console.php"), "replay") for _ in range(2)]
    assert [out for _code, out, _err in codes] == ["0 waiting, 0 refused\n"] * 2
    shutil.copytree(site.folder / "copy", kept, dirs_exist_ok=True)  # as if the last answers had been lost
    await site.php(str(site.integration / "PaymentService" / "console.php"), "replay")
    for n, external_id in enumerate(ids):
        lines = (
            await rig.api.get("/admin/logs", params={"external_id": external_id, "operation_type": "create"})
        ).json()
        assert [(line["amount"], line["source"]) for line in lines] == [((10 + n) * 100, "client")]


async def test_next_report_after_an_outage_takes_the_kept_ones_along(site: Site, rig: Rig) -> None:
    report = {"shop_id": SHOP, "operation_type": "refund", "external_id": "900000111", "amount": 500}
    [kept] = await site.client(("createPaymentLog", [report]), url=NOBODY)
    assert kept is None
    [row] = await site.client(("updatePaymentStatus", [SHOP, "900000111", "Processed"]), clock_ahead_s=60)
    assert (row["operation_type"], row["status"]) == ("status", "Processed")
    assert site.waiting == []
    lines = (await rig.api.get("/admin/logs", params={"external_id": "900000111"})).json()
    assert sorted(line["operation_type"] for line in lines) == ["refund", "status"]


async def test_status_that_is_reported_twice_under_one_id_is_taken_once(site: Site) -> None:
    report = {
        "shop_id": SHOP,
        "operation_type": "status",
        "external_id": "900000222",
        "status": "Wait",
        "report_id": "r1",
    }
    first, second = await site.client(("createPaymentLog", [report]), ("createPaymentLog", [report]))
    assert (first["id"], first["report_id"]) == (second["id"], "r1")


async def test_report_that_the_service_refuses_is_kept_for_people(site: Site) -> None:
    wrong = {"shop_id": SHOP, "operation_type": "\u0001"}
    [threw] = await site.client(("createPaymentLog", [wrong]))
    assert (threw.kind, threw.code) == ("BadRequest", "validation_failed")
    code, out, _err = await site.php(str(site.integration / "PaymentService" / "console.php"), "journal")
    assert (code, "0 waiting, 1 refused" in out) == (0, True)


async def test_report_that_is_kept_in_part_is_logged(site: Site) -> None:
    [row] = await site.client(
        ("createPaymentLog", [{"shop_id": SHOP, "operation_type": "create", "organization_bin": "12345"}])
    )
    assert row["organization_bin"] == "12345"
    assert "ERROR report.partly_kept" in site.log


# --- events


def event(kind: str, payment: dict[str, Any]) -> bytes:
    body = {"id": "evt", "type": kind, "timestamp": "2026-11-21T12:00:00Z", "version": 1, "data": payment}
    return json.dumps(body).encode()


def signed(
    body: bytes, *, number: str = "msg_1", at: float | None = None, secret: str = WEBHOOK_SECRET
) -> dict[str, str]:
    moment = str(int(at or time.time()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{number}.{moment}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": number,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(b'x' * 32).decode()} v1,{base64.b64encode(digest).decode()}",
    }


@pytest.fixture
async def receiver(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """The site's address for events, as docs/bitrix.md sets it up."""
    page = site.www / "local" / "payment-events.php"
    page.write_text("<?php require __DIR__ . '/classes/Integration/PaymentService/webhook.php';\n")
    async with site.web_server() as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


async def deliver(receiver: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    answer = await receiver.post("/local/payment-events.php", content=body, headers=headers)
    return answer.status_code, answer.json()["result"]


@pytest.fixture
async def told_by_the_service(site: Site, rig: Rig, receiver: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """The same address, called by the service itself: as docs/bitrix.md says, with the secret that it showed."""
    body = {"url": str(receiver.base_url.join("/local/payment-events.php")), "shops": [SHOP]}
    endpoint = (await rig.api.post("/admin/webhooks", json=body)).raise_for_status().json()
    rig.secrets.add(endpoint["secret"])
    site.options["payment_service_webhook_secret"] = endpoint["secret"]
    site.save_options()
    yield receiver
    (await rig.api.delete(f"/admin/webhooks/{endpoint['id']}")).raise_for_status()


async def test_the_services_own_events_mark_an_order_paid_and_refunded(
    site: Site, rig: Rig, told_by_the_service: httpx.AsyncClient
) -> None:
    order = str(time.time_ns() % 10**9 + 1)
    site.orders({order: [{"SUM": 640.0}]})

    async def is_paid() -> bool:
        return bool(site.orders()[order][0].get("PAID") == "Y")

    async def says(comment: str) -> bool:
        return bool(site.orders()[order][0].get("PAY_RETURN_COMMENT") == comment)

    made = await rig.paid(order_id=order, amount=640)
    await until(is_paid, "the order is paid")
    await rig.refund(made["external_id"], amount=40)
    await until(partial(says, "Refunded 40.00 of 640.00 tenge"), "the order shows the part that went back")
    await rig.refund(made["external_id"], full=True)
    await until(partial(says, "Refunded 640.00 of 640.00 tenge"), "the order shows that all went back")
    assert site.orders()[order][0]["PAID"] == "N"

    # What comes again, and what comes late, changes nothing.
    secret = site.options["payment_service_webhook_secret"]
    now = await rig.payment(made["id"])
    again = event("payment.late_success", {**now, "version": now["version"] - 1, "refunded_amount": 0})
    assert await deliver(told_by_the_service, again, signed(again, number="msg_3", secret=secret)) == (200, "older")
    assert site.orders()[order][0]["PAID"] == "N"


async def test_event_that_comes_twice_is_taken_once(site: Site, receiver: httpx.AsyncClient) -> None:
    site.orders({"7": [{"SUM": 100.0}]})
    payment = {"id": "p1", "version": 3, "state": "paid", "order_id": "7", "amount": 100, "refunded_amount": 0}
    body = event("payment.paid", payment)
    assert await deliver(receiver, body, signed(body)) == (200, "done")
    assert await deliver(receiver, body, signed(body)) == (200, "repeated")


async def test_event_that_is_not_ours_or_not_of_now_is_refused(site: Site, receiver: httpx.AsyncClient) -> None:
    site.orders({"7": [{"SUM": 100.0}]})
    body = event("payment.paid", {"id": "p", "state": "paid", "order_id": "7", "amount": 100, "refunded_amount": 0})
    other = "whsec_" + base64.b64encode(b"another secret, also 32 bytes !!").decode()
    assert await deliver(receiver, body, signed(body, secret=other)) == (401, "bad_signature")
    assert await deliver(receiver, body.replace(b"100", b"900"), signed(body)) == (401, "bad_signature")
    assert await deliver(receiver, body, signed(body, at=time.time() - 400)) == (400, "too_old")
    assert await deliver(receiver, body, {}) == (400, "bad_headers")
    assert (await receiver.get("/local/payment-events.php")).status_code == 405
    assert site.orders() == {"7": [{"SUM": 100.0}]}


async def test_event_of_another_amount_marks_nothing_and_calls_people(site: Site, receiver: httpx.AsyncClient) -> None:
    site.orders({"7": [{"SUM": 17500.0}]})
    body = event("payment.paid", {"id": "p", "state": "paid", "order_id": "7", "amount": 100, "refunded_amount": 0})
    assert await deliver(receiver, body, signed(body)) == (200, "amount_differs")
    [payment] = site.orders()["7"]
    assert (payment["PAID"], payment["PS_SUM"]) == ("N", None)
    [[kind, order, reason]] = site.kept("markers")
    assert (kind, order, "100.00 tenge" in reason) == ("ORDER", 7, True)
    assert "ERROR webhook.needs_people" in site.log


# --- at the server's command line


async def test_check_says_what_is_in_order_and_what_is_not(site: Site) -> None:
    console = str(site.integration / "PaymentService" / "console.php")
    code, out, _err = await site.php(console, "check", *map(str, SHOPS))
    assert code == 0, out
    assert all(f"BIN {organization_bin}" in out for organization_bin in SHOPS.values())
    assert not [token for token in map(device_token_of, SHOPS) if token in out]
    site.options["payment_service_url"] = f"http://127.0.0.1:{free_port()}"
    code, out, _err = await site.php(console, "check", "404")
    assert code == 1
    assert "WRONG the service answers" in out
