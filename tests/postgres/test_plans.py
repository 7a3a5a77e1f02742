"""The statements on the path of a payment reach their rows by their ids, whatever the planner knows of the tables.

A plan is made once for each connection, perhaps while the tables are empty and nobody has counted them, or from counts
of a moment at which nothing was open. An index whose predicate the statement implies then looks as cheap as the primary
key, and is read from one end to the other.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import FULL_ACCESS
from payment_service.audit import checking
from payment_service.audit import service as audit
from payment_service.audit.service import LogFilter
from payment_service.events import relay
from payment_service.identifiers import new_id
from payment_service.money import Money
from payment_service.notifications import service as messages
from payment_service.payments import polling, queries, shops
from payment_service.payments import statements as payments
from payment_service.postgres.database import STATEMENT_SETTINGS
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.reconciliation.service import Period
from payment_service.reconciliation.sums import statement
from payment_service.refunds import queries as refund_queries
from payment_service.refunds import statements as refunds
from payment_service.refunds.service import RefundRequest
from payment_service.services import Services, build
from payment_service.settings import Settings
from payment_service.webhooks import delivery
from tests.support.asking import KEY, SHOP, TESTS, ask
from tests.support.database import Server, without_laws
from tests.support.replies import GoodProxy
from tests.support.shops import SHOPS, device_token_of

_SCAN = re.compile(
    r"(?:Index (?:Only )?Scan(?: Backward)? using (\w+) on|Bitmap Index Scan on (\w+)|Seq Scan on (\w+))"
)
SMALL = {"webhook_endpoint", "payment_config", "payment_config_bin", "notify_chat"}
"""Endpoints, shops and chats are few, and all of them may be looked at."""


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
        shops.ACTIVITY,
        {
            *("payment_shop", "payment_trouble", "payment_one_open_per_order"),
            *("payment_config", "payment_config_bin", "same_seller_once"),
        },
    ),
    "sums of a period": (sums(), {"payment_time", "refund_payment"}),
    "next delivery": (delivery.NEXT, {"webhook_endpoint", "event_delivery_due"}),
    "next message": (messages.NEXT, {"notify_chat", "notify_message_open"}),
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


def in_session(read: Callable[[AsyncSession], Awaitable[Any]]) -> Callable[[Services], Awaitable[None]]:
    async def do(services: Services) -> None:
        async with services.database.reading() as session:
            await read(session)

    return do


READ: dict[str, tuple[Callable[[Services], Awaitable[Any]], set[str]]] = {
    "lines of a request": (lines_of_request, {"payment_log_request"}),
    "how far the record is sealed": (
        lambda services: checking.sealing_status(services.database),
        {"audit_seal_chain", "payment_log_pkey", "audit_check_pkey", "payment_log_time"},
    ),
    "oldest reading": (in_session(polling.readings_due_since), {"payment_overdue"}),
    "oldest event": (in_session(relay.events_waiting_since), {"event_waiting"}),
    "oldest delivery": (in_session(delivery.deliveries_waiting_since), {"webhook_endpoint", "event_delivery_state"}),
    "oldest message": (in_session(messages.messages_waiting_since), {"notify_chat", "notify_message_open"}),
    "how many refunds are open": (in_session(refund_queries.count_open), {"refund_sending", "refund_unknown"}),
    "how many refunds wait for people": (
        in_session(partial(refund_queries.count_for_people, sending_lease_s=30)),
        {"refund_sending", "refund_unknown"},
    ),
    "how many deliveries wait": (
        in_session(delivery.count_waiting_deliveries),
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


HOT = re.compile(r"\bon (?:payment|refund|idempotency_claim)\b")
COPIED = {
    "payment": (
        "'id', uuidv7(), 'external_id', (20000000000 + number)::text, 'short_code', substr(md5(number::text), 1, 6), "
        "'order_id', 'earlier ' || number, 'fingerprint', md5(number::text)"
    ),
    "refund": "'id', uuidv7(), 'fingerprint', md5(number::text)",
    "idempotency_claim": (
        "'operation_id', uuidv7(), 'idempotency_key', 'key ' || number, 'fingerprint', md5(number::text)"
    ),
}
"""What a copy of a row has of its own."""


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The plans of all that connections made from now on are asked to run, in functions and triggers too."""
    plans: list[str] = []
    connect = asyncpg.connect

    async def explaining(*args: Any, **options: Any) -> asyncpg.Connection:
        connection = await connect(*args, **options)
        connection.add_log_listener(lambda _, notice: plans.append(notice.message))
        await connection.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_nested_statements = on;"
            "SET auto_explain.log_level = notice"
        )
        return connection

    monkeypatch.setattr(asyncpg, "connect", explaining)
    return plans


@pytest.fixture
async def elsewhere(
    server: Server, worker_id: str, settings: Settings, explained: list[str]
) -> AsyncIterator[tuple[Services, asyncpg.Connection]]:
    """Services over a database of their own, with a connection to it."""
    url = await server.make(f"plans_ended_{worker_id}")
    services, connection = (
        build(settings.model_copy(update={"database_url": SecretStr(url)})),
        await asyncpg.connect(url),
    )
    yield services, connection
    await connection.close()
    await services.close()


async def test_functions_and_triggers_reach_their_rows_by_an_index(
    elsewhere: tuple[Services, asyncpg.Connection], proxy: GoodProxy, explained: list[str]
) -> None:
    """In a database that was counted when nothing was open in it."""
    services, connection = elsewhere
    await services.routing.create(
        FULL_ACCESS, SHOP, {"organization_bin": SHOPS[SHOP], "device_token": device_token_of(SHOP)}
    )

    async def pay_and_get_it_back(tenge: int, **words: Any) -> None:
        request = ask(tenge, **words)
        payment = (await services.payments.create(request)).payment
        assert (await services.payments.create(replace(request, id=new_id()))).replayed
        proxy.statuses[str(payment.external_id)] = "Processed"
        payment = await services.reading.refresh(payment)
        for key in (None, f"refund of {tenge}"):
            await services.refunds.refund(
                RefundRequest(caller=TESTS, payment=payment, amount=Money.from_tenge(1), idempotency_key=key)
            )

    await pay_and_get_it_back(100, order_id="order", idempotency_key=KEY)
    async with without_laws(connection):
        for table, own in COPIED.items():
            await connection.execute(
                f"INSERT INTO {table} SELECT (jsonb_populate_record(row, jsonb_build_object({own}))).* "
                f"FROM (SELECT {table} AS row FROM {table} LIMIT 1) AS one, generate_series(1, 1000) AS number"
            )
    await connection.execute("VACUUM ANALYZE")
    explained.clear()
    for number in range(1, 8):  # the sixth time it is planned for whatever values
        await pay_and_get_it_back(100 + number)
        await pay_and_get_it_back(200 + number, order_id=f"order {number}", idempotency_key=f"{KEY} {number}")
        await pay_and_get_it_back(300 + number, phone=None)
    assert any("earlier.fingerprint = NEW.fingerprint" in plan for plan in explained), "triggers are explained"
    whole = {
        plan
        for plan in explained
        for line, following in pairwise([*plan.splitlines(), ""])
        if _SCAN.search(line) and HOT.search(line) and "Index Cond" not in following
    }
    assert not whole, "\n\n".join(whole)


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
