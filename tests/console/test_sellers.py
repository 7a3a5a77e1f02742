"""Sellers in the console: how they fare, who changes where their money goes, and test payments that are sent once."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import respx
from fastapi import FastAPI

from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS
from payment_service.errors import RouteChangeNeedsTwo, RouteChangeOver
from payment_service.providers.kaspi.mapping import NO_MONEY_MOVED, remedy_of
from payment_service.routing import importing
from payment_service.routing.rule import set_needs_two
from payment_service.services import Services
from tests.console.conftest import FOREIGN, OWN, SignIn, text_of
from tests.support.asking import TESTS, ask, payments_of
from tests.support.books import spoil_token
from tests.support.database import without_laws
from tests.support.replies import GoodProxy, failure
from tests.support.shops import SHOPS, device_token_of

OTHER_BIN = "891027350515"
NEW_TOKEN = "99999999-2222-4333-8444-555555555555"
SELLER = f"/console/sellers/{OWN}"


async def form_of(client: httpx.AsyncClient, **changes: str) -> dict[str, str]:
    """The form of a change as its page shows it, with what is typed into it."""
    page = await client.get(f"{SELLER}/route")
    assert page.status_code == 200, page.text
    shown = dict(re.findall(r'name="(\w+)"[^>]*value="([^"]*)"', page.text))
    shown.pop("remove_token", None)
    return {"is_active": "yes", "reason": "The seller wrote", "device_token": "", **shown, **changes}


async def bin_today(services: Services) -> str:
    return (await services.routing.route_of(FULL_ACCESS, OWN)).organization_bin


# --- how they fare


async def test_list_tells_how_each_seller_fares(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, emptied: asyncpg.Connection
) -> None:
    await emptied.execute("UPDATE device_token SET created_at = now()")  # they were made for the first of all tests
    payment = (await services.payments.create(ask(300, shop_id=OWN))).payment
    proxy.statuses[str(payment.external_id)] = "Processed"
    await services.reading.refresh(payment)
    proxy.create.mock(return_value=failure(-1502, "Device is not active"))
    await services.payments.create(ask(200, shop_id=OWN))
    shared = {"organization_bin": SHOPS[OWN], "device_token": None, "name": "Santini"}
    await services.routing.update(FULL_ACCESS, FOREIGN, shared)
    client = await sign_in()
    page = await client.get("/console/sellers")
    [card] = [one for one in page.text.split('<li class="card">') if f"shop {OWN}" in one and "Device is not" in one]
    told = text_of(httpx.Response(200, text=card))
    for fact in (
        SHOPS[OWN],
        "the last one failed",
        "same BIN as Santini",
        "50 %: 1 of 2 that ended",
        "Device is not active (-1502)",
        "sets its token here",
        "set 1 minute ago",
    ):
        assert fact in told, told
    assert (await client.get(SELLER)).status_code == 200
    for missing in ("/console/sellers/5", "/console/sellers/x", "/console/sellers/0", f"/console/sellers/{2**40}"):
        assert (await client.get(missing)).status_code == 404


async def test_declined_by_a_buyer_is_no_failure_of_the_seller(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    payment = (await services.payments.create(ask(shop_id=OWN))).payment
    proxy.statuses[str(payment.external_id)] = "RemotePaymentCanceled"
    await services.reading.refresh(payment)
    page = await (await sign_in()).get(SELLER)
    assert "Last failure" not in page.text
    assert "0 %: 0 of 1 that ended" in text_of(page)


async def test_florist_sees_their_own_seller_and_not_whose_bin_it_shares(
    services: Services, shops: dict[int, str], sign_in: SignIn
) -> None:
    shared = {"organization_bin": SHOPS[OWN], "device_token": None, "name": "Santini"}
    await services.routing.update(FULL_ACCESS, FOREIGN, shared)
    client = await sign_in(Role.FLORIST, OWN)
    page = await client.get("/console/sellers")
    assert str(OWN) in page.text
    assert "Santini" not in page.text
    foreign, missing = [await client.get(f"/console/sellers/{shop}") for shop in (FOREIGN, 5)]
    assert (foreign.status_code, foreign.text) == (404, missing.text)


async def test_florist_of_a_shop_sees_nothing_of_its_earlier_owner(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    """Nor pays back, from a page that was open when the shop was sold."""
    payment = (await services.payments.create(ask(4321, shop_id=OWN, order_id="of-the-earlier-owner"))).payment
    proxy.statuses[str(payment.external_id)] = "Processed"
    await services.reading.refresh(payment)
    florist, operator = await sign_in(Role.FLORIST, OWN), await sign_in()
    page = f"/console/payments/{payment.id}"
    form = dict(re.findall(r'name="(\w+)"[^>]*value="([^"]*)"', (await florist.get(f"{page}/refund?amount=4321")).text))
    assert "seen" in form
    await services.routing.update(FULL_ACCESS, OWN, {"organization_bin": OTHER_BIN, "device_token": None})

    sent = {**form, "amount": "4321", "typed": "4321", "reason": "The buyer asked"}
    assert (await florist.post(f"{page}/refund", data=sent)).status_code == 404
    for path in (page, f"{page}/refund"):
        assert ((await florist.get(path)).status_code, (await operator.get(path)).status_code) == (404, 200)
    exact = "/console/?q=of-the-earlier-owner"
    assert ((await florist.get(exact)).status_code, (await operator.get(exact)).status_code) == (200, 303)
    assert "4 321" in text_of(await operator.get("/console/"))
    for found in ("/console/", "/console/?q=of-the-earlier-owner", SELLER, "/console/sellers", "/console/sums"):
        assert "4 321" not in text_of(await florist.get(found)), found
    assert not proxy.refund.called


def test_every_refusal_that_a_seller_or_we_can_mend_has_its_remedy() -> None:
    of_refunds = {"-1601", "-99000001", "-99000005", "-99000011", "-99000020"}
    assert {code for code in NO_MONEY_MOVED if remedy_of(code) is None} == of_refunds
    assert remedy_of(None) is None


async def test_sellers_are_shown_page_by_page(
    services: Services, shops: dict[int, str], sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_service.console.sellers.ON_A_PAGE", 4)
    client = await sign_in()
    first = await client.get("/console/sellers")
    [more] = re.findall(r'href="(/console/sellers\?after=\d+)"', first.text)
    second = await client.get(more)
    shown = [re.findall(r'<h2><a href="/console/sellers/(\d+)"', page.text) for page in (first, second)]
    assert [int(shop) for shop in shown[0] + shown[1]] == sorted(SHOPS)


# --- the route, changed by one


async def test_administrator_changes_a_route_once_however_often_it_is_pressed(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    under_way = (await services.payments.create(ask(shop_id=OWN))).payment
    client = await sign_in(Role.ADMIN)
    assert "1 payment is under way: it keeps the route" in text_of(await client.get(f"{SELLER}/route"))
    form = await form_of(client, organization_bin="8910 2735 0515", device_token=NEW_TOKEN)
    answers = await asyncio.gather(*(client.post(f"{SELLER}/route", data=form) for _ in range(3)))
    assert min(answer.status_code for answer in answers) == 303
    again = await client.post(f"{SELLER}/route", data=form)
    assert again.headers["location"].endswith("done=seen-before")
    route = await services.routing.route_of(FULL_ACCESS, OWN)
    assert (route.organization_bin, route.device_token, route.version) == (OTHER_BIN, NEW_TOKEN, 2)
    assert (await services.reading.get(TESTS, under_way.id)).organization_bin == SHOPS[OWN]
    entry = await sql.fetchrow("SELECT actor, reason FROM payment_log WHERE operation_type = 'config-change'")
    assert tuple(entry or ()) == ("admin@example.kz", "The seller wrote")
    page = await client.get(SELLER)
    assert "The seller wrote" in page.text
    assert "BIN, device token" in text_of(page)


async def test_token_is_in_no_page(services: Services, shops: dict[int, str], sign_in: SignIn) -> None:
    await set_needs_two(services.database, needs_two=True)
    client = await sign_in(Role.ADMIN)
    wrong = await client.post(f"{SELLER}/route", data=await form_of(client, device_token=NEW_TOKEN, reason=""))
    assert wrong.status_code == 422
    await client.post(f"{SELLER}/route", data=await form_of(client, device_token=NEW_TOKEN))
    [change] = re.findall(r'href="(/console/sellers/\d+/changes/[^"]+)"', (await client.get(SELLER)).text)
    pages = [wrong, *[await client.get(path) for path in ("/console/sellers", SELLER, f"{SELLER}/route", change)]]
    for page in pages:
        is_decision = page is pages[-1]  # whoever confirms it has to recognise it
        for token in (NEW_TOKEN, device_token_of(OWN)):
            assert (token[:8] in page.text, token[:9] in page.text) == (is_decision, False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"organization_bin": "891027350516"}, "A BIN has 12 digits"),
        ({"organization_bin": ""}, "A BIN has 12 digits"),
        ({"device_token": "short"}, "A device token has"),
        ({"reason": "x"}, "Say in a few words why"),
        ({"city": "x" * 101}, "That is too long"),
    ],
)
async def test_wrong_field_comes_back_with_a_sentence_and_changes_nothing(
    services: Services, shops: dict[int, str], sign_in: SignIn, changes: dict[str, str], told: str
) -> None:
    client = await sign_in(Role.ADMIN)
    answer = await client.post(f"{SELLER}/route", data=await form_of(client, **changes))
    assert answer.status_code == 422
    assert told in text_of(answer)
    assert (await services.routing.config_of(FULL_ACCESS, OWN)).row.version == 1


async def test_password_is_asked_for_again_before_a_route_is_changed_or_confirmed(
    services: Services, shops: dict[int, str], sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    await set_needs_two(services.database, needs_two=True)
    first, second = await sign_in(Role.ADMIN, name="one"), await sign_in(Role.ADMIN, name="two")
    form = await form_of(first, organization_bin=OTHER_BIN, device_token=NEW_TOKEN)
    async with without_laws(sql):
        await sql.execute("UPDATE person_session SET proved_at = proved_at - interval '11 minutes'")
    assert "password" in text_of(await first.get(f"{SELLER}/route")).lower()
    assert (await first.post(f"{SELLER}/route", data=form)).status_code == 422
    assert await services.route_changes.waiting(FULL_ACCESS) == {}
    assert (await first.post(f"{SELLER}/route", data={**form, "password": "peonies and roses"})).status_code == 303
    waiting = (await services.route_changes.waiting(FULL_ACCESS))[OWN].change
    path = f"{SELLER}/changes/{waiting.id}"
    assert (await second.post(path, data={"decision": "confirm"})).status_code == 422
    assert await bin_today(services) == SHOPS[OWN]


# --- by two


@pytest.fixture
async def two(services: Services, shops: dict[int, str], sign_in: SignIn) -> tuple[httpx.AsyncClient, ...]:
    """Two administrators, where two are needed."""
    await set_needs_two(services.database, needs_two=True)
    return await sign_in(Role.ADMIN, name="one"), await sign_in(Role.ADMIN, name="two")


async def propose(client: httpx.AsyncClient, **changes: str) -> str:
    """Propose another BIN; the address of the change."""
    form = await form_of(client, **{"organization_bin": OTHER_BIN, "device_token": NEW_TOKEN, **changes})
    answer = await client.post(f"{SELLER}/route", data=form)
    assert answer.headers["location"].endswith("done=proposed"), answer.text
    [path] = re.findall(r'href="(/console/sellers/\d+/changes/[^"]+)"', (await client.get(SELLER)).text)
    return str(path)


async def test_change_waits_until_another_administrator_confirms_it(
    services: Services, two: tuple[httpx.AsyncClient, ...], sql: asyncpg.Connection
) -> None:
    since = await sql.fetchval("SELECT max(id::text)::uuid FROM event")
    path = await propose(two[0], device_token=NEW_TOKEN)
    assert await bin_today(services) == SHOPS[OWN]
    own = await two[0].post(path, data={"decision": "confirm"})
    assert own.status_code == 403
    assert await bin_today(services) == SHOPS[OWN]
    assert path in (await two[1].get("/console/tasks")).text
    page = await two[1].get(path)
    assert "one@example.kz" in page.text
    assert OTHER_BIN in page.text
    assert SHOPS[OWN] in page.text
    answers = await asyncio.gather(*(two[1].post(path, data={"decision": "confirm"}) for _ in range(3)))
    # 503: a slow machine had no connection for it in time, and nothing was done.
    assert sorted({answer.status_code for answer in answers} - {409, 503}) == [303]
    assert [answer.status_code for answer in answers].count(303) == 1
    route = await services.routing.route_of(FULL_ACCESS, OWN)
    assert (route.organization_bin, route.device_token, route.version) == (OTHER_BIN, NEW_TOKEN, 2)
    recorded = await sql.fetch(
        "SELECT operation_type, actor FROM payment_log WHERE subject LIKE 'route_change:%' ORDER BY id"
    )
    assert [tuple(row) for row in recorded] == [
        ("route-propose", "one@example.kz"),
        ("route-confirm", "two@example.kz"),
    ]
    assert "proposed by one@example.kz" in text_of(await two[0].get(SELLER))
    told = await sql.fetch(
        "SELECT type, data ->> 'actor' AS actor, data::text FROM event WHERE id > $1 ORDER BY id", since
    )
    assert [(event["type"], event["actor"]) for event in told] == [
        ("route.proposed", "one@example.kz"),
        ("route.changed", "two@example.kz"),
    ]
    assert NEW_TOKEN[:8] not in told[0]["data"]


async def test_token_that_cannot_be_decrypted_is_shown_and_set_again(
    services: Services, two: tuple[httpx.AsyncClient, ...], sql: asyncpg.Connection
) -> None:
    await spoil_token(sql, OWN)
    said = "the device token cannot be decrypted"
    assert said in text_of(await two[0].get(SELLER))
    path = await propose(two[0], organization_bin=SHOPS[OWN])
    assert (await two[1].get(path)).status_code == 200
    assert (await two[1].post(path, data={"decision": "confirm"})).status_code == 303
    assert said not in text_of(await two[0].get(SELLER))
    assert (await services.routing.route_of(FULL_ACCESS, OWN)).device_token == NEW_TOKEN


async def test_keys_and_commands_are_no_way_around_the_second_administrator(
    services: Services, two: tuple[httpx.AsyncClient, ...], client: httpx.AsyncClient
) -> None:
    for fields in ({"organization_bin": OTHER_BIN}, {"device_token": NEW_TOKEN}, {"device_token": None}):
        answer = await client.put(f"/admin/configs/{OWN}", json=fields)
        assert (answer.status_code, answer.json()["code"]) == (409, "route_change_needs_two"), fields
    text = f"shop_id,organization_bin\n{OWN},{OTHER_BIN}\n"
    with pytest.raises(RouteChangeNeedsTwo):
        await importing.apply(services.routing, importing.parse(text), reason="import", dry_run=False)
    named = await client.put(f"/admin/configs/{OWN}", json={"city": "Алматы", "organization_bin": SHOPS[OWN]})
    assert named.status_code == 200
    route = await services.routing.route_of(FULL_ACCESS, OWN)
    assert (route.organization_bin, route.device_token) == (SHOPS[OWN], device_token_of(OWN))


async def test_change_is_refused_or_taken_back_and_then_is_over(
    services: Services, two: tuple[httpx.AsyncClient, ...], sql: asyncpg.Connection
) -> None:
    for decider in two:
        path = await propose(two[0])
        assert (await decider.post(path, data={"decision": "refuse"})).headers["location"].endswith("done=refused")
        assert (await two[1].post(path, data={"decision": "confirm"})).status_code == 409
    assert await bin_today(services) == SHOPS[OWN]
    told = await sql.fetch("SELECT data ->> 'actor' AS actor FROM event WHERE type = 'route.refused' ORDER BY id")
    assert [event["actor"] for event in told] == ["one@example.kz", "two@example.kz"]


async def test_one_change_of_a_seller_waits_at_a_time(two: tuple[httpx.AsyncClient, ...]) -> None:
    form = await form_of(two[1], organization_bin="991011000048", remove_token="yes")
    await propose(two[0])
    answer = await two[1].post(f"{SELLER}/route", data=form)
    assert answer.status_code == 409
    assert "waits already" in text_of(answer)


async def test_change_that_expired_or_whose_route_changed_is_applied_by_nobody(
    services: Services, two: tuple[httpx.AsyncClient, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    outdated = await propose(two[0])
    await services.routing.update(FULL_ACCESS, OWN, {"city": "Астана"})
    assert (await two[1].post(outdated, data={"decision": "confirm"})).status_code == 409
    monkeypatch.setattr("payment_service.routing.changes.EXPIRES_AFTER", timedelta(0))
    answer = await two[0].post(f"{SELLER}/route", data=await form_of(two[0], device_token=NEW_TOKEN))
    assert answer.headers["location"].endswith("done=proposed")  # the outdated one made way
    expired = (await services.route_changes.of_shop(FULL_ACCESS, OWN))[0].change
    with pytest.raises(RouteChangeOver):
        await services.route_changes.confirm(FULL_ACCESS, 2, expired.id)
    assert await bin_today(services) == SHOPS[OWN]


async def test_token_of_another_seller_is_neither_proposed_nor_confirmed(
    services: Services, two: tuple[httpx.AsyncClient, ...]
) -> None:
    foreign = await form_of(two[0], organization_bin=OTHER_BIN, device_token=device_token_of(FOREIGN))
    assert (await two[0].post(f"{SELLER}/route", data=foreign)).status_code == 409
    assert await services.route_changes.waiting(FULL_ACCESS) == {}
    path = await propose(two[0])  # and while it waits, another seller gets the token
    first, second = [person.id for person in await services.people.all()]
    changes, theirs = services.route_changes, {"device_token": NEW_TOKEN}
    change = await changes.propose(FULL_ACCESS, first, FOREIGN, theirs, version=1, reason="a till")
    await changes.confirm(FULL_ACCESS, second, change.id)
    assert (await two[1].post(path, data={"decision": "confirm"})).status_code == 409
    assert await bin_today(services) == SHOPS[OWN]


async def test_change_of_somebody_who_is_no_administrator_any_more_is_applied_by_nobody(
    services: Services, two: tuple[httpx.AsyncClient, ...]
) -> None:
    path = await propose(two[0])
    [first, _] = await services.people.all()
    await services.people.disable(first.id)
    assert (await two[1].post(path, data={"decision": "confirm"})).status_code == 409
    assert await bin_today(services) == SHOPS[OWN]
    assert (await two[1].post(path, data={"decision": "refuse"})).status_code == 303


# --- a test payment


def fields(page: httpx.Response, **more: str) -> dict[str, str]:
    [key] = re.findall(r'name="key" value="([^"]+)"', page.text)
    return {"key": key, "phone": "8 701 521 15 45", "amount": "100", **more}


async def test_test_payment_is_sent_once_and_shown_where_it_stands(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    client = await sign_in()
    page = await client.get(f"{SELLER}/test")
    assert "no money moves" in page.text
    form = fields(page)
    answers = await asyncio.gather(*(client.post(f"{SELLER}/test", data=form) for _ in range(3)))
    again = await client.post(f"{SELLER}/test", data=form)
    [payment] = await payments_of(services)
    assert proxy.create.call_count == 1
    assert again.headers["location"] == f"/console/payments/{payment.id}"
    assert {answer.status_code for answer in answers} <= {303, 409, 503}
    assert (payment.shop_id, payment.caller, payment.message) == (OWN, "console", "Test payment")
    other = await client.post(f"{SELLER}/test", data={**form, "amount": "200"})
    assert "sent before, with something else" in text_of(other)
    assert proxy.create.call_count == 1
    assert fields(await client.get(f"{SELLER}/test"))["key"] != form["key"]


async def test_test_payment_of_money_is_sent_only_by_who_says_so(
    services: Services, shops: dict[int, str], proxy: GoodProxy, app: FastAPI, sign_in: SignIn
) -> None:
    real = services.settings.model_copy(update={"production_api_url": "https://proxy.example.kz"})
    client = await sign_in()
    app.state.services = replace(services, settings=real)
    page = await client.get(f"{SELLER}/test")
    assert "This is real money" in page.text
    assert (await client.post(f"{SELLER}/test", data=fields(page))).status_code == 422
    assert proxy.create.call_count == 0
    assert (await client.post(f"{SELLER}/test", data=fields(page, is_money="yes"))).status_code == 303
    assert proxy.create.call_count == 1


@pytest.mark.parametrize(
    "wrong",
    [{"phone": "12"}, {"amount": "0"}, {"amount": "1.500"}, {"amount": "1,500"}, {"key": "mine"}, {"amount": ""}],
)
async def test_test_payment_that_is_none_is_not_sent(
    services: Services, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, wrong: dict[str, Any]
) -> None:
    client = await sign_in()
    form = fields(await client.get(f"{SELLER}/test"))
    assert (await client.post(f"{SELLER}/test", data={**form, **wrong})).status_code == 422
    assert proxy.create.call_count == 0


async def test_seller_that_is_switched_off_gets_no_test_payment(
    services: Services, shops: dict[int, str], wire: respx.MockRouter, sign_in: SignIn
) -> None:
    await services.routing.update(FULL_ACCESS, OWN, {"is_active": False})
    client = await sign_in()
    assert (await client.get(f"{SELLER}/test")).status_code == 409
    assert f"{SELLER}/test" not in (await client.get(SELLER)).text
