"""Webhooks over HTTP: the secret is seen once, values of headers never, deliveries page by page, replays."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from payment_service.events.relay import Relay
from payment_service.outbound.client import Posted
from payment_service.services import Services
from payment_service.webhooks.delivery import Deliveries
from tests.api.conftest import KeyMaker, created, paid, problem_of
from tests.support.due_work import work_off
from tests.support.replies import GoodProxy

pytestmark = pytest.mark.usefixtures("shops")
RECEIVER = "https://93.184.215.14/webhook"
MASK = "…"


async def added(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/admin/webhooks", json={"url": RECEIVER, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/admin/webhooks/{answer.json()['id']}"
    body: dict[str, Any] = answer.json()
    return body


async def deliver(services: Services, monkeypatch: pytest.MonkeyPatch, status: int = 200) -> None:
    """Pass on what was written, and try each delivery once."""

    async def post(*_: Any, **__: Any) -> Posted:
        return Posted(status, b"as you wish")

    monkeypatch.setattr(services.endpoints.outbound, "post", post)
    deliveries: Deliveries = services.deliveries
    await Relay(services.database, [deliveries.consume]).pass_on()
    await work_off(deliveries)


async def test_secret_is_seen_once(client: httpx.AsyncClient) -> None:
    made = await added(client, description="the site", events=["payment.paid"], shops=[121038])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert (await client.get(f"/admin/webhooks/{made['id']}")).json() == made
    assert secret not in (await client.get("/admin/webhooks")).text


async def test_rotation_shows_the_new_secret_once_and_says_how_long_the_old_one_is_valid(
    client: httpx.AsyncClient,
) -> None:
    made = await added(client)
    rotated = (await client.post(f"/admin/webhooks/{made['id']}/rotate-secret", json={"keep_old_s": 60})).json()
    assert rotated["secret"] not in {made["secret"], None}
    until = datetime.fromisoformat(rotated["previous_secret_until"])
    assert timedelta(seconds=30) < until - datetime.now(UTC) <= timedelta(seconds=61)


async def test_values_of_headers_are_hidden(client: httpx.AsyncClient) -> None:
    made = await added(client, headers={"X-Site": "flowers-and-more"})
    assert made["headers"] == {"X-Site": MASK}
    put = await client.put(f"/admin/webhooks/{made['id']}", json={"headers": {"X-Site": MASK, "X-New": "2"}})
    assert put.json()["headers"] == {"X-Site": MASK, "X-New": MASK}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"url": "http://93.184.215.14/webhook"}, "url"),
        ({"url": "https://127.0.0.1/webhook"}, "url"),
        ({"url": "https://user:password@93.184.215.14/"}, "url"),
        ({"events": ["test"]}, "events"),
        ({"events": []}, "events"),
        ({"shops": []}, "shops"),
        ({"headers": {"Host": "elsewhere"}}, "headers"),
    ],
    ids=str,
)
async def test_what_an_endpoint_cannot_be_names_its_field(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    body = problem_of(await client.post("/admin/webhooks", json={"url": RECEIVER, **fields}), 422, "validation_failed")
    assert body["errors"][0]["field"] == field


async def test_null_is_no_value_but_for_events_and_shops(client: httpx.AsyncClient) -> None:
    made = await added(client, events=["payment.paid"], shops=[121038])
    path = f"/admin/webhooks/{made['id']}"
    unchanged = (await client.put(path, json={"description": None, "url": None, "headers": None})).json()
    assert unchanged == {name: value for name, value in made.items() if name != "secret"}
    changed = (await client.put(path, json={"events": None, "shops": None})).json()
    assert (changed["events"], changed["shops"], changed["url"]) == (None, None, RECEIVER)


async def test_delete_switches_off_and_put_on_again(client: httpx.AsyncClient) -> None:
    made = await added(client)
    off = (await client.delete(f"/admin/webhooks/{made['id']}")).json()
    assert (off["is_active"], off["off_reason"]) == (False, "person")
    on = (await client.put(f"/admin/webhooks/{made['id']}", json={"is_active": True})).json()
    assert (on["is_active"], on["off_reason"], on["off_since"]) == (True, None, None)


async def test_shop_without_routing_is_refused(client: httpx.AsyncClient) -> None:
    problem_of(await client.post("/admin/webhooks", json={"url": RECEIVER, "shops": [5]}), 404, "shop_not_configured")


async def test_key_of_some_shops_gets_an_endpoint_of_its_shops(with_key: KeyMaker) -> None:
    made = await added(await with_key("admin", shops=[121038, 75509]))
    assert made["shops"] == [75509, 121038]


async def test_delivery_shows_what_get_shows_and_every_try(
    client: httpx.AsyncClient, services: Services, proxy: GoodProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await added(client, events=["payment.paid"])
    payment = await paid(client, proxy)
    await deliver(services, monkeypatch)
    [line] = (await client.get("/admin/deliveries")).json()["items"]
    details = (await client.get(f"/admin/deliveries/{line['id']}")).json()
    body = httpx.Response(200, text=details["body"]).json()
    shown = (await client.get(f"/payments/{payment['id']}")).json()
    assert (line["state"], line["subject_id"], line["version"]) == ("delivered", payment["id"], shown["version"])
    assert body["data"] == {name: shown[name] for name in body["data"]}
    [tried] = details["attempts"]
    assert (tried["status"], tried["answer"], tried["succeeded"]) == (200, "as you wish", True)


async def test_refund_event_holds_the_refund_and_its_payment(
    client: httpx.AsyncClient, services: Services, proxy: GoodProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await added(client, events=["refund.succeeded"])
    payment = await paid(client, proxy)
    body = {"shop_id": payment["shop_id"], "external_id": payment["external_id"], "amount": 10}
    await client.post("/payments/kaspi/refund", json=body)
    await deliver(services, monkeypatch)
    [line] = (await client.get("/admin/deliveries")).json()["items"]
    details = (await client.get(f"/admin/deliveries/{line['id']}")).json()
    data = httpx.Response(200, text=details["body"]).json()["data"]
    assert (data["amount"], data["state"]) == (10, "succeeded")
    assert (data["payment"]["id"], data["payment"]["refunded_amount"]) == (payment["id"], 10)


async def test_deliveries_are_found_by_endpoint_state_event_and_time(
    client: httpx.AsyncClient, services: Services, proxy: GoodProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await added(client, events=["payment.pending", "payment.paid"])
    second = await added(client, events=["payment.paid"])
    await paid(client, proxy)
    await deliver(services, monkeypatch)
    await created(client, message="another")
    await deliver(services, monkeypatch, 500)

    async def found(**wanted: Any) -> list[tuple[str, str]]:
        answer = await client.get("/admin/deliveries", params=wanted)
        return sorted((line["type"], line["state"]) for line in answer.json()["items"])

    paid_one, pending = ("payment.paid", "delivered"), ("payment.pending", "delivered")
    assert await found() == [paid_one, paid_one, pending, ("payment.pending", "waiting")]
    assert await found(endpoint_id=second["id"]) == [paid_one]
    assert await found(state="waiting") == [("payment.pending", "waiting")]
    assert await found(type="payment.pending", endpoint_id=first["id"], state="delivered") == [pending]
    assert await found(until="2025-10-22T10:00:00Z") == []
    assert len(await found(since="2025-10-22T10:00:00Z")) == 4


async def test_deliveries_are_read_page_by_page(client: httpx.AsyncClient) -> None:
    made = await added(client)
    ids = [(await client.post(f"/admin/webhooks/{made['id']}/test")).json()["id"] for _ in range(5)]
    read, cursor = [], None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await client.get("/admin/deliveries", params=params)).json()
        read += [line["id"] for line in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert read == ids[::-1]


async def test_replay_says_how_much_it_replays(
    client: httpx.AsyncClient, services: Services, proxy: GoodProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await added(client)
    await paid(client, proxy)
    await deliver(services, monkeypatch)
    path = f"/admin/webhooks/{made['id']}/replay"
    period = {
        "since": "2025-10-22T10:00:00Z",
        "until": f"{datetime.now(UTC) + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
    }
    assert (await client.post(path, json=period)).json() == {"replayed": 9}  # seven routes, pending, paid
    [newest, *_] = (await client.get("/admin/deliveries", params={"state": "delivered"})).json()["items"]
    again = (await client.post(f"/admin/deliveries/{newest['id']}/replay")).json()
    assert (again["state"], again["event_id"]) == ("waiting", newest["event_id"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"since": "2025-10-22T10:00:00Z"},
        {"failed_since": "2025-10-22T10:00:00Z", "since": "2025-10-22T10:00:00Z", "until": "2025-10-22T10:00:00Z"},
    ],
    ids=str,
)
async def test_replay_must_say_of_what(client: httpx.AsyncClient, body: dict[str, str]) -> None:
    made = await added(client)
    problem_of(await client.post(f"/admin/webhooks/{made['id']}/replay", json=body), 422, "validation_failed")


async def test_nothing_is_replayed_to_an_endpoint_that_is_off(client: httpx.AsyncClient) -> None:
    made = await added(client)
    await client.delete(f"/admin/webhooks/{made['id']}")
    body = {"failed_since": "2025-10-22T10:00:00Z"}
    problem_of(await client.post(f"/admin/webhooks/{made['id']}/replay", json=body), 409, "webhook_off")
