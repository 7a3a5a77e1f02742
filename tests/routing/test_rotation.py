"""A new encryption key while the service runs: tokens stay readable and requests stay recognised."""

from dataclasses import replace

import asyncpg
import pytest
import respx

from payment_service.errors import IdempotencyKeyReused
from payment_service.main import House
from payment_service.vault import Vault, VaultError, new_key
from tests.conftest import ENCRYPTION_KEY, device_token_of
from tests.payments.asking import KEY, SHOP, ask, taking

pytestmark = pytest.mark.usefixtures("shops")
NEW_KEY = new_key()


def with_keys(house: House, *keys: str) -> House:
    """The house as a process with these keys, the newest first."""
    vault = Vault(keys)
    routing = replace(house.routing, vault=vault)
    payments = replace(house.payments, routing=routing, vault=vault)
    return replace(house, vault=vault, routing=routing, payments=payments)


async def test_tokens_are_readable_before_during_and_after(house: House, sql: asyncpg.Connection) -> None:
    during, after = with_keys(house, NEW_KEY, ENCRYPTION_KEY), with_keys(house, NEW_KEY)
    assert (await during.routing.route_of(SHOP)).device_token == device_token_of(SHOP)
    before = await sql.fetch("SELECT id, masked, ciphertext FROM device_token ORDER BY id")
    assert await during.routing.rotate_key() == 7
    rows = await sql.fetch("SELECT id, masked, ciphertext FROM device_token ORDER BY id")
    assert [(row["id"], row["masked"]) for row in rows] == [(row["id"], row["masked"]) for row in before]
    assert not {row["ciphertext"] for row in rows} & {row["ciphertext"] for row in before}
    assert (await after.routing.route_of(SHOP)).device_token == device_token_of(SHOP)
    with pytest.raises(VaultError):
        await house.routing.route_of(SHOP)


async def test_rotation_makes_no_version_of_the_routing(house: House) -> None:
    await with_keys(house, NEW_KEY, ENCRYPTION_KEY).routing.rotate_key()
    assert len(await with_keys(house, NEW_KEY).routing.history(SHOP)) == 1


async def test_token_that_no_key_opens_undoes_the_rotation(house: House, sql: asyncpg.Connection) -> None:
    await sql.execute("UPDATE device_token SET ciphertext = 'rubbish' WHERE id = 7")
    before = await sql.fetch("SELECT * FROM device_token ORDER BY id")
    with pytest.raises(VaultError):
        await with_keys(house, NEW_KEY, ENCRYPTION_KEY).routing.rotate_key()
    assert await sql.fetch("SELECT * FROM device_token ORDER BY id") == before


@pytest.mark.parametrize("key", [KEY, None])
async def test_request_made_before_the_new_key_is_recognised_after_it(
    house: House, wire: respx.MockRouter, key: str | None
) -> None:
    route = taking(wire)
    first = await house.payments.create(ask(idempotency_key=key))
    during = with_keys(house, NEW_KEY, ENCRYPTION_KEY)
    again = await during.payments.create(ask(idempotency_key=key))
    assert (again.replayed, again.payment.id) == (True, first.payment.id)
    assert route.call_count == 1


async def test_request_of_a_key_that_was_removed_is_refused_and_never_sent_again(
    house: House, wire: respx.MockRouter
) -> None:
    route = taking(wire)
    await house.payments.create(ask(idempotency_key=KEY))
    await with_keys(house, NEW_KEY, ENCRYPTION_KEY).routing.rotate_key()
    with pytest.raises(IdempotencyKeyReused):
        await with_keys(house, NEW_KEY).payments.create(ask(idempotency_key=KEY))
    assert route.call_count == 1
