"""Plain SQL for breaking laws: rows as the schema wants them, and the name of the law that a statement breaks."""

from typing import Any
from uuid import UUID

import asyncpg

BIN = "891027350515"
OTHER_BIN = "991011000048"
PAYMENT = UUID("00000000-0000-7000-8000-000000000001")
REFUND = UUID("00000000-0000-7000-8000-000000000002")
NEW = UUID("00000000-0000-7000-8000-000000000003")

HISTORY = {
    "shop_id": 8,
    "version": 1,
    "organization_bin": BIN,
    "device_token": "11111111…",
    "device_token_id": 1,
    "is_active": True,
    "name": "",
    "city": "",
    "description": "",
    "actor": "tests",
}
CONFIG = {name: value for name, value in HISTORY.items() if name != "actor"}
BARE = {"shop_id": 9, "organization_bin": OTHER_BIN, "device_token": None, "device_token_id": None}
"""A second shop, without a device token."""
NEW_PAYMENT = {
    "id": NEW,
    "method": "phone",
    "shop_id": 8,
    "route_version": 1,
    "organization_bin": BIN,
    "device_token_id": 1,
    "amount": 10_000,
    "phone_last4": "4545",
    "short_code": "ABCDEF",
    "caller": "tests",
    "fingerprint": "f",
    "state": "sending",
}
NEW_REPORT = {
    "id": NEW,
    "source": "client",
    "shop_id": 8,
    "external_id": "222",
    "caller": "tests",
    "state": "unknown",
}
"""A payment that a client made itself, as bare as a report may be."""
NEW_REFUND = {
    "id": NEW,
    "payment_id": PAYMENT,
    "amount": 1_000,
    "state": "sending",
    "caller": "tests",
    "fingerprint": "f",
}
LINE = {"operation_type": "create", "actor": "tests", "source": "service"}


async def insert(sql: asyncpg.Connection, table: str, row: dict[str, Any], **changes: Any) -> None:
    row = {**row, **changes}
    places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
    await sql.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})", *row.values())


WRITE_DOWN = """
    INSERT INTO payment_log (operation_type, actor, source, subject, content)
    SELECT 'test', 'tests', 'service', subject, content FROM audited_today WHERE subject = ANY({})
"""


def written_down(*subjects: str) -> str:
    """The audit entries of changes, as a statement."""
    return WRITE_DOWN.format(f"ARRAY{list(subjects)}")


async def change_by_hand(sql: asyncpg.Connection, subject: str, *statements: str) -> None:
    """Change a row that the record tells of, as the laws want it: with its audit entry."""
    async with sql.transaction():
        for statement in statements:
            await sql.execute(statement)
        await write_down(sql, subject)


async def spoil_token(sql: asyncpg.Connection, *shop_ids: int) -> None:
    """Write over the ciphertexts of these shops' device tokens: no key opens them."""
    for shop_id in shop_ids:
        token_id = await sql.fetchval("SELECT device_token_id FROM payment_config WHERE shop_id = $1", shop_id)
        rubbish = f"UPDATE device_token SET ciphertext = 'rubbish' WHERE id = {token_id}"
        await change_by_hand(sql, f"device_token:{token_id}", rubbish)


async def write_down(sql: asyncpg.Connection, *subjects: str) -> None:
    """The audit entries of changes, in the transaction that made them."""
    await sql.execute(written_down(*subjects))


async def beyond_the_law(sql: asyncpg.Connection, *statements: str) -> None:
    """Run statements without any trigger, to set a scene. CHECKs still hold."""
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await sql.execute(statement)


async def insert_sample_rows(sql: asyncpg.Connection) -> None:
    """Two shops, a paid payment of 100 tenge and its refund of 10 that is under way."""
    async with sql.transaction():
        await sql.execute(
            "INSERT INTO device_token (ciphertext, masked) VALUES ('c1', '11111111…'), ('c2', '22222222…')"
        )
        for shop in ({}, BARE):
            await insert(sql, "payment_config_history", HISTORY, **shop)
            await insert(sql, "payment_config", CONFIG, **shop)
        if await sql.fetchval("SELECT to_regclass('audited_today') IS NOT NULL"):  # not in an early schema
            await write_down(sql, "device_token:1", "device_token:2", "payment_config:8", "payment_config:9")
        await insert(sql, "payment", NEW_PAYMENT, id=PAYMENT, external_id="111", order_id="order-1")
    await beyond_the_law(sql, "UPDATE payment SET state = 'paid', reserved_amount = 1000")
    async with sql.transaction():
        await insert(sql, "refund", NEW_REFUND, id=REFUND)


async def law_of(sql: asyncpg.Connection, *statements: str, commit: bool = True) -> str | None:
    """The law that the statements break, at once or at their commit; none when they keep all of them.

    Without ``commit`` they are rolled back before the laws that wait for the commit are asked.
    """
    transaction = sql.transaction()
    await transaction.start()
    try:
        for statement in statements:
            await sql.execute(statement)
        if commit:
            await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.IntegrityConstraintViolationError as error:
        return str(error.constraint_name)
    finally:
        await transaction.rollback()
    return None
