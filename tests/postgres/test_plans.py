"""The statements on the path of a payment reach their rows by their ids, whatever the planner knows of the tables.

A plan is made once for each connection, perhaps while the tables are empty and nobody has counted them. An index whose
predicate the statement implies then looks as cheap as the primary key, and is read from one end to the other.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from payment_service.access.service import FULL_ACCESS
from payment_service.audit import checking
from payment_service.audit import service as audit
from payment_service.audit.service import LogFilter
from payment_service.events import relay
from payment_service.payments import polling, queries, shops
from payment_service.payments import statements as payments
from payment_service.postgres.database import STATEMENT_SETTINGS
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.reconciliation.service import Period
from payment_service.reconciliation.sums import statement
from payment_service.refunds import statements as refunds
from payment_service.services import Services
from payment_service.webhooks import delivery
from tests.support.database import Server

_SCAN = re.compile(
    r"(?:Index (?:Only )?Scan(?: Backward)? using (\w+) on|Bitmap Index Scan on (\w+)|Seq Scan on (\w+))"
)
SMALL = {"webhook_endpoint", "payment_config", "payment_config_bin"}
"""Endpoints and shops are few, and all of them may be looked at."""


def sums() -> str:
    """The statement of the sums of a period, with numbers for what SQLAlchemy binds."""
    period = Period(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC))
    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    return str(statement(ALL_SHOPS, period, "day").compile(dialect=dialect))


INDEXES = {
    "move of a payment": (payments.MOVE, {"payment_pkey"}),
    "move of a refund": (refunds.MOVE, {"refund_pkey", "payment_pkey"}),
    "payment by id": (queries.BY_ID, {"payment_pkey"}),
    "payment by external id": (queries.BY_EXTERNAL_ID, {"payment_external_id"}),
    "claim of readings": (polling._CLAIM, {"payment_overdue", "payment_pkey"}),
    "plan of readings": (polling._PLAN, {"payment_pkey"}),
    "next reading": (polling._NEXT, {"payment_overdue"}),
    "result of a delivery": (
        delivery.RESULT,
        {"event_delivery_under_way", "event_delivery_event", "webhook_endpoint_pkey"},
    ),
    "how shops fare": (
        shops.FACTS,
        {
            *("payment_shop", "payment_trouble", "payment_one_open_per_order"),
            *("payment_config", "payment_config_bin", "same_seller_once"),
        },
    ),
    "sums of a period": (sums(), {"payment_time", "refund_payment"}),
    "next delivery": (delivery.NEXT, {"webhook_endpoint", "event_delivery_due"}),
}


PARTITIONED = """
    SELECT index.oid::regclass::text, coalesce(of.inhparent::regclass::text, part.inhparent::regclass || '_pkey')
    FROM pg_inherits AS part JOIN pg_index ON indrelid = part.inhrelid JOIN pg_class AS index ON index.oid = indexrelid
    LEFT JOIN pg_inherits AS of ON of.inhrelid = indexrelid
    WHERE part.inhparent IN (SELECT partrelid FROM pg_partitioned_table)
"""
"""What an index of a partition is of; each partition has a key of its own."""


@pytest.fixture(scope="module")
async def uncounted(server: Server, worker_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as those for single statements are, to a database whose tables nobody has counted."""
    connection = await asyncpg.connect(await server.make(f"plans_{worker_id}"), server_settings=STATEMENT_SETTINGS)
    yield connection
    await connection.close()


@pytest.mark.parametrize("what", INDEXES)
async def test_statement_reaches_its_rows_by_the_right_index(what: str, uncounted: asyncpg.Connection) -> None:
    statement, wanted = INDEXES[what]
    plan = await plan_of(uncounted, statement)
    used = [
        (match, following) for match, following in zip(map(_SCAN.search, plan), [*plan[1:], ""], strict=True) if match
    ]
    of = dict(await uncounted.fetch(PARTITIONED))
    names = {next(filter(None, match.groups())) for match, _ in used}
    assert {of.get(name, name) for name in names} == wanted, "\n".join(plan)
    whole = [
        match[0] for match, following in used if "Index Cond" not in following and SMALL.isdisjoint(match.groups())
    ]
    assert whole == [], "read from one end to the other"


async def lines_of_request(services: Services) -> None:
    async with services.database.reading() as session:
        await audit.search(session, LogFilter(shops=ALL_SHOPS, request_id="r"), limit=50)


READ: dict[str, tuple[Callable[[Services], Awaitable[Any]], set[str]]] = {
    "lines of a request": (lines_of_request, {"payment_log_request"}),
    "how far the record is sealed": (
        lambda services: checking.sealing_status(services.database),
        {"audit_seal_chain", "payment_log_pkey", "audit_check_pkey"},
    ),
    "oldest reading": (lambda services: services.polling.overdue_since(), {"payment_overdue"}),
    "oldest event": (lambda services: relay.waiting_since(services.database), {"event_waiting"}),
    "oldest delivery": (
        lambda services: services.deliveries.waiting_since(),
        {"webhook_endpoint", "event_delivery_state"},
    ),
    "oldest message": (
        lambda services: services.notifications.waiting_since(),
        {"notify_chat", "notify_message_open"},
    ),
    "how many refunds are open": (
        lambda services: services.refund_settling.count_open(),
        {"refund_sending", "refund_unknown"},
    ),
    "how many refunds wait for people": (
        lambda services: services.refund_settling.count_tasks(),
        {"refund_sending", "refund_unknown"},
    ),
    "how many deliveries wait": (
        lambda services: services.deliveries.count_waiting(),
        {"webhook_endpoint_pkey", "event_delivery_state"},
    ),
    "what was proposed for a shop": (
        lambda services: services.route_changes.of_shop(FULL_ACCESS, 8),
        {"route_change_shop", "person_pkey"},
    ),
}
"""What pages of the console read, and what workers count at each sweep. ``webhook_endpoint`` and ``notify_chat`` have
few rows, and all of them are looked at."""


@pytest.mark.parametrize("what", READ)
async def test_what_a_page_reads_is_reached_by_its_index(
    what: str, services: Services, uncounted: asyncpg.Connection
) -> None:
    read, wanted = READ[what]
    statements: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    event.listen(services.database.engine.sync_engine, "before_cursor_execute", note)
    try:
        await read(services)
    finally:
        event.remove(services.database.engine.sync_engine, "before_cursor_execute", note)
    plans = [line for statement in statements for line in await plan_of(uncounted, statement)]
    of = dict(await uncounted.fetch(PARTITIONED))
    names = {next(filter(None, match.groups())) for match in map(_SCAN.search, plans) if match}
    used = {of.get(name, name) for name in names}
    assert used == wanted, "\n".join(plans)


async def plan_of(connection: asyncpg.Connection, statement: str) -> list[str]:
    """The lines of its plan, for whatever values."""
    await connection.execute(f"PREPARE examined AS {statement}")
    try:
        types = "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'examined'"
        # An id names a partition, which the plan would be without.
        given = ", ".join(
            "gen_random_uuid()" if each == "uuid" else "NULL" for each in await connection.fetchval(types)
        )
        rows = await connection.fetch(f"EXPLAIN (COSTS OFF) EXECUTE examined{given and f'({given})'}")
    finally:
        await connection.execute("DEALLOCATE examined")
    return [row[0] for row in rows]
