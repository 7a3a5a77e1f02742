"""Who calls, and what they may do: keys, scopes, shops, and keys that end."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import respx

from payment_service.access.service import FULL_ACCESS, Access, Caller, Scope
from payment_service.errors import InvalidInput, NotAuthenticated, ScopeMissing
from payment_service.postgres.visibility import ALL_SHOPS, Shops
from payment_service.services import Services
from tests.support.asking import KEY, ask, taking
from tests.support.books import change_by_hand


@pytest.fixture
def access(services: Services) -> Access:
    return services.access


async def test_key_stands_for_its_caller(access: Access) -> None:
    made = await access.create("bitrix", ["payments:write", "config:read"], shops=frozenset({75509, 121038}))
    assert await access.caller_with(made.key) == Caller(
        "bitrix", frozenset({Scope.PAYMENTS_WRITE, Scope.CONFIG_READ}), frozenset({121038, 75509})
    )


async def test_name_of_a_key_stands_for_one_sellers_shops(access: Access) -> None:
    """Idempotency-Keys are of a name: those of one seller would be in the way of another's."""
    await access.create("site", ["payments:write"], shops=frozenset({121038, 75509}))
    for replacing in (ALL_SHOPS, frozenset({75509}), frozenset({121038, 75509, 8})):
        await access.create("site", ["payments:write"], shops=replacing)
    for foreign in (frozenset({576631}), frozenset({121038, 576631})):
        with pytest.raises(InvalidInput, match="other shops"):
            await access.create("site", ["payments:write"], shops=foreign)
    await access.create("till", ["payments:write"], shops=frozenset({1, 2}))
    with pytest.raises(InvalidInput, match="other shops"):
        await access.create("till", ["payments:write"], shops=frozenset({2, 3}))


@pytest.mark.parametrize("key", ["", "ps_", "ps_nonsense", "' OR 1=1 --", "ключ", "ps_" + "x" * 10_000])
async def test_key_nobody_made_is_refused(access: Access, key: str) -> None:
    await access.create("bitrix", ["admin"], shops=ALL_SHOPS)
    with pytest.raises(NotAuthenticated):
        await access.caller_with(key)


async def test_part_of_a_key_and_its_digest_are_no_keys(access: Access) -> None:
    made = await access.create("bitrix", ["admin"], shops=ALL_SHOPS)
    for key in (made.key[:-1], made.key + "x", made.row.digest, made.row.prefix, made.key.upper()):
        with pytest.raises(NotAuthenticated):
            await access.caller_with(key)


async def test_key_itself_is_never_stored(access: Access, sql: asyncpg.Connection) -> None:
    made = await access.create("bitrix", ["admin"], shops=ALL_SHOPS)
    secret = made.key.removeprefix(made.row.prefix)
    row = await sql.fetchval("SELECT to_jsonb(api_key)::text FROM api_key")
    assert secret not in row
    assert made.key not in row
    assert made.key not in repr(made)
    assert len(secret) >= 32


async def test_revoked_key_ends_at_once_and_for_good(access: Access) -> None:
    access.cache.trust(trusted=True)  # and nobody tells it: the process that revokes a key knows
    made = await access.create("bitrix", ["admin"], shops=ALL_SHOPS)
    await access.caller_with(made.key)
    first = await access.revoke(made.row.id)
    again = await access.revoke(made.row.id)
    assert first is not None
    assert again is not None
    assert first.revoked_at == again.revoked_at is not None
    with pytest.raises(NotAuthenticated):
        await access.caller_with(made.key)


async def test_revoking_one_key_leaves_the_others_of_its_name(access: Access) -> None:
    old, new = [await access.create("bitrix", ["admin"], shops=ALL_SHOPS) for _ in range(2)]
    await access.revoke(old.row.id)
    assert (await access.caller_with(new.key)).name == "bitrix"


async def test_key_that_never_was_cannot_be_revoked(access: Access) -> None:
    assert await access.revoke(404) is None


@pytest.mark.parametrize(("hours", "lives"), [(1, True), (-1, False), (None, True)])
async def test_key_lives_until_its_end(access: Access, hours: int | None, lives: bool) -> None:
    ends = None if hours is None else datetime.now(UTC) + timedelta(hours=hours)
    made = await access.create("bitrix", ["admin"], expires_at=ends, shops=ALL_SHOPS)
    if lives:
        assert (await access.caller_with(made.key)).name == "bitrix"
    else:
        with pytest.raises(NotAuthenticated):
            await access.caller_with(made.key)


@pytest.mark.parametrize(
    ("name", "scopes", "field"),
    [
        ("", ["admin"], "name"),
        ("n" * 65, ["admin"], "name"),
        *((ours, ["admin"], "name") for ours in ("anonymous", "console", "development", "service", "worker")),
        ("n", [], "scopes"),
        ("n", ["everything"], "scopes"),
        ("n", ["admin", "everything"], "scopes"),
    ],
)
async def test_key_that_makes_no_sense_is_not_made(access: Access, name: str, scopes: list[str], field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field}: "):
        await access.create(name, scopes, shops=ALL_SHOPS)
    assert await access.all() == []


async def test_scope_that_this_version_does_not_know_gives_nothing(access: Access, sql: asyncpg.Connection) -> None:
    made = await access.create("bitrix", ["admin"], shops=ALL_SHOPS)
    await change_by_hand(sql, f"api_key:{made.row.id}", "UPDATE api_key SET scopes = '{from-the-future}'")
    assert (await access.caller_with(made.key)).scopes == frozenset()


@pytest.mark.parametrize("scope", Scope)
def test_caller_may_do_only_what_its_scopes_say(scope: Scope) -> None:
    Caller("c", frozenset({scope}), ALL_SHOPS).require(scope)
    with pytest.raises(ScopeMissing):
        Caller("c", frozenset(Scope) - {scope}, ALL_SHOPS).require(scope)


@pytest.mark.parametrize(
    ("shops", "shop_id", "may"),
    [
        (ALL_SHOPS, 8, True),
        (ALL_SHOPS, None, True),
        (frozenset({8}), 8, True),
        (frozenset({8}), 9, False),
        (frozenset({8}), None, False),
        (frozenset(), 8, False),
    ],
)
def test_caller_touches_only_its_shops(shops: Shops, shop_id: int | None, may: bool) -> None:
    assert Caller("c", frozenset(Scope), shops).may_touch(shop_id) is may


@pytest.mark.parametrize(
    ("scopes", "shops", "has_all"),
    [
        ({"payments:read"}, {8}, True),
        ({"payments:read", "admin"}, ALL_SHOPS, True),
        ({"payments:read"}, {8, 9}, True),
        ({"admin"}, {8}, False),
        (set(), {8}, False),
        ({"payments:read"}, {9}, False),
        ({"payments:read"}, set(), False),
    ],
)
def test_caller_who_lost_a_scope_or_a_shop_has_not_all_rights_of_before(
    scopes: set[str], shops: Any, has_all: bool
) -> None:
    before = Caller("c", frozenset({Scope.PAYMENTS_READ}), frozenset({8}))
    now = Caller("c", frozenset(map(Scope, scopes)), shops if shops is ALL_SHOPS else frozenset(shops))
    assert now.has_all_rights_of(before) is has_all
    of_all = Caller("c", frozenset({Scope.PAYMENTS_READ}), ALL_SHOPS)
    assert now.has_all_rights_of(of_all) is (has_all and shops is ALL_SHOPS)


def test_development_caller_may_do_everything() -> None:
    for scope in Scope:
        FULL_ACCESS.require(scope)
    assert FULL_ACCESS.may_touch(8)


@pytest.mark.parametrize("loss", ["shops = '{8}'", "scopes = '{config:read}'", "revoked_at = now()"])
async def test_caller_whose_key_lost_rights_meanwhile_is_refused(
    access: Access, sql: asyncpg.Connection, loss: str
) -> None:
    made = await access.create("bitrix", ["payments:read"], shops=frozenset({8, 9}))
    caller = await access.caller_with(made.key)
    await access.require_valid(caller)
    await access.require_valid(FULL_ACCESS)
    await change_by_hand(sql, f"api_key:{made.row.id}", f"UPDATE api_key SET {loss}")
    with pytest.raises(NotAuthenticated):
        await access.require_valid(caller)


async def test_when_a_key_was_used_changes_when_it_is_used_and_not_otherwise(access: Access) -> None:
    made, seen = await access.create("bitrix", ["admin"], shops=ALL_SHOPS), []
    for is_used in (True, False, True):
        if is_used:
            await access.caller_with(made.key)
        await access.record_uses()
        seen.append((await access.last_used())[made.row.id])
    assert seen[0] == seen[1] < seen[2]


async def test_key_with_no_shops_may_touch_none(access: Access) -> None:
    made = await access.create("bitrix", ["admin"], shops=frozenset())
    assert not (await access.caller_with(made.key)).may_touch(8)


async def test_all_keys_are_listed_oldest_first(access: Access) -> None:
    made = [await access.create(name, ["admin"], shops=ALL_SHOPS) for name in ("b", "a")]
    await access.revoke(made[0].row.id)
    assert [row.name for row in await access.all()] == ["b", "a"]


@pytest.mark.usefixtures("shops")
@pytest.mark.parametrize("words", [{"idempotency_key": KEY}, {}])
async def test_two_keys_of_one_name_are_one_caller(
    services: Services, wire: respx.MockRouter, words: dict[str, Any]
) -> None:
    route = taking(wire)
    keys = [await services.access.create("bitrix", ["payments:write"], shops=ALL_SHOPS) for _ in range(2)]
    callers = [await services.access.caller_with(made.key) for made in keys]
    answers = [await services.payments.create(ask(caller=caller, **words)) for caller in callers]
    assert [answer.replayed for answer in answers] == [False, True]
    assert route.call_count == 1
