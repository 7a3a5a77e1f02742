"""A new encryption key while the service runs: tokens stay readable and requests stay recognised."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest
import respx
from cryptography.fernet import Fernet

from payment_service.access.service import FULL_ACCESS
from payment_service.errors import DeviceTokenUnreadable
from payment_service.idempotency.fingerprints import Fingerprints
from payment_service.postgres.vault import Vault, VaultError, new_key
from payment_service.routing.tokens import DeviceTokens
from payment_service.services import Services
from tests.support.asking import KEY, SHOP, ask, taking
from tests.support.books import change_by_hand, write_down
from tests.support.shops import ENCRYPTION_KEY, device_token_of

pytestmark = pytest.mark.usefixtures("shops")
NEW_KEY = new_key()


def with_keys(services: Services, *keys: str) -> Services:
    """The services as a process with these keys, the newest first."""
    vault = Vault(keys)
    routing = replace(services.routing, tokens=DeviceTokens(vault))
    fingerprints = Fingerprints(services.database, vault)
    payments = replace(services.payments, routing=routing, fingerprints=fingerprints)
    return replace(services, vault=vault, routing=routing, fingerprints=fingerprints, payments=payments)


async def test_tokens_are_readable_before_during_and_after(services: Services, sql: asyncpg.Connection) -> None:
    during, after = with_keys(services, NEW_KEY, ENCRYPTION_KEY), with_keys(services, NEW_KEY)
    assert (await during.routing.route_of(FULL_ACCESS, SHOP)).device_token == device_token_of(SHOP)
    before = await sql.fetch("SELECT id, masked, ciphertext FROM device_token ORDER BY id")
    assert await during.rotate_keys() == (7, 0)
    rows = await sql.fetch("SELECT id, masked, ciphertext FROM device_token ORDER BY id")
    assert [(row["id"], row["masked"]) for row in rows] == [(row["id"], row["masked"]) for row in before]
    assert not {row["ciphertext"] for row in rows} & {row["ciphertext"] for row in before}
    assert (await after.routing.route_of(FULL_ACCESS, SHOP)).device_token == device_token_of(SHOP)
    with pytest.raises(DeviceTokenUnreadable):
        await services.routing.route_of(FULL_ACCESS, SHOP)


async def test_rotation_makes_no_version_of_the_routing(services: Services) -> None:
    await with_keys(services, NEW_KEY, ENCRYPTION_KEY).rotate_keys()
    assert len(await with_keys(services, NEW_KEY).routing.history(FULL_ACCESS, SHOP)) == 1


@pytest.mark.parametrize("key", [KEY, None])
async def test_request_is_recognised_before_during_and_after_a_rotation(
    services: Services, wire: respx.MockRouter, key: str | None
) -> None:
    route = taking(wire)
    first = await services.payments.create(ask(idempotency_key=key))
    during = with_keys(services, NEW_KEY, ENCRYPTION_KEY)
    await during.rotate_keys()
    for later in (during, with_keys(services, NEW_KEY)):
        again = await later.payments.create(ask(idempotency_key=key))
        assert (again.replayed, again.payment.id) == (True, first.payment.id)
    assert route.call_count == 1


async def test_processes_that_start_at_once_share_one_fingerprint_key(services: Services) -> None:
    fresh = [Fingerprints(services.database, services.vault) for _ in range(10)]
    taken = await asyncio.gather(*(one.of("a", 1, None) for one in fresh))
    assert len(set(taken)) == 1
    assert len(taken[0]) == 64


async def test_fingerprint_key_that_no_key_opens_is_told(services: Services) -> None:
    await services.fingerprints.of("a")
    with pytest.raises(VaultError):
        await Fingerprints(services.database, Vault([NEW_KEY])).of("a")


async def test_fingerprints_tell_words_apart_by_their_borders(services: Services) -> None:
    of = services.fingerprints.of
    assert len({await of("ab", "c"), await of("a", "bc"), await of("abc"), await of("ab", "c", None)}) == 4


async def test_token_that_was_moved_to_another_row_is_not_opened(services: Services, sql: asyncpg.Connection) -> None:
    """Whoever holds the database's password cannot let one shop's payments run over another shop's device."""
    async with sql.transaction():
        await sql.execute(
            "UPDATE device_token SET ciphertext = other.ciphertext FROM device_token AS other"
            " WHERE (device_token.id, other.id) IN ((1, 2), (2, 1))"
        )
        await write_down(sql, "device_token:1", "device_token:2")
    with pytest.raises(DeviceTokenUnreadable):
        await services.routing.route_of(FULL_ACCESS, SHOP)
    assert await services.rotate_keys() == (5, 2)


async def test_secrets_of_before_are_read_and_bound_by_a_rotation(services: Services, sql: asyncpg.Connection) -> None:
    unbound = Fernet(ENCRYPTION_KEY).encrypt(device_token_of(SHOP).encode()).decode()
    of_before = f"UPDATE device_token SET ciphertext = '{unbound}' WHERE id = 1"
    await change_by_hand(sql, "device_token:1", of_before)
    assert (await services.routing.route_of(FULL_ACCESS, SHOP)).device_token == device_token_of(SHOP)
    await services.rotate_keys()
    assert await sql.fetchval("SELECT bool_and(ciphertext LIKE 'v2:%') FROM device_token")
    assert (await services.routing.route_of(FULL_ACCESS, SHOP)).device_token == device_token_of(SHOP)
