"""Signals: they leave after the commit, together, and whoever sends one never waits or fails."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from payment_service.postgres import signals
from payment_service.postgres.database import Database
from payment_service.postgres.signals import after_commit
from payment_service.services import Services
from tests.support.database import Server
from tests.support.waiting import until

CHANNEL = "tests"
OTHERS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'SELECT pg_notify%'
"""


@pytest.fixture
async def heard(services: Services) -> AsyncIterator[list[str]]:
    """What is said on the channel, in order."""
    connection = await services.database.raw_connection()
    messages: list[str] = []
    await connection.add_listener(CHANNEL, lambda *told: messages.append(told[-1]))
    yield messages
    await connection.close()


async def all_heard(heard: list[str], messages: list[str]) -> None:
    async def there() -> bool:
        return len(heard) >= len(messages)

    await until(there)
    assert heard == messages


async def test_what_gathers_leaves_together_each_once_and_in_order(database: Database, heard: list[str]) -> None:
    for word in ("first", "second", "first", "third"):
        database.signals.send(CHANNEL, word)
    await all_heard(heard, ["first", "second", "third"])


async def test_signal_of_a_transaction_leaves_when_it_is_committed(database: Database, heard: list[str]) -> None:
    async with database.transaction() as session:
        after_commit(session, CHANNEL, "committed")
        database.signals.send(CHANNEL, "before")
        await all_heard(heard, ["before"])
    await all_heard(heard, ["before", "committed"])


async def test_signal_of_a_transaction_that_was_rolled_back_is_never_sent(database: Database, heard: list[str]) -> None:
    async def fail() -> None:
        async with database.transaction() as session:
            after_commit(session, CHANNEL, "rolled back")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    database.signals.send(CHANNEL, "later")
    await all_heard(heard, ["later"])


async def test_signal_is_sent_again_when_its_connection_was_lost_while_it_rested(
    database: Database, sql: asyncpg.Connection, heard: list[str]
) -> None:
    database.signals.send(CHANNEL, "first")
    await all_heard(heard, ["first"])
    assert await sql.fetchval(OTHERS) >= 1
    database.signals.send(CHANNEL, "second")
    await all_heard(heard, ["first", "second"])


async def test_sender_does_not_mind_a_database_that_is_away(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "TIMEOUT_S", 0.05)
    away = Database(server.of("nobody_made_this"))
    away.signals.send(CHANNEL)
    await away.close()
    away.signals.send(CHANNEL)  # and can be used again
    await away.close()


async def test_no_table_on_the_path_of_a_payment_notifies_inside_the_commit(sql: asyncpg.Connection) -> None:
    query = """
        SELECT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
        WHERE NOT tgisinternal AND prosrc LIKE '%pg_notify%' AND prosrc LIKE '%break_law%'
    """
    assert {row[0] for row in await sql.fetch(query)} == {"payment_config", "api_key"}
