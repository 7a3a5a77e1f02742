"""``payment-service keys`` and ``secrets``, beside a running service."""

import json

import asyncpg
import httpx
import pytest

from tests.support.rig import PAYS_AT_ONCE, Rig
from tests.support.shops import ENCRYPTION_KEY, device_token_of

pytestmark = pytest.mark.xdist_group("cli")


async def code_with(rig: Rig, key: str, path: str = "/payments") -> int:
    answer: httpx.Response = await rig.client(rig.services[0], key).get(path)
    return answer.status_code


async def test_key_works_at_once_for_its_scopes_and_ends_when_it_is_revoked(serving: Rig) -> None:
    key = serving.make_key("short-lived", "payments:read")
    assert await code_with(serving, key) == 200
    assert await code_with(serving, key, "/admin/configs") == 403
    row = json.loads(serving.run("keys", "list", "--json").stdout)[-1]
    assert (row["name"], row["revoked_at"]) == ("short-lived", None)
    assert serving.run("keys", "revoke", str(row["id"])).returncode == 0
    assert await code_with(serving, key) == 401


async def test_shop_that_is_not_the_keys_own_looks_like_a_missing_one(serving: Rig) -> None:
    key = serving.make_key("one-shop", "config:read", shops=[75509])
    assert await code_with(serving, key, "/api/payment/config?shop_id=75509") == 200
    assert await code_with(serving, key, "/api/payment/config?shop_id=49237") == 404


def test_key_is_shown_once_and_never_again(serving: Rig) -> None:
    made = serving.run("keys", "create", "seen-once", "--scope", "admin", "--days", "3")
    key = made.stdout.rpartition("Key (shown only now): ")[2].strip()
    serving.secrets.add(key)
    assert len(key) > 40
    listed = serving.run("keys", "list").stdout
    assert "seen-once" in listed
    assert key not in listed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("create", "x", "--scope", "everything"), "one or more of"),
        (("create", "x", "--scope", "admin", "--shop", "121039"), "Shop 121039 has no"),
        (("create", "worker", "--scope", "admin"), "none of"),
        (("create", "two words", "--scope", "admin"), "1 to 64 letters"),
        (("revoke", "999999"), "There is no key 999999"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(serving: Rig, words: tuple[str, ...], sentence: str) -> None:
    done = serving.run("keys", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr


async def ciphertexts(rig: Rig) -> list[str]:
    connection = await asyncpg.connect(rig.database_url)
    rows = await connection.fetch("SELECT ciphertext FROM device_token ORDER BY id")
    await connection.close()
    return [row["ciphertext"] for row in rows]


async def test_encryption_key_is_changed_while_payments_go_on(serving: Rig) -> None:
    new = serving.run("secrets", "new-key").stdout.strip()
    serving.secrets.add(new)
    both, before = f"{new},{ENCRYPTION_KEY}", await ciphertexts(serving)
    reads_both = serving.client(await serving.serve(ENCRYPTION_KEYS=both))
    paid = await serving.paid(phone=PAYS_AT_ONCE)

    rotated = serving.run("secrets", "rotate", ENCRYPTION_KEYS=both)
    assert (rotated.returncode, rotated.stdout.split()[0]) == (0, str(len(before)))
    assert not set(before) & set(await ciphertexts(serving))
    assert (await serving.refund(paid["external_id"], by=reads_both, amount=10)).status_code == 200

    reads_new = serving.client(await serving.serve(ENCRYPTION_KEYS=new))
    assert (await serving.refund(paid["external_id"], by=reads_new, amount=20)).status_code == 200
    config = (await reads_new.get("/api/payment/config", params={"shop_id": 121038})).json()
    assert config["device_token"] == device_token_of(121038)
    # Back again, for the tests that follow.
    assert serving.run("secrets", "rotate", ENCRYPTION_KEYS=f"{ENCRYPTION_KEY},{new}").returncode == 0
