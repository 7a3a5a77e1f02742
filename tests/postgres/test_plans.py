"""The statements on the path of a payment reach their rows by their ids, whatever the planner knows of the tables.

A plan is made once for each connection, perhaps while the tables are empty and nobody has counted them. An index whose
predicate the statement implies then looks as cheap as the primary key, and is read from one end to the other.
"""

import re
from collections.abc import AsyncIterator

import asyncpg
import pytest

from payment_service.payments import polling, queries
from payment_service.payments import statements as payments
from payment_service.postgres.database import LINE_SETTINGS
from payment_service.refunds import statements as refunds
from payment_service.webhooks import delivery
from tests.support.database import Server

_SCAN = re.compile(r"(?:Index (?:Only )?Scan using (\w+) on|Bitmap Index Scan on (\w+)|Seq Scan on (\w+))")
SMALL = {"webhook_endpoint"}
INDEXES = {
    "move of a payment": (payments.MOVE, {"payment_pkey"}),
    "move of a refund": (refunds.MOVE, {"refund_pkey", "payment_pkey"}),
    "payment by id": (queries.BY_ID, {"payment_pkey"}),
    "payment by external id": (queries.BY_EXTERNAL_ID, {"payment_external_id"}),
    "claim of readings": (polling._CLAIM, {"payment_overdue", "payment_pkey"}),
    "plan of readings": (polling._PLAN, {"payment_pkey"}),
    "next reading": (polling._NEXT, {"payment_overdue"}),
    "result of a delivery": (
        delivery._RESULT,
        {"event_delivery_under_way", "event_delivery_pkey", "webhook_endpoint_pkey"},
    ),
    "next delivery": (delivery._NEXT, {"webhook_endpoint", "event_delivery_due"}),
}


@pytest.fixture(scope="module")
async def uncounted(server: Server, worker_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as those for single statements are, to a database whose tables nobody has counted."""
    connection = await asyncpg.connect(await server.make(f"plans_{worker_id}"), server_settings=LINE_SETTINGS)
    yield connection
    await connection.close()


@pytest.mark.parametrize("what", INDEXES)
async def test_statement_reaches_its_rows_by_the_right_index(what: str, uncounted: asyncpg.Connection) -> None:
    statement, wanted = INDEXES[what]
    plan = await plan_of(uncounted, statement)
    used = [
        (match, following) for match, following in zip(map(_SCAN.search, plan), [*plan[1:], ""], strict=True) if match
    ]
    assert {next(filter(None, match.groups())) for match, _ in used} == wanted, "\n".join(plan)
    whole = [match[0] for match, following in used if "Index Cond" not in following and match[3] not in SMALL]
    assert whole == [], "read from one end to the other"


async def plan_of(connection: asyncpg.Connection, statement: str) -> list[str]:
    """The lines of its plan, for whatever values."""
    given = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
    await connection.execute(f"PREPARE examined AS {statement}")
    try:
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE examined{given and f'({given})'}")
    finally:
        await connection.execute("DEALLOCATE examined")
    return [row[0] for row in rows]
