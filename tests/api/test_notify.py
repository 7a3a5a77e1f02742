"""All bindings, over HTTP. Whose it may be is in the matrix; what is told is in tests/notifications."""

from typing import Any

import httpx
import pytest

from payment_service.access.quota import MAX_OF_SOME_SHOPS
from payment_service.events.outbox import SUBSCRIBABLE
from tests.api.conftest import SHOP, KeyMaker, problem_of

pytestmark = pytest.mark.usefixtures("shops")
CHAT = {"channel": "telegram", "address": "-100123", "shop_id": SHOP, "events": ["payment.paid", "payment.unknown"]}


@pytest.fixture
async def admin(with_key: KeyMaker) -> httpx.AsyncClient:
    client: httpx.AsyncClient = await with_key("admin")
    return client


async def bound(admin: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await admin.post("/admin/notify", json={**CHAT, **more})
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/admin/notify/{body['id']}"
    return body


async def test_binding_is_shown_as_it_was_asked_for(admin: httpx.AsyncClient) -> None:
    body = await bound(admin, description="florist", events=["payment.unknown", "payment.paid", "payment.paid"])
    assert body.items() >= {**CHAT, "description": "florist", "language": "ru", "is_active": True}.items()
    assert body["created_by"] == "tests"
    assert (await admin.get(f"/admin/notify/{body['id']}")).json() == body
    assert (await admin.get("/admin/notify")).json() == [body]


async def test_same_chat_is_bound_to_a_shop_once(admin: httpx.AsyncClient) -> None:
    await bound(admin)
    problem_of(await admin.post("/admin/notify", json={**CHAT, "language": "en"}), 409, "binding_exists")
    await bound(admin, shop_id=None)
    problem_of(await admin.post("/admin/notify", json={**CHAT, "shop_id": None}), 409, "binding_exists")


async def test_key_of_some_shops_tells_so_many_chats(admin: httpx.AsyncClient, with_key: KeyMaker) -> None:
    theirs = await with_key("admin", shops=[SHOP])
    await bound(admin, shop_id=576631)  # takes nothing from them
    made = [await bound(theirs, address=f"-1001{number:02}") for number in range(MAX_OF_SOME_SHOPS)]
    answer = await theirs.post("/admin/notify", json=CHAT)
    assert "20 chats" in problem_of(answer, 422, "validation_failed")["detail"]
    address = f"/admin/notify/{made[0]['id']}"
    await theirs.delete(address)
    await bound(theirs)
    problem_of(await theirs.put(address, json={"is_active": True}), 422, "validation_failed")
    assert (await admin.put(address, json={"is_active": True})).status_code == 200


async def test_only_what_is_given_is_changed(admin: httpx.AsyncClient) -> None:
    before = await bound(admin, description="florist")
    after = (await admin.put(f"/admin/notify/{before['id']}", json={"events": ["refund.failed"]})).json()
    assert {**before, "events": ["refund.failed"], "updated_at": after["updated_at"]} == after


async def test_removed_binding_stays_and_may_be_added_again(admin: httpx.AsyncClient) -> None:
    first = await bound(admin)
    removed = (await admin.delete(f"/admin/notify/{first['id']}")).json()
    assert removed["is_active"] is False
    again = await bound(admin, language="kk")
    assert (again["id"], again["is_active"], again["language"]) == (first["id"], True, "kk")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"channel": "pigeon"}, "channel"),
        ({"address": "staff"}, "address"),
        ({"address": "-0"}, "address"),
        ({"address": "-100123/../getMe"}, "address"),
        ({"channel": "email", "address": "anna"}, "address"),
        ({"channel": "email", "address": "anna@shop.example.kz, boris@shop.example.kz"}, "address"),
        ({"channel": "email", "address": "anna@shop.example.kz\nBcc: boris@shop.example.kz"}, "address"),
        ({"events": []}, "events"),
        ({"events": ["payment.sold"]}, "events.0"),
        ({"events": ["test"]}, "events"),
        ({"language": "de"}, "language"),
        ({"description": "x" * 201}, "description"),
        ({"shop_id": 0}, "shop_id"),
    ],
)
async def test_field_that_is_wrong_is_named(admin: httpx.AsyncClient, changes: dict[str, Any], field: str) -> None:
    body = problem_of(await admin.post("/admin/notify", json={**CHAT, **changes}), 422, "validation_failed")
    assert body["errors"][0]["field"] == field


@pytest.mark.parametrize("address", ["-1001234567890", "77015550", "@flowers_kz"])
async def test_every_kind_of_telegram_chat_is_taken(admin: httpx.AsyncClient, address: str) -> None:
    assert (await bound(admin, address=address))["address"] == address


async def test_every_event_of_people_can_be_asked_for(admin: httpx.AsyncClient) -> None:
    assert (await bound(admin, events=list(SUBSCRIBABLE)))["events"] == list(SUBSCRIBABLE)


async def test_shop_must_be_there(admin: httpx.AsyncClient) -> None:
    problem_of(await admin.post("/admin/notify", json={**CHAT, "shop_id": 404}), 404, "shop_not_configured")


async def test_null_is_no_change(admin: httpx.AsyncClient) -> None:
    body = await bound(admin)
    answer = await admin.put(f"/admin/notify/{body['id']}", json={"language": None, "events": None})
    assert answer.json() == body


async def test_binding_of_all_shops_is_not_for_a_key_of_one(admin: httpx.AsyncClient, with_key: KeyMaker) -> None:
    everywhere = await bound(admin, shop_id=None)
    restricted = await with_key("admin", shops=[SHOP])
    problem_of(await restricted.post("/admin/notify", json={**CHAT, "shop_id": None}), 422, "validation_failed")
    problem_of(await restricted.post("/admin/notify", json={**CHAT, "shop_id": 576631}), 404, "shop_not_configured")
    of_all = f"/admin/notify/{everywhere['id']}"
    for refused in (
        await restricted.get(of_all),
        await restricted.put(of_all, json={"is_active": True}),
        await restricted.post(f"{of_all}/test"),
        await restricted.delete(of_all),
    ):
        problem_of(refused, 404, "binding_not_found")
    assert (await restricted.get("/admin/notify")).json() == []


async def test_foreign_binding_of_the_same_chat_is_in_nobodys_way(admin: httpx.AsyncClient, with_key: KeyMaker) -> None:
    await bound(admin, shop_id=576631)
    assert (await bound(await with_key("admin", shops=[SHOP])))["shop_id"] == SHOP


async def test_test_message_that_cannot_be_sent_says_why(admin: httpx.AsyncClient) -> None:
    body = await bound(admin)
    answer = problem_of(await admin.post(f"/admin/notify/{body['id']}/test"), 502, "message_not_sent")
    assert answer["detail"] == "The message was not sent: telegram is not set up: TELEGRAM_BOT_TOKEN is missing."
