"""What those who look after PostgreSQL do while money runs: no payment is sent without its row, or beside another."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from payment_service.errors import DatabaseUnavailable
from payment_service.money import Money
from payment_service.postgres.connecting import UnguardedSessionError
from payment_service.postgres.database import Database
from payment_service.postgres.guarantees import laws_off
from payment_service.postgres.laws import added, laws, listed
from payment_service.refunds.service import RefundRequest
from payment_service.services import Services
from tests.support.asking import KEY, TESTS, ask
from tests.support.replies import GoodProxy
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("shops")
Trigger = Callable[[str, str], AbstractAsyncContextManager[None]]


@pytest.fixture
def trigger(emptied: asyncpg.Connection) -> Trigger:
    """Puts a trigger of somebody else on a table for a while: when it fires, and what it does with a row."""

    @asynccontextmanager
    async def put(when: str, does: str) -> AsyncIterator[None]:
        await emptied.execute(
            f"CREATE FUNCTION of_others() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {does} END$$;"
            f"CREATE TRIGGER zzz_of_others {when} FOR EACH ROW EXECUTE FUNCTION of_others()"
        )
        try:
            yield
        finally:
            await emptied.execute("DROP FUNCTION of_others CASCADE")

    return put


@pytest.mark.parametrize(
    ("table", "does"),
    [
        ("payment", "RETURN NULL;"),
        ("payment", "NEW.organization_bin := '891027350515'; RETURN NEW;"),
        ("payment", "NEW.amount := NEW.amount + 1; RETURN NEW;"),
        ("payment", "NEW.order_id := NULL; RETURN NEW;"),
        ("idempotency_claim", "RETURN NULL;"),
    ],
)
async def test_payment_whose_row_is_dropped_or_changed_is_not_sent(
    services: Services, proxy: GoodProxy, sql: asyncpg.Connection, trigger: Trigger, table: str, does: str
) -> None:
    async with trigger(f"BEFORE INSERT ON {table}", does):
        with pytest.raises(DatabaseUnavailable):
            await services.payments.create(ask(order_id="1", idempotency_key=KEY))
    assert proxy.money_calls == 0
    assert await sql.fetchval("SELECT count(*) FROM payment") == 0
    await services.payments.create(ask(order_id="1", idempotency_key=KEY))
    assert proxy.money_calls == 1


async def test_move_that_is_dropped_is_written_when_nobody_drops_it_any_more(
    services: Services, proxy: GoodProxy, trigger: Trigger
) -> None:
    paid = (await services.payments.create(ask())).payment
    proxy.statuses[str(paid.external_id)] = "Processed"
    paid = await services.reading.refresh(paid)
    with capture_logs() as logs:

        async def is_tried() -> bool:
            return [line.get("error") for line in logs].count("NotWrittenError") == 2

        async with trigger("BEFORE UPDATE ON payment", "RETURN NULL;"):
            under_way = services.inflight.begin(services.payments.create(ask(200)))
            await until(is_tried)
        assert (await under_way).payment.state == "pending"
        refund = RefundRequest(caller=TESTS, payment=paid, amount=Money.from_tenge(10))
        logs.clear()
        async with trigger("BEFORE UPDATE ON refund", "RETURN NULL;"):
            paying_back = services.inflight.begin(services.refunds.refund(refund))
            await until(is_tried)
        assert (await paying_back).refund.state == "succeeded"
    assert proxy.money_calls == 3


async def test_laws_that_are_looked_for_are_those_that_the_migrations_make(database: Database) -> None:
    async with database.reading() as session:
        assert await laws(session) == listed(), "run 'python -m payment_dev laws'"
        assert await added(session) == []


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("DROP TRIGGER payment_sees ON payment", "it lacks, or has in another form, trigger payment_sees on payment"),
        ("DROP INDEX payment_one_open_per_order", "unique index payment_one_open_per_order on payment"),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'payment_external_id'::regclass",
            "unique index payment_external_id on payment",
        ),
        (
            (
                "DROP INDEX payment_one_open_per_order; CREATE UNIQUE INDEX payment_one_open_per_order ON payment"
                " (shop_id, order_id) WHERE state = 'pending'"
            ),
            "unique index payment_one_open_per_order on payment",
        ),
        ("ALTER TABLE event DROP CONSTRAINT event_keeps_laws", "constraint event_keeps_laws on event"),
        (
            (
                "ALTER TABLE payment_log DROP CONSTRAINT payment_log_keeps_laws; ALTER TABLE payment_log"
                " ADD CONSTRAINT payment_log_keeps_laws CHECK (id > 0)"
            ),
            "constraint payment_log_keeps_laws on payment_log",
        ),
        (
            (
                "DROP TRIGGER payment_sees ON payment; CREATE TRIGGER payment_sees BEFORE INSERT ON payment"
                " FOR EACH ROW WHEN (NEW.amount > 0) EXECUTE FUNCTION sees_what_was_committed()"
            ),
            "trigger payment_sees on payment",
        ),
        ("ALTER TABLE payment ALTER shop_id DROP NOT NULL", "column payment.shop_id"),
        ("ALTER FUNCTION payment_intend RESET ALL", "function payment_intend"),
        (
            "CREATE OR REPLACE FUNCTION in_time(within_s float8) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
            "function in_time",
        ),
        ("ALTER SEQUENCE payment_log_id_seq CACHE 50", "sequence payment_log_id_seq"),
        ("ALTER TABLE sign_in_limit SET UNLOGGED", "a crash of the server empties what is UNLOGGED: sign_in_limit"),
        (
            "CREATE SCHEMA old CREATE TABLE payment_config (); SET LOCAL search_path = old, public",
            "the search path leads to others of the same name instead of payment_config",
        ),
        ("SET LOCAL session_replication_role = replica", "no trigger fires"),
    ],
)
async def test_law_that_somebody_takes_away_is_missed(database: Database, statement: str, sentence: str) -> None:
    async with database.reading() as session:
        for part in statement.split("; "):
            await session.execute(text(part))
        assert sentence in str(await laws_off(session))


async def test_what_keeps_a_law_as_it_is_is_none_that_is_missed(database: Database) -> None:
    """Fuller pages, a constraint that is checked for new rows only, and another search path of the session."""
    check = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'payment_log_keeps_laws'"
    async with database.reading() as session:
        definition = await session.scalar(text(f"{check} AND conparentid = 0"))
        for statement in (
            "ALTER INDEX payment_one_open_per_order SET (fillfactor = 80)",
            "ALTER TABLE payment_log DROP CONSTRAINT payment_log_keeps_laws",
            f"ALTER TABLE payment_log ADD CONSTRAINT payment_log_keeps_laws {definition} NOT VALID",
        ):
            await session.execute(text(statement))
        assert await laws_off(session) is None


async def test_what_others_add_to_the_tables_is_told(database: Database) -> None:
    async with database.reading() as session:
        for statement in (
            "CREATE RULE of_others AS ON INSERT TO event DO INSTEAD NOTHING",
            "CREATE TRIGGER of_others BEFORE UPDATE ON payment FOR EACH ROW EXECUTE FUNCTION payment_changes()",
            "CREATE UNIQUE INDEX of_others ON payment_config (shop_id)",
            "ALTER TABLE payment_log ADD COLUMN of_others text",
        ):
            await session.execute(text(statement))
        assert await added(session) == [
            "column payment_log.of_others",
            "rule of_others on event",
            "trigger of_others on payment",
            "unique index of_others on payment_config",
        ]
        assert await laws_off(session) is None


async def test_new_connection_of_a_process_that_runs_has_its_laws_and_its_tables_or_is_none(
    database_url: str, sql: asyncpg.Connection
) -> None:
    of_database = f"ALTER DATABASE {await sql.fetchval('SELECT current_database()')}"
    database = Database(database_url, pool_size=2)
    try:
        await sql.execute("CREATE SCHEMA old CREATE TABLE payment_config ()")
        await sql.execute(f"{of_database} SET search_path = old, public")
        async with database.reading() as session:
            [(of_statements,)] = await database.statements.fetch("SHOW search_path")
            assert (of_statements, await session.scalar(text("SHOW search_path"))) == ("public", "public")
        await sql.execute(f"{of_database} SET session_replication_role = replica")
        with pytest.raises(UnguardedSessionError, match="session_replication_role is replica"):
            await database._connect()
    finally:
        await sql.execute(f"{of_database} RESET ALL")
        await sql.execute("DROP SCHEMA old CASCADE")
        await database.close()
