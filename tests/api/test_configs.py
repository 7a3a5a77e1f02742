"""The routing of shops, as the Bitrix client reads it and the admin page changes it."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from payment_service.access.service import Scope
from tests.api.conftest import SHOP, KeyMaker, problem_of
from tests.support.books import spoil_token
from tests.support.shops import SHOPS, device_token_of

CONFIG = "/api/payment/config"
ONE = f"{CONFIG}?shop_id={SHOP}"
ADMIN = "/admin/configs"
MASKED = device_token_of(SHOP)[:8] + "…"


@pytest.fixture(autouse=True)
def _shops(shops: dict[int, str]) -> None:
    """The seven shops."""


# --- what the Bitrix client reads


async def test_one_shops_routing(client: httpx.AsyncClient) -> None:
    body = (await client.get(ONE)).json()
    assert body["shop_id"] == SHOP
    assert body["organization_bin"] == SHOPS[SHOP]
    assert (body["is_active"], body["provider"]) == (True, "kaspi")
    assert {"id", "name", "city", "description", "created_at", "updated_at"} <= set(body)


async def test_without_shop_id_all_active_ones_are_answered(client: httpx.AsyncClient) -> None:
    await client.delete(f"{ADMIN}/{SHOP}")
    assert {one["shop_id"] for one in (await client.get(CONFIG)).json()} == set(SHOPS) - {SHOP}


async def test_only_the_callers_shops_are_answered(with_key: KeyMaker) -> None:
    client = await with_key(Scope.CONFIG_READ, shops=[SHOP, 999])
    assert [one["shop_id"] for one in (await client.get(CONFIG)).json()] == [SHOP]
    assert (await (await with_key(Scope.CONFIG_READ, shops=[999])).get(CONFIG)).json() == []


async def test_token_is_whole_only_with_the_scope_for_secrets(with_key: KeyMaker) -> None:
    plain, trusted = await with_key(Scope.CONFIG_READ), await with_key(Scope.CONFIG_READ, Scope.SECRETS_READ)
    for path in (ONE, CONFIG):
        shown = [(await client.get(path)).text for client in (plain, trusted)]
        assert [device_token_of(SHOP) in text for text in shown] == [False, True]
    assert (await plain.get(ONE)).json()["device_token"] == MASKED


async def test_admin_without_the_scope_for_secrets_never_sees_a_token(with_key: KeyMaker) -> None:
    client = await with_key(Scope.ADMIN)
    token = "secret-token-0123456789"
    answers = [
        await client.put(f"{ADMIN}/{SHOP}", json={"device_token": token}),
        await client.post(ADMIN, json={"shop_id": 8, "organization_bin": "891027350515", "device_token": token}),
        await client.get(ADMIN),
        await client.get(f"{ADMIN}/{SHOP}"),
        await client.get(f"{ADMIN}/by-bin/891027350515"),
        await client.get(f"{ADMIN}/{SHOP}/history"),
        await client.delete(f"{ADMIN}/{SHOP}"),
    ]
    assert not [answer.request.url for answer in answers if token in answer.text]


async def test_history_masks_tokens_for_everybody(client: httpx.AsyncClient) -> None:
    assert device_token_of(SHOP) not in (await client.get(f"{ADMIN}/{SHOP}/history")).text


async def test_inactive_shop_is_403_and_missing_404(client: httpx.AsyncClient) -> None:
    await client.delete(f"{ADMIN}/{SHOP}")
    problem_of(await client.get(ONE), 403, "shop_inactive")
    problem_of(await client.get(f"{CONFIG}?shop_id=999"), 404, "shop_not_configured")


async def test_token_that_cannot_be_decrypted_is_told_and_set_again(
    client: httpx.AsyncClient, sql: asyncpg.Connection
) -> None:
    await spoil_token(sql, SHOP)
    answer = await client.get(ONE)
    assert (answer.status_code, answer.json()["code"]) == (400, "device_token_unreadable")
    assert SHOP not in {config["shop_id"] for config in (await client.get(CONFIG)).json()}
    shown = (await client.get(f"{ADMIN}/{SHOP}")).json()
    assert shown["device_token"] == MASKED
    assert "cannot be decrypted" in shown["warnings"][0]
    assert (await client.put(f"{ADMIN}/{SHOP}", json=shown)).json()["version"] == shown["version"]
    again = await client.put(f"{ADMIN}/{SHOP}", json={"device_token": device_token_of(SHOP)})
    assert (again.status_code, again.json()["warnings"]) == (200, [])
    assert (await client.get(ONE)).status_code == 200


@pytest.mark.parametrize("path", [ONE, CONFIG])
async def test_unchanged_routing_is_304(path: str, client: httpx.AsyncClient) -> None:
    first = await client.get(path)
    etag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, max-age=3600"
    assert {"Authorization", "X-API-Key"} <= {name.strip() for name in first.headers["vary"].split(",")}
    for sent in (etag, f"W/{etag}", f'"other", {etag}', f'"other",W/{etag} , "more"', "*"):
        answer = await client.get(path, headers={"If-None-Match": sent})
        assert answer.status_code == 304, sent
        assert not answer.content
        assert (answer.headers["etag"], answer.headers["cache-control"]) == (etag, "private, max-age=3600")
    for sent in ('"other"', etag.strip('"'), "", "W/", f"w/{etag}", '"a", ' * 500):
        assert (await client.get(path, headers={"If-None-Match": sent})).status_code == 200, sent


def signature(config: dict[str, Any], valid_until: str, key: str) -> str:
    """As docs and clients compute it, written apart from the service."""
    lines = ("payment-config", config["shop_id"], config["organization_bin"], config["device_token"] or "")
    text = "\n".join([*map(str, lines), str(int(config["is_active"])), config["provider"], valid_until])
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()


def key_of(client: httpx.AsyncClient) -> str:
    return client.headers["authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize("scopes", [(Scope.CONFIG_READ,), (Scope.CONFIG_READ, Scope.SECRETS_READ)])
async def test_routing_is_signed_with_the_key_of_whoever_asks(with_key: KeyMaker, scopes: tuple[Scope, ...]) -> None:
    client = await with_key(*scopes)
    answer = await client.get(ONE)
    for config in (answer.json(), *(await client.get(CONFIG)).json()):
        assert config["signature"] == signature(config, config["valid_until"], key_of(client))
    config = answer.json()
    said = (config["valid_until"], config["signature"])
    assert (answer.headers["x-config-valid-until"], answer.headers["x-config-signature"]) == said


async def test_unchanged_routing_is_signed_anew(with_key: KeyMaker) -> None:
    client = await with_key(Scope.CONFIG_READ)
    first = await client.get(ONE)
    again = await client.get(ONE, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    valid_until = again.headers["x-config-valid-until"]
    assert again.headers["x-config-signature"] == signature(first.json(), valid_until, key_of(client))
    assert abs(datetime.fromisoformat(valid_until) - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


@pytest.mark.parametrize("path", [ONE, CONFIG])
async def test_changed_routing_has_another_etag(path: str, client: httpx.AsyncClient) -> None:
    etag = (await client.get(path)).headers["etag"]
    await client.put(f"{ADMIN}/{SHOP}", json={"city": "Костанай"})
    answer = await client.get(path, headers={"If-None-Match": etag})
    assert (answer.status_code, answer.headers["etag"] != etag) == (200, True)


async def test_etag_of_a_masked_answer_is_not_that_of_a_whole_one(with_key: KeyMaker) -> None:
    plain, trusted = await with_key(Scope.CONFIG_READ), await with_key(Scope.CONFIG_READ, Scope.SECRETS_READ)
    etag = (await plain.get(ONE)).headers["etag"]
    assert (await trusted.get(ONE, headers={"If-None-Match": etag})).status_code == 200


@pytest.mark.parametrize("shop_id", ["x", "0", "1.5", "true", "", "2147483648", "1%00"])
async def test_odd_shop_ids_are_refused(shop_id: str, client: httpx.AsyncClient) -> None:
    problem_of(await client.get(f"{CONFIG}?shop_id={shop_id}"), 422, "validation_failed")


# --- what the admin page does

NEW: dict[str, Any] = {"shop_id": 9, "organization_bin": "991011000048", "device_token": "your-device-token-uuid"}


async def test_shop_is_added_shown_and_listed(client: httpx.AsyncClient) -> None:
    texts = {"name": "Роза 🌹", "city": "Алматы", "description": "Новый магазин"}
    answer = await client.post(ADMIN, json={**NEW, **texts, "is_active": True})
    assert (answer.status_code, answer.headers["location"]) == (201, f"{ADMIN}/9")
    body = answer.json()
    assert {name: body[name] for name in (*NEW, *texts)} == {**NEW, **texts}
    assert (await client.get(f"{ADMIN}/9")).json() == body
    assert body in (await client.get(ADMIN)).json()


async def test_list_shows_inactive_shops_too(client: httpx.AsyncClient) -> None:
    await client.delete(f"{ADMIN}/{SHOP}")
    listed = {one["shop_id"]: one["is_active"] for one in (await client.get(ADMIN)).json()}
    assert listed == {shop_id: shop_id != SHOP for shop_id in SHOPS}


async def test_second_routing_of_a_shop_is_a_conflict(client: httpx.AsyncClient) -> None:
    before = (await client.get(f"{ADMIN}/{SHOP}")).json()
    answer = await client.post(ADMIN, json={**NEW, "shop_id": SHOP})
    problem_of(answer, 409, "shop_already_configured")
    await client.delete(f"{ADMIN}/{SHOP}")
    problem_of(await client.post(ADMIN, json={**NEW, "shop_id": SHOP}), 409, "shop_already_configured")
    assert (await client.get(f"{ADMIN}/{SHOP}")).json()["organization_bin"] == before["organization_bin"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("organization_bin", "991011000049"),
        ("organization_bin", "99101100004"),
        ("organization_bin", 991011000048),
        ("organization_bin", "\uff19\uff191011000048"),
        ("organization_bin", "000000000000"),
        ("device_token", "short"),
        ("device_token", "x" * 51),
        ("device_token", "with space"),
        ("device_token", "tökenökenö"),
        ("device_token", MASKED),
        ("provider", "halyk"),
        ("shop_id", 0),
        ("is_active", "perhaps"),
        ("name", "x" * 201),
        ("description", "a\x00"),
    ],
)
async def test_wrong_field_is_named_by_post_and_put(field: str, value: Any, client: httpx.AsyncClient) -> None:
    body = problem_of(await client.post(ADMIN, json={**NEW, field: value}), 422, "validation_failed")
    assert [one["field"] for one in body["errors"]] == [field]
    if field == "shop_id":
        return
    if value == MASKED:
        await client.put(f"{ADMIN}/{SHOP}", json={"device_token": "another-token-0001"})
    before = (await client.get(f"{ADMIN}/{SHOP}")).json()
    body = problem_of(await client.put(f"{ADMIN}/{SHOP}", json={field: value}), 422, "validation_failed")
    assert [one["field"] for one in body["errors"]] == [field]
    assert (await client.get(f"{ADMIN}/{SHOP}")).json() == before


@pytest.mark.parametrize(
    "change",
    [
        {"organization_bin": "891027350515", "device_token": None},
        {"device_token": "another-token-0001"},
        {"device_token": None},
        {"is_active": False},
        {"name": "Eileen"},
        {"city": "Костанай"},
        {"description": "Цветы"},
        {"name": "", "city": ""},
    ],
    ids=str,
)
async def test_put_changes_only_what_it_is_given(change: dict[str, Any], client: httpx.AsyncClient) -> None:
    await client.put(f"{ADMIN}/{SHOP}", json={"name": "n", "city": "c", "description": "d"})
    before = (await client.get(f"{ADMIN}/{SHOP}")).json()
    after = (await client.put(f"{ADMIN}/{SHOP}", json=change)).json()
    moved = {"version", "updated_at", "warnings"}
    assert {k: v for k, v in after.items() if k not in moved} == {
        k: v for k, v in {**before, **change}.items() if k not in moved
    }
    assert after["version"] == before["version"] + 1
    assert (await client.get(f"{ADMIN}/{SHOP}")).json() == after


@pytest.mark.parametrize("change", [{}, {"device_token": MASKED}, {"organization_bin": SHOPS[SHOP]}, {"reason": "x"}])
async def test_put_that_changes_nothing_leaves_no_version(change: dict[str, Any], client: httpx.AsyncClient) -> None:
    before = (await client.get(f"{ADMIN}/{SHOP}")).json()
    assert (await client.put(f"{ADMIN}/{SHOP}", json=change)).json() == before


async def test_masked_text_that_comes_back_leaves_the_token(client: httpx.AsyncClient, with_key: KeyMaker) -> None:
    page = await with_key(Scope.ADMIN)
    shown = (await page.get(f"{ADMIN}/{SHOP}")).json()
    await page.put(f"{ADMIN}/{SHOP}", json={**shown, "city": "Костанай"})
    kept = (await client.get(f"{ADMIN}/{SHOP}")).json()
    assert (kept["device_token"], kept["city"]) == (device_token_of(SHOP), "Костанай")


async def test_put_and_delete_of_a_missing_shop_are_404(client: httpx.AsyncClient) -> None:
    problem_of(await client.put(f"{ADMIN}/999", json={"city": "x"}), 404, "shop_not_configured")
    problem_of(await client.delete(f"{ADMIN}/999"), 404, "shop_not_configured")
    problem_of(await client.get(f"{ADMIN}/999/history"), 404, "shop_not_configured")


async def test_delete_deactivates_and_put_activates_again(client: httpx.AsyncClient) -> None:
    assert (await client.delete(f"{ADMIN}/{SHOP}")).json()["is_active"] is False
    assert (await client.delete(f"{ADMIN}/{SHOP}")).json()["is_active"] is False
    assert (await client.put(f"{ADMIN}/{SHOP}", json={"is_active": True})).json()["is_active"] is True
    assert (await client.get(ONE)).status_code == 200


async def test_by_bin_answers_the_one_active_shop(client: httpx.AsyncClient, with_key: KeyMaker) -> None:
    of_bin = f"{ADMIN}/by-bin/991011000048"
    assert (await client.get(of_bin)).json() == (await client.get(f"{ADMIN}/71691")).json()
    await client.post(ADMIN, json=NEW)
    both = problem_of(await client.get(of_bin), 409, "bin_of_several_shops")
    assert both["shop_ids"] == [9, 71691]
    assert "9, 71691" in both["detail"]
    confined = await with_key("admin", shops=[71691])
    assert (await confined.get(of_bin)).json()["shop_id"] == 71691
    await client.delete(f"{ADMIN}/71691")
    assert (await client.get(of_bin)).json()["shop_id"] == 9
    await client.delete(f"{ADMIN}/9")
    assert "9, 71691" in problem_of(await client.get(of_bin), 403, "shop_inactive")["detail"]
    problem_of(await client.get(f"{ADMIN}/by-bin/891027350515"), 404, "shop_not_configured")
    for wrong in ("891027350516", "000000000000"):
        problem_of(await client.get(f"{ADMIN}/by-bin/{wrong}"), 422, "validation_failed")


async def test_id_is_the_shop_id_in_every_answer(client: httpx.AsyncClient) -> None:
    answers = [
        await client.post(ADMIN, json=NEW),
        await client.get(f"{ADMIN}/9"),
        await client.put(f"{ADMIN}/9", json={"name": "Nine"}),
        await client.get("/api/payment/config", params={"shop_id": 9}),
    ]
    bodies = [answer.json() for answer in answers]
    lists = [await client.get(ADMIN), await client.get("/api/payment/config")]
    bodies += [one for answer in lists for one in answer.json()]
    await client.delete(f"{ADMIN}/71691")
    bodies += [(await client.get(f"{ADMIN}/by-bin/991011000048")).json(), (await client.delete(f"{ADMIN}/9")).json()]
    assert len(bodies) > 15
    assert all(body["id"] == body["shop_id"] for body in bodies)


async def test_whole_answer_may_be_sent_back_changed(client: httpx.AsyncClient, with_key: KeyMaker) -> None:
    """As a page of a table does, that knows the masked token only."""
    admin = await with_key("admin")
    await admin.post(ADMIN, json=NEW)
    row = (await admin.get(f"{ADMIN}/9")).json()
    assert row["warnings"]
    changed = (await admin.put(f"{ADMIN}/9", json={**row, "name": "Nine"})).json()
    assert (changed["name"], changed["version"], changed["device_token"]) == ("Nine", 2, row["device_token"])
    assert (await client.get(f"{ADMIN}/9")).json()["device_token"] == NEW["device_token"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", 71691),
        ("shop_id", 71691),
        ("version", 2),
        ("created_at", "2025-01-01T00:00:00Z"),
        ("updated_at", "2025-01-01T00:00:00Z"),
        ("warnings", ["Something."]),
        ("isActive", False),
        ("signature", None),
    ],
)
async def test_field_of_an_answer_with_another_value_changes_nothing(
    name: str, value: Any, client: httpx.AsyncClient
) -> None:
    row = (await client.get(f"{ADMIN}/{SHOP}")).json()
    answer = await client.put(f"{ADMIN}/{SHOP}", json={**row, "city": "Elsewhere", name: value})
    assert [one["field"] for one in problem_of(answer, 422, "validation_failed")["errors"]] == [name]
    assert (await client.get(f"{ADMIN}/{SHOP}")).json() == row


async def test_row_that_somebody_changed_meanwhile_is_not_overwritten(client: httpx.AsyncClient) -> None:
    row = (await client.get(f"{ADMIN}/{SHOP}")).json()
    await client.put(f"{ADMIN}/{SHOP}", json={"organization_bin": "891027350515", "device_token": None})
    answer = await client.put(f"{ADMIN}/{SHOP}", json={**row, "city": "Elsewhere"})
    assert "version: has changed" in problem_of(answer, 422, "validation_failed")["detail"]
    assert (await client.get(f"{ADMIN}/{SHOP}")).json()["organization_bin"] == "891027350515"


async def test_null_changes_nothing_but_the_device_token(client: httpx.AsyncClient) -> None:
    row = (await client.get(f"{ADMIN}/{SHOP}")).json()
    nulls = dict.fromkeys(row.keys() - {"device_token"})
    assert (await client.put(f"{ADMIN}/{SHOP}", json=nulls)).json() == row
    assert (await client.put(f"{ADMIN}/{SHOP}", json={"device_token": None})).json()["device_token"] is None


@pytest.mark.parametrize(
    ("token", "shown"), [("12345678", "12…"), ("a" * 23, "a" * 7 + "…"), ("b" * 50, "b" * 8 + "…")]
)
async def test_mask_shows_a_third_of_a_token_at_most(
    token: str, shown: str, client: httpx.AsyncClient, with_key: KeyMaker
) -> None:
    admin = await with_key("admin")
    answer = await admin.put(f"{ADMIN}/{SHOP}", json={"device_token": token})
    assert answer.json()["device_token"] == shown
    again = await admin.put(f"{ADMIN}/{SHOP}", json={"device_token": shown, "name": "Same token"})
    assert again.status_code == 200
    assert (await client.get(f"{ADMIN}/{SHOP}")).json()["device_token"] == token
    history = (await admin.get(f"{ADMIN}/{SHOP}/history")).json()
    assert history[0]["to"]["device_token"] == shown


async def test_mask_that_an_earlier_version_wrote_down_is_not_shown_and_still_known(
    client: httpx.AsyncClient, with_key: KeyMaker, sql: asyncpg.Connection
) -> None:
    admin = await with_key("admin")
    await admin.put(f"{ADMIN}/{SHOP}", json={"device_token": "12345678"})
    old = "12345678…"
    await sql.execute("BEGIN; SET LOCAL session_replication_role = replica")
    await sql.execute("UPDATE payment_config SET device_token = $1 WHERE shop_id = $2", old, SHOP)
    await sql.execute("UPDATE device_token SET masked = $1 WHERE masked = '12…'", old)
    await sql.execute("COMMIT")
    for masked in ("12…", old):
        answer = await admin.put(f"{ADMIN}/{SHOP}", json={"device_token": masked})
        assert answer.json()["device_token"] == "12…"
    assert (await client.get(f"{ADMIN}/{SHOP}")).json()["device_token"] == "12345678"


async def test_history_tells_who_changed_what_and_why(with_key: KeyMaker) -> None:
    anna, boris = await with_key(name="anna"), await with_key(name="boris")
    await anna.post(ADMIN, json={**NEW, "reason": "new shop"})
    await boris.put(
        f"{ADMIN}/9", json={"organization_bin": "891027350515", "device_token": None, "reason": "moved to another BIN"}
    )
    await anna.delete(f"{ADMIN}/9")
    off, moved, made = (await anna.get(f"{ADMIN}/9/history")).json()
    assert [(one["version"], one["actor"]) for one in (off, moved, made)] == [(3, "anna"), (2, "boris"), (1, "anna")]
    assert [one["reason"] for one in (off, moved, made)] == ["deactivated", "moved to another BIN", "new shop"]
    assert made["from"] is None
    assert made["to"] == moved["from"]
    assert moved["to"] == off["from"]
    assert (moved["from"]["organization_bin"], moved["to"]["organization_bin"]) == ("991011000048", "891027350515")
    assert (off["from"]["is_active"], off["to"]["is_active"]) == (True, False)


async def test_token_that_is_no_uuid_is_warned_about(client: httpx.AsyncClient) -> None:
    made = (await client.post(ADMIN, json=NEW)).json()
    assert "UUID" in made["warnings"][0]
    changed = await client.put(f"{ADMIN}/9", json={"device_token": "0b5a0c4e-8a57-4d7c-9d0e-8c5f0c1f2a3b"})
    assert changed.json()["warnings"] == []
    assert (await client.put(f"{ADMIN}/9", json={"device_token": None})).json()["warnings"] == []
