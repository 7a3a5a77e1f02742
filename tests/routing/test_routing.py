"""Routing: where a shop's money goes, changed only with a trace, told whole or not at all."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from payment_service.access.service import FULL_ACCESS, Caller
from payment_service.errors import (
    InvalidInput,
    ShopAlreadyConfigured,
    ShopInactive,
    ShopNotConfigured,
    TokenOfAnotherBin,
)
from payment_service.observability.context import Origin, origin
from payment_service.routing import importing
from payment_service.routing.service import Routing
from payment_service.routing.tokens import Token
from payment_service.services import Services
from tests.support.books import write_down
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

SHOP = 121038
OTHER = 75509
TOKEN = "11111111-2222-4333-8444-555555555555"
SPELLINGS: tuple[Callable[[str], str], ...] = (str.upper, lambda token: token.replace("-", ""))
"""One token in other words, as whoever reads a UUID may take it."""


@pytest.fixture
def routing(services: Services, shops: dict[int, str]) -> Routing:
    return services.routing


async def token_of(routing: Routing) -> Token | None:
    return (await routing.config_of(FULL_ACCESS, SHOP)).device_token


# --- asking


@pytest.mark.parametrize("shop_id", SHOPS)
async def test_each_shop_has_its_own_bin_and_token(routing: Routing, shop_id: int) -> None:
    route = await routing.route_of(FULL_ACCESS, shop_id)
    assert (route.organization_bin, route.device_token) == (SHOPS[shop_id], device_token_of(shop_id))


async def test_shop_without_routing_has_no_default(routing: Routing) -> None:
    with pytest.raises(ShopNotConfigured):
        await routing.route_of(FULL_ACCESS, 404)


async def test_inactive_shop_has_a_configuration_and_no_route(routing: Routing) -> None:
    await routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    assert not (await routing.config_of(FULL_ACCESS, SHOP)).row.is_active
    with pytest.raises(ShopInactive):
        await routing.route_of(FULL_ACCESS, SHOP)


async def test_bin_of_several_shops_answers_all_of_them(routing: Routing) -> None:
    await routing.update(FULL_ACCESS, OTHER, {"organization_bin": SHOPS[SHOP], "device_token": None})
    found = await routing.configs(FULL_ACCESS, organization_bin=SHOPS[SHOP])
    assert [config.row.shop_id for config in found] == [OTHER, SHOP]


async def test_configurations_can_be_narrowed(routing: Routing) -> None:
    await routing.update(FULL_ACCESS, SHOP, {"is_active": False})
    assert len(await routing.configs(FULL_ACCESS)) == 7
    assert len(await routing.configs(FULL_ACCESS, active_only=True)) == 6
    of_two, of_none = (Caller("c", FULL_ACCESS.scopes, shops) for shops in (frozenset({OTHER, 404}), frozenset[int]()))
    assert [config.row.shop_id for config in await routing.configs(of_two)] == [OTHER]
    assert await routing.configs(of_none) == []


async def test_routing_of_a_foreign_shop_looks_like_a_missing_one(routing: Routing) -> None:
    caller = Caller("c", FULL_ACCESS.scopes, frozenset({OTHER}))
    bin_of_shop = {"organization_bin": SHOPS[SHOP]}
    for shop_id in (SHOP, 404):
        for forbidden in (
            routing.config_of(caller, shop_id),
            routing.route_of(caller, shop_id),
            routing.history(caller, shop_id),
            routing.create(caller, shop_id, bin_of_shop),
            routing.update(caller, shop_id, bin_of_shop),
            routing.config_of_bin(caller, SHOPS[SHOP]),
        ):
            with pytest.raises(ShopNotConfigured):
                await forbidden
    assert [config.row.shop_id for config in await routing.configs(caller)] == [OTHER]


# --- changing


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"organization_bin": "920317450732"}, "organization_bin"),
        ({"organization_bin": ""}, "organization_bin"),
        ({"provider": "other"}, "provider"),
        ({"device_token": "short"}, "device_token"),
        ({"device_token": "with spaces in it"}, "device_token"),
        ({"device_token": "x" * 51}, "device_token"),
        ({"device_token": "ffffffff…"}, "device_token"),
    ],
)
async def test_wrong_field_changes_nothing(
    routing: Routing, sql: asyncpg.Connection, fields: dict[str, str], field: str
) -> None:
    before = await sql.fetch("SELECT * FROM payment_config ORDER BY id")
    for shop_id, change in ((SHOP, routing.update), (404, routing.create)):
        with pytest.raises(InvalidInput, match=f"^{field}: "):
            await change(FULL_ACCESS, shop_id, {"organization_bin": SHOPS[SHOP], **fields})
    assert await sql.fetch("SELECT * FROM payment_config ORDER BY id") == before


async def test_shop_is_configured_once(routing: Routing) -> None:
    with pytest.raises(ShopAlreadyConfigured):
        await routing.create(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER]})
    assert (await routing.route_of(FULL_ACCESS, SHOP)).organization_bin == SHOPS[SHOP]


async def test_shop_created_by_many_at_once_is_configured_once(routing: Routing, sql: asyncpg.Connection) -> None:
    creating = (routing.create(FULL_ACCESS, 404, {"organization_bin": SHOPS[SHOP]}) for _ in range(5))
    ended = await asyncio.gather(*creating, return_exceptions=True)
    assert sum(isinstance(end, ShopAlreadyConfigured) for end in ended) == 4
    assert await sql.fetchval("SELECT count(*) FROM payment_config_history WHERE shop_id = 404") == 1


async def test_update_of_a_shop_without_routing_is_refused(routing: Routing) -> None:
    with pytest.raises(ShopNotConfigured):
        await routing.update(FULL_ACCESS, 404, {"is_active": False})


async def test_update_changes_only_what_it_is_given(routing: Routing) -> None:
    before = await routing.config_of(FULL_ACCESS, SHOP)
    after = await routing.update(FULL_ACCESS, SHOP, {"description": "Corner of Abay"})
    assert after.row.description == "Corner of Abay"
    assert (after.route.organization_bin, after.device_token) == (before.route.organization_bin, before.device_token)
    assert after.row.device_token_id == before.row.device_token_id
    assert after.row.version == before.row.version + 1


async def test_update_that_differs_in_nothing_is_no_version(routing: Routing) -> None:
    before = await routing.config_of(FULL_ACCESS, SHOP)
    same = {"organization_bin": SHOPS[SHOP], "device_token": device_token_of(SHOP), "is_active": True, "name": ""}
    assert (await routing.update(FULL_ACCESS, SHOP, same)).row.version == before.row.version
    assert len(await routing.history(FULL_ACCESS, SHOP)) == 1


async def test_bin_and_token_change_together(routing: Routing) -> None:
    await routing.update(
        FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER], "device_token": TOKEN, "is_active": True}
    )
    route = await routing.route_of(FULL_ACCESS, SHOP)
    assert (route.organization_bin, route.device_token, route.version) == (SHOPS[OTHER], TOKEN, 2)


@pytest.mark.parametrize("written", [str, *SPELLINGS])
async def test_token_of_another_seller_is_refused_wherever_it_is_given(
    routing: Routing, written: Callable[[str], str]
) -> None:
    token = "aaaaaaaa-2222-4333-8444-555555555555"
    await routing.update(FULL_ACCESS, OTHER, {"device_token": token})
    foreign = {"device_token": written(token)}
    with pytest.raises(TokenOfAnotherBin):
        await routing.update(FULL_ACCESS, SHOP, foreign)
    with pytest.raises(TokenOfAnotherBin):
        await routing.create(FULL_ACCESS, 404, {"organization_bin": SHOPS[SHOP], **foreign})
    rows = importing.parse(f"shop_id,organization_bin,device_token\n{SHOP},{SHOPS[SHOP]},{token}")
    for dry_run in (True, False):
        with pytest.raises(TokenOfAnotherBin):
            await importing.apply(routing, rows, reason="import", dry_run=dry_run)
    assert (await token_of(routing), len(await routing.history(FULL_ACCESS, SHOP))) == (device_token_of(SHOP), 1)
    # Two shops of one seller may have one device.
    await routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER], **foreign})


async def test_token_given_to_two_sellers_at_once_is_given_to_one(routing: Routing) -> None:
    """Neither sees what the other has not committed, so they wait for each other."""
    giving = (routing.update(FULL_ACCESS, shop_id, {"device_token": TOKEN}) for shop_id in (SHOP, OTHER))
    ended = await asyncio.gather(*giving, return_exceptions=True)
    assert sum(isinstance(end, TokenOfAnotherBin) for end in ended) == 1, ended


@pytest.mark.parametrize("given", [{}, *({"device_token": spelled(device_token_of(SHOP))} for spelled in SPELLINGS)])
async def test_bin_does_not_change_with_the_token_of_the_seller_before(
    routing: Routing, services: Services, given: dict[str, str]
) -> None:
    """Whoever takes the shop over: its payments would go out with the device of the seller that left."""
    wanted = {"organization_bin": SHOPS[OTHER], **given}
    for as_shown in ({}, {"device_token": "00121038…"}):
        with pytest.raises(TokenOfAnotherBin):
            await routing.update(FULL_ACCESS, SHOP, {**as_shown, **wanted})
    with pytest.raises(TokenOfAnotherBin):
        await services.route_changes.propose(FULL_ACCESS, 1, SHOP, wanted, version=1, reason="new contract")
    row = f"{SHOP},{SHOPS[OTHER]},{given.get('device_token', '')}"
    rows = importing.parse(f"shop_id,organization_bin,device_token\n{row}")
    with pytest.raises(TokenOfAnotherBin):
        await importing.apply(routing, rows, reason="import", dry_run=False)
    assert len(await routing.history(FULL_ACCESS, SHOP)) == 1
    await routing.update(FULL_ACCESS, SHOP, {"organization_bin": SHOPS[OTHER], "device_token": None})
    assert (await routing.route_of(FULL_ACCESS, SHOP)).device_token is None


async def test_masked_token_put_back_leaves_the_token(routing: Routing) -> None:
    masked = (await routing.config_of(FULL_ACCESS, SHOP)).row.device_token
    assert masked == "00121038…"
    await routing.update(FULL_ACCESS, SHOP, {"device_token": masked, "name": "Eileen"})
    assert await token_of(routing) == device_token_of(SHOP)


async def test_null_removes_the_token(routing: Routing, sql: asyncpg.Connection) -> None:
    await routing.update(FULL_ACCESS, SHOP, {"device_token": None})
    assert await token_of(routing) is None
    row = await sql.fetchrow("SELECT device_token, device_token_id FROM payment_config WHERE shop_id = $1", SHOP)
    assert row == (None, None)


@pytest.mark.parametrize("wanted", [None, TOKEN, device_token_of(SHOP)])
async def test_token_change_that_waited_for_another_one_wins(
    routing: Routing, sql: asyncpg.Connection, wanted: str | None
) -> None:
    """The second of two changes at once sees what the first one wrote."""
    await routing.update(FULL_ACCESS, OTHER, {"organization_bin": SHOPS[SHOP], "device_token": "token-of-the-first"})
    first = sql.transaction()
    await first.start()
    columns = "shop_id, version, organization_bin, device_token, device_token_id, is_active, name, city, description"
    await sql.execute(
        "UPDATE payment_config SET version = 2, (device_token, device_token_id) ="
        " (SELECT device_token, device_token_id FROM payment_config WHERE shop_id = $2) WHERE shop_id = $1",
        SHOP,
        OTHER,
    )
    await sql.execute(
        f"INSERT INTO payment_config_history ({columns}, actor) "
        f"SELECT {columns}, 'first' FROM payment_config WHERE shop_id = $1",
        SHOP,
    )
    await write_down(sql, f"payment_config:{SHOP}")
    second = asyncio.create_task(routing.update(FULL_ACCESS, SHOP, {"device_token": wanted}))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    await until(lambda: sql.fetchval(waiting))
    await first.commit()
    await second
    assert await token_of(routing) == wanted


async def test_changes_at_once_are_all_kept(routing: Routing) -> None:
    fields: list[dict[str, Any]] = [{"name": "N"}, {"city": "C"}, {"description": "D"}, {"device_token": TOKEN}]
    await asyncio.gather(*(routing.update(FULL_ACCESS, SHOP, change) for change in fields))
    config = await routing.config_of(FULL_ACCESS, SHOP)
    row = config.row
    assert (row.name, row.city, row.description, config.device_token) == ("N", "C", "D", TOKEN)
    assert row.version == 5
    assert len(await routing.history(FULL_ACCESS, SHOP)) == 5


# --- history


async def test_history_tells_who_what_and_why_newest_first(routing: Routing) -> None:
    mark = origin.set(Origin("aigerim"))
    try:
        wanted = {"organization_bin": SHOPS[OTHER], "device_token": None}
        await routing.update(FULL_ACCESS, SHOP, wanted, reason="new contract")
    finally:
        origin.reset(mark)
    last, first = await routing.history(FULL_ACCESS, SHOP)
    assert (last.after.actor, last.after.reason, last.after.version) == ("aigerim", "new contract", 2)
    assert last.before is first.after
    assert (first.before, first.after.organization_bin) == (None, SHOPS[SHOP])
    assert last.after.organization_bin == SHOPS[OTHER]


async def test_history_of_a_shop_that_never_was_is_not_found(routing: Routing) -> None:
    with pytest.raises(ShopNotConfigured):
        await routing.history(FULL_ACCESS, 404)


# --- secrets


async def test_tokens_are_nowhere_in_the_clear(routing: Routing, sql: asyncpg.Connection) -> None:
    await routing.update(FULL_ACCESS, SHOP, {"device_token": TOKEN})
    for table in ("device_token", "payment_config", "payment_config_history"):
        rows = await sql.fetch(f"SELECT to_jsonb(t)::text AS row FROM {table} AS t")
        assert rows
        assert not [row for row in rows if TOKEN in row["row"] or device_token_of(SHOP) in row["row"]]


async def test_token_is_not_in_any_repr(routing: Routing) -> None:
    config = await routing.config_of(FULL_ACCESS, SHOP)
    assert device_token_of(SHOP) not in repr(config) + repr(config.route)
