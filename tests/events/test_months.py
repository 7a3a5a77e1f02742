"""Events over their partitions: laws hold over all months, and a month leaves with all that was made of its events."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from alembic import command

from payment_service.events import retiring
from payment_service.identifiers import new_id
from payment_service.postgres import migrating, schema
from payment_service.postgres.database import Database, constraint_of
from payment_service.postgres.months import AHEAD, NotRetired, make_months, months
from payment_service.webhooks import delivery
from tests.support.books import law_of
from tests.support.database import Server, empty_tables, without_laws
from tests.support.months import NOW, called, made_until, month, partitions, with_months_since

TABLES = ("event", "event_delivery", "delivery_try", "notify_message")
ENDPOINT, CHAT = UUID(int=1), UUID(int=2)


@pytest.fixture
async def url(server: Server, worker_id: str) -> str:
    """A database whose partitions no other test has."""
    return await server.make(f"event_months_{worker_id}")


@pytest.fixture
async def sql(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    await with_receivers(connection)
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def with_months(server: Server, worker_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A database with partitions since two months ago, which the tests leave as they are."""
    connection = await asyncpg.connect(await server.make(f"events_with_months_{worker_id}"))
    await with_months_since(connection, 2, "event")
    yield connection
    await connection.close()


@pytest.fixture
async def of_months(with_months: asyncpg.Connection) -> asyncpg.Connection:
    await empty_tables(with_months)
    await with_receivers(with_months)
    return with_months


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    database = Database(url, pool_size=4)
    yield database
    await database.close()


async def with_receivers(sql: asyncpg.Connection) -> None:
    await sql.execute(
        f"SET session_replication_role = replica;"
        f"INSERT INTO webhook_endpoint (id, url, secret_ciphertext) VALUES ('{ENDPOINT}', 'https://x.example', 'x');"
        f"INSERT INTO notify_chat (id, channel, address) VALUES ('{CHAT}', 'telegram', '-1');"
        "RESET session_replication_role"
    )


async def switch_off(sql: asyncpg.Connection) -> None:
    """The endpoint is off, and may be for good."""
    async with without_laws(sql):
        await sql.execute("UPDATE webhook_endpoint SET is_active = false, off_reason = 'person', off_since = now()")


def id_of(moment: datetime) -> UUID:
    """An id as ``new_id`` made it then."""
    return UUID(int=int(moment.timestamp() * 1000) << 80 | new_id().int & (1 << 80) - 1)


async def happens(sql: asyncpg.Connection, moment: datetime = NOW) -> UUID:
    """An event of that time, and a delivery and a message of it that wait."""
    event = id_of(moment)
    await sql.execute(
        "INSERT INTO event (id, type, subject, subject_id, version, data, created_at)"
        " VALUES ($1, 'payment.paid', 'payment', 'p', 1, '{}', $2)",
        event,
        moment,
    )
    await deliver(sql, event)
    await sql.execute(
        "INSERT INTO notify_message (event_id, chat_id, language, state) VALUES ($1, $2, 'ru', 'waiting')", event, CHAT
    )
    return event


async def deliver(sql: asyncpg.Connection, event: UUID, replay_of: UUID | None = None) -> UUID:
    made: UUID = await sql.fetchval(
        "INSERT INTO event_delivery (id, event_id, endpoint_id, type, subject_id, version, next_try_at, replay_of)"
        " VALUES ($1, $2, $3, 'payment.paid', 'p', 1, now(), $4) RETURNING id",
        new_id(),
        event,
        ENDPOINT,
        replay_of,
    )
    return made


async def arrives(sql: asyncpg.Connection) -> list[UUID]:
    """Everything that waits is delivered, told and passed on, by the statements of the worker; the deliveries."""
    turns = await sql.fetch(delivery.CLAIM, 40, 40, 40, 60.0, 0.0)
    for turn in turns:
        await sql.fetchrow(
            delivery.RESULT, turn["id"], turn["lease_end"], True, 200, None, "", 3, None, True, turn["event_id"]
        )
    await sql.execute("UPDATE notify_message SET state = 'sent', sent_at = now() WHERE state = 'waiting'")
    await sql.execute("UPDATE event SET passed_on_at = now() WHERE passed_on_at IS NULL")
    return [turn["id"] for turn in turns]


async def rows(sql: asyncpg.Connection, suffix: str) -> list[int]:
    """How many there are in this partition of each of the tables."""
    return [await sql.fetchval(f"SELECT count(*) FROM {table}_{suffix}") for table in TABLES]


async def test_what_is_of_an_event_is_in_its_month_whenever_it_was_made(of_months: asyncpg.Connection) -> None:
    sql = of_months
    times = {"first": month(3), f"{month(1):%Y_%m}": month(1), "default": datetime(2999, 1, 1, tzinfo=UTC)}
    for suffix, moment in times.items():
        event = await happens(sql, moment)
        [made] = await arrives(sql)
        await deliver(sql, event, replay_of=made)
        assert len(await arrives(sql)) == 1
        assert await rows(sql, suffix) == [1, 2, 2, 1], suffix
    assert await sql.fetchval("SELECT count(*) FROM event_delivery WHERE state = 'delivered' AND tries = 1") == 6


async def test_once_is_once_over_all_months(of_months: asyncpg.Connection) -> None:
    sql = of_months
    event, other = await happens(sql, month(2)), await happens(sql, month(1))
    with pytest.raises(asyncpg.UniqueViolationError, match="_once"):
        await deliver(sql, event)
    made, of_other = await arrives(sql)
    with pytest.raises(asyncpg.UniqueViolationError, match="_once"):
        await deliver(sql, event)
    await deliver(sql, event, replay_of=made)
    await arrives(sql)
    with pytest.raises(asyncpg.UniqueViolationError, match="replay_of"):
        await deliver(sql, event, replay_of=made)
    for nothing, replayed in ((id_of(month(1)), None), (other, made), (event, of_other)):
        with pytest.raises((asyncpg.ForeignKeyViolationError, asyncpg.CheckViolationError)):
            await deliver(sql, nothing, replay_of=replayed)
    with pytest.raises(asyncpg.UniqueViolationError, match="pkey"):
        await sql.execute("INSERT INTO event SELECT * FROM event")
    with pytest.raises(asyncpg.UniqueViolationError, match="pkey"):
        await sql.execute("INSERT INTO notify_message SELECT * FROM notify_message")


async def test_what_waits_for_an_endpoint_that_is_off_makes_no_claim_read_all_months(
    of_months: asyncpg.Connection,
) -> None:
    sql = of_months
    await switch_off(sql)
    async with without_laws(sql):
        await sql.execute(
            "INSERT INTO webhook_endpoint (id, url, secret_ciphertext)"
            " SELECT gen_random_uuid(), 'https://x.example', 'x' FROM generate_series(1, 3)"
        )
    await happens(sql, month(3))
    read = "SELECT coalesce(seq_scan, 0) + coalesce(idx_scan, 0) FROM pg_stat_xact_user_tables WHERE relname = $1"
    async with sql.transaction():
        before = await sql.fetchval(read, called(1, "event_delivery"))
        assert await sql.fetch(delivery.CLAIM, 40, 40, 40, 60.0, 0.0) == []
        assert await sql.fetchval(read, called(1, "event_delivery")) <= before + 1


LAWS = {
    "UPDATE {} SET created_at = now()": (
        "event_fixed", "event_delivery_ended", "delivery_try_insert_only", "notify_message_fixed",
    ),
    "DELETE FROM {}": ("event_fixed", "event_delivery_kept", "delivery_try_insert_only", "notify_message_fixed"),
    "TRUNCATE {} CASCADE": tuple(f"{table}_insert_only" for table in TABLES),
}  # fmt: skip


async def test_laws_hold_in_each_partition_and_by_whichever_name(of_months: asyncpg.Connection) -> None:
    sql = of_months
    for moment in (month(3), month(1), NOW, datetime(2999, 1, 1, tzinfo=UTC)):
        await happens(sql, moment)
    await arrives(sql)
    for suffix in ("", "_first", f"_{month(1):%Y_%m}", f"_{NOW:%Y_%m}", "_default"):
        for attack, laws in LAWS.items():
            for table, law in zip(TABLES, laws, strict=True):
                found = await law_of(sql, attack.format(table + suffix))
                # A cascade ends at whichever of them refuses first.
                assert found == law or (attack.startswith("TRUNCATE") and found in laws), (attack, table + suffix)


async def test_try_of_a_worker_of_the_version_before_gets_its_event(of_months: asyncpg.Connection) -> None:
    sql = of_months
    event = await happens(sql, month(3))
    before = delivery.RESULT.replace("(event_id, delivery_id", "(delivery_id").replace(
        "SELECT $10::uuid, id", "SELECT id"
    )
    [turn] = await sql.fetch(delivery.CLAIM, 40, 40, 40, 60.0, 0.0)
    await sql.fetchrow(before, turn["id"], turn["lease_end"], True, 200, None, "", 3, None, True, event)
    assert await sql.fetchval("SELECT event_id FROM delivery_try") == event
    assert await sql.fetchval("SELECT state FROM event_delivery") == "delivered"


async def test_events_of_months_that_nobody_made_are_written_and_their_tables_become_the_partitions(
    database: Database, sql: asyncpg.Connection
) -> None:
    await made_until(sql, 2, "event")
    assert await make_months(database) == 2 + AHEAD + 1
    await made_until(sql, 2, "event")
    await happens(sql, month(1))
    await happens(sql)
    far = await happens(sql, datetime(2999, 1, 1, tzinfo=UTC))  # the clock of some process was wrong
    found = await months(database)
    assert (found.ahead, found.astray, found.are_enough) == (-3, ["event_default"], False)
    with pytest.raises(Exception, match="other times") as caught:
        await make_months(database)
    assert constraint_of(caught.value) == "event_default_of_one_time"
    keys = zip(TABLES, ("id", *["event_id"] * 3), strict=True)
    async with without_laws(sql):
        await sql.execute(";".join(f"DELETE FROM {table} WHERE {key} = '{far}'" for table, key in keys))
    assert await make_months(database) == 1 + AHEAD
    assert (await rows(sql, f"{month(2):%Y_%m}"))[:2] == [2, 2]
    assert (await months(database)).are_enough
    await arrives(sql)
    await happens(sql, datetime(2999, 1, 1, tzinfo=UTC))
    await sql.execute("SELECT give_default_its_time('event', '2999-01-01 00:00+00', '2999-02-01 00:00+00')")
    assert (await months(database)).are_enough
    assert (await rows(sql, "2999_01"))[:2] == [1, 1]
    of_months = [called(ago, "delivery_try") for ago in (2, -1, -2, -3)]
    others = ["delivery_try_2999_01", "delivery_try_default", "delivery_try_first"]
    assert await partitions(sql, "delivery_try") == sorted([*of_months, *others])


# --- leaving


async def test_month_leaves_whole_and_not_before_its_end(database: Database, sql: asyncpg.Connection) -> None:
    await with_months_since(sql, 3, "event")

    async def refused(partition: str) -> str:
        with pytest.raises(NotRetired) as caught:
            await retiring.retire(database, partition)
        return str(caught.value)

    await happens(sql, month(4))
    kept = await happens(sql, month(3))
    assert "oldest" in await refused(called(3, "event"))
    assert "still waits" in await refused("event_first")
    await arrives(sql)
    assert await retiring.retirable(database, before=month(2)) == ["event_first", called(3, "event")]
    await retiring.retire(database, "event_first")
    assert [await sql.fetchval(f"SELECT count(*) FROM {table}") for table in TABLES] == [1, 1, 1, 1]
    assert await rows(sql, "first") == [1, 1, 1, 1]
    for table in TABLES:
        for attack in (f"DELETE FROM {table}_first", f"INSERT INTO {table}_first SELECT * FROM {table}_first"):
            assert await law_of(sql, attack) == f"{table}_insert_only"
    assert await sql.fetchval("SELECT id FROM event") == kept
    reason = "SELECT reason FROM payment_log WHERE operation_type = 'event-retire'"
    assert await sql.fetchval(reason) == "event_first has left, with what was delivered and told of it"
    gone = ", ".join(f"{table}_first" for table in TABLES)
    await sql.execute(f"DROP TABLE {gone}")
    await happens(sql, month(4))  # late, and not refused
    assert await rows(sql, "default") == [1, 1, 0, 1]
    for ago in (3, 2):
        await retiring.retire(database, called(ago, "event"))
    assert "a month after its end" in await refused(called(1, "event"))


async def test_month_leaves_with_what_waits_for_an_endpoint_that_is_off(
    database: Database, sql: asyncpg.Connection
) -> None:
    await with_months_since(sql, 2, "event")
    await happens(sql, month(3))
    await sql.execute("UPDATE notify_message SET state = 'sent', sent_at = now()")
    await sql.execute("UPDATE event SET passed_on_at = now()")
    with pytest.raises(NotRetired, match="still waits"):
        await retiring.retire(database, "event_first")
    await switch_off(sql)
    await retiring.retire(database, "event_first")
    assert await sql.fetchval("SELECT state FROM event_delivery_first") == "waiting"


# --- the migration


async def test_migration_moves_what_is_there_while_events_are_written(server: Server, worker_id: str) -> None:
    url = await server.make(f"event_months_{worker_id}", empty=True)
    await asyncio.to_thread(command.upgrade, migrating.alembic_config(url), "0020")
    sql, role = await asyncpg.connect(url), f"reader_of_events_{worker_id}"
    await with_receivers(sql)
    await sql.execute(
        f"CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE (passed_on_at) ON event TO {role}; SET lock_timeout = '2s';"
        "CREATE VIEW of_ours AS SELECT event.id, state FROM event JOIN event_delivery ON event_id = event.id"
    )
    before = [await happens(sql, NOW - timedelta(days=40 * number)) for number in range(3)]
    await sql.execute(
        "SELECT claim_deliveries(9, 9, 9, 60, 0, NULL);"
        "INSERT INTO delivery_try (delivery_id, number, succeeded, status, duration_ms)"
        " SELECT id, 1, false, 500, 1 FROM event_delivery;"
        "UPDATE event_delivery SET tries = 1"
    )
    await sql.execute("CREATE MATERIALIZED VIEW obstacle AS SELECT * FROM delivery_try")
    with pytest.raises(asyncpg.PostgresError) as caught:
        await asyncio.to_thread(migrating.migrate, url)
    assert constraint_of(caught.value) == "event_read_by"
    await sql.execute("DROP MATERIALIZED VIEW obstacle; CREATE VIEW new_event AS SELECT 1")
    with pytest.raises(asyncpg.PostgresError):
        await asyncio.to_thread(migrating.migrate, url)
    await sql.execute("DROP VIEW new_event")
    assert await sql.fetchval("SELECT count(*) FROM pg_constraint WHERE conname LIKE '%_first_bound'") == 0
    migration = asyncio.create_task(asyncio.to_thread(migrating.migrate, url))
    meanwhile = 0
    while not migration.done():
        await happens(sql)
        meanwhile += 1
        await asyncio.sleep(0.02)
    await migration
    assert await sql.fetchval("SELECT version_num FROM alembic_version") == schema.head()
    assert await rows(sql, "first") == [3 + meanwhile, 3 + meanwhile, 3, 3 + meanwhile]
    named = "SELECT event_id FROM delivery_try JOIN event_delivery USING (event_id) WHERE delivery_id = id"
    assert {row[0] for row in await sql.fetch(named)} == set(before)
    assert await sql.fetchval("SELECT count(*) FROM of_ours") == 3 + meanwhile
    assert await sql.fetchval("SELECT relkind = 'p' FROM pg_class WHERE relname = 'event'")
    may = "SELECT has_column_privilege($1, $2, $3, 'UPDATE')"
    assert await sql.fetchval(may, role, "event", "passed_on_at")
    assert not await sql.fetchval(may, role, "event", "data")
    assert not await sql.fetchval(may, role, "event_first", "passed_on_at")
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await sql.close()
