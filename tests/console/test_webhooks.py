"""Webhooks and messages: what people see of them, and that what is sent again was told beforehand and is sent once."""

import re
from uuid import UUID

import asyncpg
import httpx
import pytest

from payment_service.access.people import Role
from payment_service.access.service import FULL_ACCESS
from payment_service.events.outbox import EventType
from payment_service.events.relay import Relay
from payment_service.notifications.bindings import BindingRequest
from payment_service.services import Services
from payment_service.settings import Settings
from tests.console.conftest import FOREIGN, OWN, PASSWORD, SignIn, text_of
from tests.console.test_people import LONG_AGO
from tests.events.webhooks import World, world_of
from tests.support.asking import ask
from tests.support.replies import GoodProxy


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhooks_stay_here": True})


@pytest.fixture
def world(services: Services, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> World:
    return world_of(services, sql, monkeypatch, delays_s=())


def fields(page: httpx.Response) -> dict[str, str]:
    """The hidden fields of the form that a page shows last."""
    form = page.text.rpartition('method="post"')[2]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


async def delivered(world: World, *codes: int) -> list[UUID]:
    """As many events as there are codes, each answered with its own; returns the ids of the deliveries."""
    world.receiver.answers(*codes)
    for _ in codes:
        await world.happens()
        await world.work()
    return [row["id"] for row in await world.sql.fetch("SELECT id FROM event_delivery ORDER BY id")]


async def test_endpoint_is_shown_with_how_it_fares_and_without_its_secrets(world: World, sign_in: SignIn) -> None:
    url = "http://127.0.0.1:9009/webhook?token=hidden-in-the-url"
    await world.endpoint(url=url, description="The site", events=["payment.paid"], shops=[OWN])
    await delivered(world, 200, 200, 200, 500)
    page = await (await sign_in()).get("/console/webhooks")
    said = text_of(page)
    assert "The site" in said
    assert "Delivered in 24 h 75 % 3 / 4" in said
    assert "Given up 1" in said
    assert "hidden-in-the-url" not in page.text


async def test_why_an_endpoint_is_off_stands_there(world: World, sign_in: SignIn) -> None:
    await world.endpoint()
    await delivered(world, 410)
    said = text_of(await (await sign_in()).get("/console/webhooks"))
    assert "off It answered 410: gone for good." in re.sub(r" +", " ", said).replace("127.0.0.1 ", "")


async def test_endpoint_is_switched_off_with_a_reason_and_on_again_and_the_record_names_who(
    world: World, sign_in: SignIn
) -> None:
    path = f"/console/webhooks/{await world.endpoint()}/switch"
    client = await sign_in(Role.ADMIN)
    off = {"to": "off", "reason": "the site moves"}
    assert fields(await client.get(path)) == {"to": "off"}
    for wrong, status in (({"to": "off", "reason": " "}, 422), ({"to": "up"}, 400), ({}, 400)):
        assert (await client.post(path, data=wrong)).status_code == status
    await world.sql.execute(LONG_AGO)
    assert (await client.post(path, data=off)).status_code == 422
    off["password"] = PASSWORD
    for _ in range(2):  # pressed twice is once
        assert (await client.post(path, data=off)).headers["location"] == "/console/webhooks?done=off"
    said = text_of(await client.get("/console/webhooks?done=off"))
    assert "A person switched it off." in said
    assert "Switch on…" in said
    assert fields(await client.get(path)) == {"to": "on"}
    for _ in range(2):
        assert (await client.post(path, data={"to": "on"})).headers["location"] == "/console/webhooks?done=on"
    lines = await world.sql.fetch(
        "SELECT operation_type, actor, reason FROM payment_log WHERE subject LIKE 'webhook_endpoint:%' ORDER BY id"
    )
    assert [tuple(line.values()) for line in lines[1:]] == [
        ("webhook-change", "admin@example.kz", "the site moves"),
        ("webhook-on", "admin@example.kz", None),
    ]


async def test_endpoint_is_made_once_however_often_the_form_is_sent_and_its_secret_shown_once(
    world: World, shops: dict[int, str], services: Services, sign_in: SignIn
) -> None:
    client = await sign_in(Role.ADMIN)
    path = "/console/webhooks/new"
    form = {
        **fields(await client.get(path)),
        "url": "http://127.0.0.1:9009/webhook?token=hidden",
        "which": "some",
        "event-payment.paid": "yes",
        "reach": "some",
        f"shop-{OWN}": "yes",
    }
    for change, told in (
        ({"url": "https://10.0.0.1/webhook"}, "Take an address that begins"),
        ({"which": "all"}, "Choose all events"),
        ({"event-payment.paid": ""}, "Choose all shops"),
        ({"description": "x" * 501}, "That is too long"),
    ):
        wrong = {**form, **change, "reach": "some" if told != "Choose all shops" else "all"}
        answer = await client.post(path, data=wrong)
        assert (answer.status_code, told in answer.text) == (422, True), told
    await world.sql.execute(LONG_AGO)
    assert (await client.post(path, data=form)).status_code == 422
    assert await services.endpoints.all(FULL_ACCESS) == []
    made = await client.post(path, data={**form, "password": PASSWORD})
    [secret] = re.findall(r'data-copy="(whsec_[^"]+)"', made.text)
    assert made.headers["cache-control"] == "no-store"
    assert (await client.post(path, data=form)).headers["location"] == "/console/webhooks?done=made-before"
    [endpoint] = await services.endpoints.all(FULL_ACCESS)
    assert (endpoint.events, endpoint.shops) == (["payment.paid"], [OWN])
    for page in ("/webhooks?done=made-before", "/record?changes=yes"):
        text = (await client.get(f"/console{page}")).text
        assert secret not in text
        assert "token=hidden" not in text


async def test_tries_are_shown_with_code_body_and_time(world: World, sign_in: SignIn) -> None:
    await world.endpoint()
    [delivery] = await delivered(world, 500)
    await world.sql.execute("SET session_replication_role = replica; UPDATE delivery_try SET answer = 'out of <roses>'")
    await world.sql.execute("RESET session_replication_role")
    page = await (await sign_in()).get(f"/console/deliveries/{delivery}")
    assert "<pre>out of &lt;roses&gt;</pre>" in page.text
    said = text_of(page)
    assert re.search(r"1\. 500 \d+ ms", said)
    assert "payment.paid given up" in said


async def test_deliveries_are_found_by_payment_and_in_several_states_at_once(
    world: World, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    await world.endpoint()
    await delivered(world, 200, 500)
    payment = (await world.services.payments.create(ask(order_id="12345"))).payment
    await world.pass_on()
    client = await sign_in()

    async def shown(query: str) -> set[str]:
        page = await client.get(f"/console/deliveries?{query}")
        assert page.status_code == 200
        return set(re.findall(r'class="pill \w+">([^<]+)<', page.text))

    assert await shown("") == {"delivered", "given up", "waits"}
    assert await shown("state=dead") == {"given up"}
    assert await shown("state=dead&state=waiting") == {"given up", "waits"}
    assert await shown("q=12345") == await shown(f"q={payment.external_id}&state=waiting") == {"waits"}
    assert await shown("q=12345&state=dead") == await shown("q=nobody") == set()
    page = await client.get(f"/console/payments/{payment.id}")
    assert "Webhook waits to be delivered" in page.text


async def test_one_is_sent_again_once_however_often_it_is_pressed(world: World, sign_in: SignIn) -> None:
    await world.endpoint()
    [delivery] = await delivered(world, 500)
    client = await sign_in()
    page = await client.get(f"/console/deliveries/{delivery}")
    for no_moment in ("", "2026-10-01T12:00:00"):
        bad = await client.post(f"/console/deliveries/{delivery}/replay", data={"asked_at": no_moment})
        assert bad.status_code == 400
    answers = [await client.post(f"/console/deliveries/{delivery}/replay", data=fields(page)) for _ in range(3)]
    assert len({answer.headers["location"] for answer in answers}) == 1
    assert "It is sent again, now." in (await client.get(answers[0].headers["location"])).text
    world.receiver.answers(200)
    await world.deliver()
    assert await world.states() == ["dead", "delivered"]
    await client.post(f"/console/deliveries/{delivery}/replay", data=fields(page))
    assert len(await world.states()) == 2


@pytest.mark.parametrize(
    ("kind", "told", "sent"), [("failed", "1 event will be sent.", 1), ("period", "2 events will be sent.", 2)]
)
async def test_many_are_counted_before_they_are_sent_and_sent_once(
    world: World, sign_in: SignIn, kind: str, told: str, sent: int
) -> None:
    endpoint = await world.endpoint(events=["payment.paid"])
    await delivered(world, 200, 500)
    await world.happens(EventType.PAYMENT_FAILED)  # which it does not want
    await world.pass_on()
    client = await sign_in()
    query = f"kind={kind}&since=2026-01-01T00:00&until=2099-01-01T00:00"
    page = await client.get(f"/console/webhooks/{endpoint}/replay?{query}")
    assert told in text_of(page)
    assert len(await world.states()) == 2  # to look sends nothing
    answers = [await client.post(f"/console/webhooks/{endpoint}/replay", data=fields(page)) for _ in range(2)]
    assert f"count={sent}" in answers[0].headers["location"]
    assert len(await world.states()) == 2 + sent
    world.receiver.answers(200)
    await world.deliver()
    await client.post(f"/console/webhooks/{endpoint}/replay", data=fields(page))
    assert len(await world.states()) == 2 + sent


@pytest.mark.parametrize(
    "query",
    [
        "kind=failed&since=",
        "kind=period&since=2026-01-02T00:00&until=2026-01-01T00:00",
        "kind=period&since=2026-01-02T00:00",
    ],
)
async def test_time_that_is_none_is_told(world: World, sign_in: SignIn, query: str) -> None:
    endpoint = await world.endpoint()
    answer = await (await sign_in()).get(f"/console/webhooks/{endpoint}/replay?{query}")
    assert (answer.status_code, "Give a time" in answer.text) == (422, True)


async def test_every_webhook_of_a_payment_is_sent_again_once(
    world: World, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    await world.endpoint(events=["payment.pending", "payment.paid"])
    payment = (await world.services.payments.create(ask())).payment
    await world.work()
    proxy.statuses[str(payment.external_id)] = "Processed"
    await world.services.reading.refresh(payment)
    await world.work()
    await world.happens()  # of another payment
    await world.work()
    assert await world.states() == ["delivered"] * 3
    client = await sign_in()
    page = await client.get(f"/console/payments/{payment.id}")
    [asked_at] = re.findall(r'name="asked_at" value="([^"]+)"', page.text)
    path, form = f"/console/payments/{payment.id}/replay", {"asked_at": asked_at}
    done = [(await client.post(path, data=form)).headers["location"].rpartition("=")[2] for _ in range(2)]
    assert done == ["replayed", "replayed-before"]
    await world.deliver()
    assert await world.states() == ["delivered"] * 5
    replayed = [call.event["data"]["id"] for call in world.receiver.calls[-2:]]
    assert replayed == [str(payment.id)] * 2


async def test_person_of_some_shops_sees_only_what_is_theirs(
    world: World, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn
) -> None:
    own, foreign = await world.endpoint(shops=[OWN]), await world.endpoint(shops=[FOREIGN])
    everywhere = await world.endpoint()
    await world.happens(shop_id=OWN)
    await world.happens(shop_id=FOREIGN)
    await world.pass_on()
    client = await sign_in(Role.OPERATOR, OWN)
    page = (await client.get("/console/webhooks")).text
    assert [str(one) in page for one in (own, foreign, everywhere)] == [True, False, False]
    shown = set(re.findall(r"/console/deliveries/([\w-]+)\"", (await client.get("/console/deliveries")).text))
    of_own = await world.sql.fetch("SELECT id FROM event_delivery WHERE endpoint_id = $1", own)
    assert shown == {str(row["id"]) for row in of_own}
    for one in (foreign, everywhere, UUID(int=7)):
        assert (await client.get(f"/console/webhooks/{one}/replay")).status_code == 404
    of_foreign = await world.sql.fetchval("SELECT id FROM event_delivery WHERE endpoint_id = $1", foreign)
    assert (await client.get(f"/console/deliveries/{of_foreign}")).status_code == 404


# --- messages


async def test_chat_is_shown_with_what_it_is_told_and_what_was_sent(
    world: World, shops: dict[int, str], proxy: GoodProxy, sign_in: SignIn, sql: asyncpg.Connection
) -> None:
    for shop_id, address in ((OWN, "-100123"), (FOREIGN, "-100999")):
        request = BindingRequest(
            channel="telegram", address=address, shop_id=shop_id, events=["payment.pending"], description="Florists"
        )
        await world.services.bindings.add(FULL_ACCESS, request)
    payment = (await world.services.payments.create(ask())).payment
    await Relay(world.services.database, [world.services.notifications.consume]).pass_on()
    await sql.execute(
        "UPDATE notify_message SET state = 'dead', reason = 'bot was blocked', tries = 2, tried_at = now()"
    )
    client = await sign_in()
    said = text_of(await client.get("/console/messages"))
    assert "-100123 telegram" in said
    assert "Florists payment.pending" in said
    [chat, _other] = re.findall(r"messages\?chat=([\w-]+)", (await client.get("/console/messages")).text)
    page = await client.get(f"/console/messages?chat={chat}&show=not-sent")
    assert f'href="/console/payments/{payment.id}"' in page.text
    assert "given up" in text_of(page)
    said = text_of(await client.get(f"/console/payments/{payment.id}"))
    assert "Message given up" in said
    assert "payment.pending → -100123 bot was blocked 2 tries" in said
    own = await sign_in(Role.OPERATOR, OWN, name="own")
    assert "-100999" not in (await own.get("/console/messages")).text
    foreign = await sql.fetchval("SELECT id FROM notify_chat WHERE address = '-100999'")
    assert (await own.get(f"/console/messages?chat={foreign}")).status_code == 404
