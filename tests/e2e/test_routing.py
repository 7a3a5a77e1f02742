"""Routing that changes while the service works: each payment keeps one route, and every process knows the new one."""

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from tests.support.rig import PAYS_AT_ONCE, Rig, sha256
from tests.support.shops import SHOPS, bin_with_checksum, device_token_of

pytestmark = pytest.mark.xdist_group("e2e")

PAYMENTS = 100
Account = tuple[str, str]
"""A BIN and the SHA-256 of its device token."""


def other_account(shop_id: int) -> dict[str, str]:
    """A second seller for a shop: another BIN, with a token of its own."""
    first = f"{SHOPS[shop_id][:6]}{shop_id:06d}"[:10]
    return {
        "organization_bin": next(bin_with_checksum(f"{first}{digit}") for digit in "37"),
        "device_token": f"{shop_id:08d}-ffff-4000-8000-000000000000",
    }


@dataclass
class Turmoil:
    """What 200 payments left behind whose shops' routing changed all the while."""

    versions: dict[tuple[int, int], Account] = field(default_factory=dict)
    """What each version of each shop's routing said, by the answers to the changes."""
    rows: list[Any] = field(default_factory=list)
    """Payments, with what the history says of their version."""
    creates: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunds: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


async def change_routing(rig: Rig, turmoil: Turmoil, stop: asyncio.Event) -> None:
    accounts = {
        shop_id: itertools.cycle(
            (other_account(shop_id), {"organization_bin": own, "device_token": device_token_of(shop_id)})
        )
        for shop_id, own in SHOPS.items()
    }
    clients = itertools.cycle(rig.clients)
    while not stop.is_set():
        for shop_id, routes in accounts.items():
            body = next(routes)
            answer = await next(clients).put(f"/admin/configs/{shop_id}", json={**body, "reason": "turmoil"})
            assert answer.status_code == 200, answer.text
            account = body["organization_bin"], sha256(body["device_token"])
            turmoil.versions[shop_id, answer.json()["version"]] = account


async def pay_and_refund(rig: Rig, number: int, order: str, limit: asyncio.Semaphore) -> None:
    shop_id, client = list(SHOPS)[number % len(SHOPS)], rig.clients[number % 2]
    async with limit:
        made = await rig.create(shop_id, by=client, phone=PAYS_AT_ONCE, order_id=f"{order}-{number}", message=order)
        assert made.status_code == 200, made.text
        # The other service refunds, so that no memory of one process could help.
        refunded = await rig.refund(made.json()["external_id"], shop_id, by=rig.clients[1 - number % 2], amount=40)
        assert refunded.status_code == 200, refunded.text


@pytest.fixture(scope="module")
async def turmoil(rig: Rig) -> Turmoil:
    await rig.route_all()
    for shop_id in SHOPS:
        rig.register(*other_account(shop_id).values())
    turmoil, stop, limit, order = Turmoil(), asyncio.Event(), asyncio.Semaphore(12), rig.word()
    async with asyncio.TaskGroup() as tasks:
        changing = tasks.create_task(change_routing(rig, turmoil, stop))
        async with asyncio.TaskGroup() as paying:
            for number in range(PAYMENTS):
                paying.create_task(pay_and_refund(rig, number, order, limit))
        stop.set()
        await changing
    connection = await asyncpg.connect(rig.database_url)
    turmoil.rows = await connection.fetch(
        "SELECT p.*, h.organization_bin AS bin_of_version, h.device_token_id AS token_of_version FROM payment p "
        "JOIN payment_config_history h ON (h.shop_id, h.version) = (p.shop_id, p.route_version) WHERE p.message = $1",
        order,
    )
    await connection.close()
    ids = {row["external_id"] for row in turmoil.rows}
    for entry in await rig.ledger(applied="true"):
        if entry["external_id"] in ids:
            if entry["op"] == "create":
                turmoil.creates[entry["external_id"]] = entry
            else:
                turmoil.refunds.setdefault(entry["external_id"], []).append(entry)
    # Here and not at the end of the module: its other tests mean the shops' own accounts, too.
    await rig.route_all()
    return turmoil


def account_of(entry: dict[str, Any]) -> Account:
    return entry["organization_bin"], entry["device_token_sha256"]


def test_every_payment_is_in_the_ledger_once_with_its_refund(turmoil: Turmoil) -> None:
    assert len(turmoil.rows) == len(turmoil.creates) == len(turmoil.refunds) == PAYMENTS
    assert {len(refunds) for refunds in turmoil.refunds.values()} == {1}


def test_each_payment_and_its_refund_used_one_route(turmoil: Turmoil) -> None:
    for external_id, [refund] in turmoil.refunds.items():
        assert account_of(refund) == account_of(turmoil.creates[external_id])


def test_that_route_was_one_version_of_that_shops_history(turmoil: Turmoil) -> None:
    for row in turmoil.rows:
        assert (
            row["organization_bin"] == row["bin_of_version"] == turmoil.creates[row["external_id"]]["organization_bin"]
        )
        assert row["device_token_id"] == row["token_of_version"]
        if said := turmoil.versions.get((row["shop_id"], row["route_version"])):
            assert account_of(turmoil.creates[row["external_id"]]) == said


def test_payments_of_every_shop_met_both_routes(turmoil: Turmoil) -> None:
    met = {(row["shop_id"], row["organization_bin"]) for row in turmoil.rows}
    assert len(met) == 2 * len(SHOPS)


async def test_history_over_http_names_every_change(rig: Rig, turmoil: Turmoil) -> None:
    for shop_id in SHOPS:
        lines = (await rig.api.get(f"/admin/configs/{shop_id}/history")).json()
        told = {line["version"]: line["to"]["organization_bin"] for line in lines if line["reason"] == "turmoil"}
        assert told == {version: account[0] for (shop, version), account in turmoil.versions.items() if shop == shop_id}


async def is_seen_within_a_second(rig: Rig, shop_id: int, city: str) -> None:
    # The promise itself is a time, so this is the one test that looks at the clock.
    give_up_at = time.monotonic() + 1
    while (await rig.clients[1].get("/api/payment/config", params={"shop_id": shop_id})).json()["city"] != city:
        assert time.monotonic() < give_up_at


@pytest.mark.parametrize("city", ["Алматы", "Астана", "Костанай"])
async def test_change_through_one_process_is_seen_by_the_other_within_a_second(rig: Rig, city: str) -> None:
    await rig.clients[1].get("/api/payment/config", params={"shop_id": 75509})  # now it is in its memory
    (await rig.clients[0].put("/admin/configs/75509", json={"city": city})).raise_for_status()
    await is_seen_within_a_second(rig, 75509, city)


async def test_change_from_the_command_line_is_seen_by_a_process_within_a_second(rig: Rig) -> None:
    (await rig.clients[1].put("/admin/configs/69292", json={"city": "before"})).raise_for_status()
    file = rig.folder / "one.csv"
    file.write_text("shop_id,organization_bin,city\n69292,960514451575,after\n")
    assert (await asyncio.to_thread(rig.run, "shops", "import", str(file))).returncode == 0
    await is_seen_within_a_second(rig, 69292, "after")


async def test_shop_switched_off_through_one_process_takes_no_payment_through_the_other(rig: Rig) -> None:
    (await rig.clients[0].delete("/admin/configs/56195")).raise_for_status()
    refused = await rig.create(56195, by=rig.clients[1], message=rig.word())
    (await rig.clients[0].put("/admin/configs/56195", json={"is_active": True})).raise_for_status()
    assert (refused.status_code, refused.json()["code"]) == (403, "shop_inactive")
