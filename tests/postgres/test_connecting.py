"""Why a database cannot be used is one sentence, the same wherever it is met; no traceback, no password."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from payment_service.postgres.connecting import UnsuitableDatabaseError, trouble_of
from payment_service.postgres.database import DATABASE_ERRORS, Database, is_unreachable
from payment_service.postgres.migrating import migrate
from tests.support.database import Server

SECRET = "hidden-word"


async def trouble_with(url: str, statement: str = "SELECT 1") -> tuple[str, bool]:
    """What is told of a database through the pool, and beside it; the same either way."""
    database = Database(url)
    try:
        with pytest.raises(Exception) as pooled:  # noqa: PT011 - whatever it is
            async with database.transaction() as session:
                await session.execute(text(statement))
        trouble = trouble_of(pooled.value)
        assert trouble, repr(pooled.value)
        if statement == "SELECT 1":
            with pytest.raises(Exception) as raw:  # noqa: PT011 - as above
                await database.raw_connection()
            assert trouble_of(raw.value) == trouble
    finally:
        await database.close()
    assert SECRET not in trouble.sentence
    assert trouble.sentence.endswith(".")
    return trouble.sentence, trouble.may_pass


@pytest.fixture
async def role(server: Server, worker_id: str) -> AsyncIterator[str]:
    """A role of the server that may connect and nothing else; returns its name, which is its password too."""
    name = f"lesser_{worker_id}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    yield name
    await connection.execute(f"DROP ROLE {name}")
    await connection.close()


async def test_wrong_password_is_told(server: Server) -> None:
    host = server.url.partition("@")[2]
    sentence, may_pass = await trouble_with(f"postgresql://postgres:{SECRET}@{host}")
    assert "refuses the user or the password" in sentence
    assert not may_pass


async def test_missing_database_is_told(server: Server) -> None:
    assert await trouble_with(server.of("nowhere")) == (
        "The database that DATABASE_URL names does not exist on its server: create it, or correct the name.",
        False,
    )


async def test_missing_right_is_told_with_what_it_is_about(server: Server, database_url: str, role: str) -> None:
    url = database_url.replace(database_url.partition("//")[2].partition("@")[0], f"{role}:{role}")
    sentence, may_pass = await trouble_with(url, "SELECT * FROM payment")
    assert "lacks a right" in sentence
    assert "permission denied for table payment" in sentence
    assert not may_pass


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_database_that_is_not_utf8_is_refused_everywhere(server: Server, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"DROP DATABASE IF EXISTS {name}")
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    try:
        sentence, may_pass = await trouble_with(server.of(name))
        assert f"keeps its texts in {encoding}" in sentence
        assert not may_pass
        with pytest.raises(UnsuitableDatabaseError):
            await asyncio.to_thread(migrate, server.of(name))
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


async def test_server_without_tls_is_told_when_tls_is_asked_for(server: Server) -> None:
    sentence, may_pass = await trouble_with(f"{server.url}?sslmode=require")
    assert "offers no TLS" in sentence
    assert not may_pass


async def test_certificates_of_nobody_are_told(server: Server, tmp_path: object) -> None:
    sentence, _ = await trouble_with(f"{server.url}?sslmode=verify-full&sslrootcert=/dev/null")
    assert "TLS" in sentence


async def test_nobody_listening_may_pass() -> None:
    sentence, may_pass = await trouble_with(f"postgresql://nobody:{SECRET}@127.0.0.1:1/nowhere")
    assert "cannot be reached" in sentence
    assert may_pass


async def test_options_and_application_name_reach_the_server(server: Server) -> None:
    database = Database(f"{server.url}?application_name=bakery&options={quote('-c search_path=pay')}")
    async with database.reading() as session:
        settings = await session.execute(
            text("SELECT current_setting('application_name'), current_setting('search_path'), current_setting('jit')")
        )
        assert tuple(settings.one()) == ("bakery", "pay", "off")
    await database.close()


# --- poolers, by what they say on the wire


@asynccontextmanager
async def pooler(code: str, message: str) -> AsyncIterator[str]:
    """Something that refuses every connection in PostgreSQL's protocol; yields its address."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (await reader.readexactly(8))[4:] == b"\x04\xd2\x16/":  # asks for TLS
                writer.write(b"N")
            fields = f"SFATAL\0VFATAL\0C{code}\0M{message}\0\0".encode()
            writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with listening:
        yield f"postgresql://service:{SECRET}@127.0.0.1:{listening.sockets[0].getsockname()[1]}/payments"


@pytest.mark.parametrize(
    ("code", "message", "words", "may_pass"),
    [
        ("08P01", "unsupported startup parameter: options", "that refuses a parameter of the address", False),
        ("28000", 'no pg_hba.conf entry for host "10.0.0.1"', "does not let the user of DATABASE_URL in", False),
        ("28P01", "password authentication failed", "refuses the user or the password", False),
        ("53300", "sorry, too many clients already", "has no connection left (sorry, too many clients already)", True),
        ("57P03", "the database system is starting up", "the database system is starting up", True),
        ("08006", "server login has been failing", "server login has been failing", True),
        ("42501", "permission denied for database", "lacks a right in the database", False),
    ],
)
async def test_refusal_at_the_door_is_told(code: str, message: str, words: str, may_pass: bool) -> None:
    async with pooler(code, message) as url:
        sentence, passing = await trouble_with(url)
    assert words in sentence
    assert passing is may_pass


@pytest.mark.parametrize("code", ["26000", "42P05"])
def test_prepared_statements_behind_a_pooler_are_told(code: str) -> None:
    said = asyncpg.PostgresError.new({"C": code, "M": 'prepared statement "__asyncpg_stmt_1__" does not exist'})
    trouble = trouble_of(DBAPIError("SELECT", None, _wrapped(said)))
    assert trouble
    assert "shares sessions between transactions" in trouble.sentence


@asynccontextmanager
async def short_lived() -> AsyncIterator[str]:
    """A server that lets everybody in and is gone a moment later; yields its address."""

    async def let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (await reader.readexactly(8))[4:] == b"\x04\xd2\x16/":  # asks for TLS
                writer.write(b"N")
            version = b"server_version\x0018.0\0"
            writer.write(b"R\0\0\0\x08\0\0\0\0" + b"S" + (len(version) + 4).to_bytes(4, "big") + version)
            ended = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"
            writer.write(b"Z\0\0\0\x05I" + b"E" + (len(ended) + 4).to_bytes(4, "big") + ended)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(let_in, "127.0.0.1", 0)
    async with listening:
        yield f"postgresql://service:{SECRET}@127.0.0.1:{listening.sockets[0].getsockname()[1]}/payments"


async def test_connection_that_is_cut_before_its_settings_are_made_is_a_database_that_is_away() -> None:
    async with short_lived() as url:
        database = Database(url)
        try:
            for ask in (database.statements.fetch("SELECT 1"), database.reading().__aenter__()):
                with pytest.raises(DATABASE_ERRORS) as cut:
                    await ask
                assert is_unreachable(cut.value), repr(cut.value)
        finally:
            await database.close()


def _wrapped(error: BaseException) -> Exception:
    """As SQLAlchemy's dialect raises it: an error of its own, with the driver's behind it."""
    made = Exception("translated")
    made.__cause__ = error
    return made


def test_error_inside_a_group_is_found() -> None:
    group = ExceptionGroup("tasks", [ValueError("not this"), ConnectionRefusedError("that")])
    trouble = trouble_of(group)
    assert trouble
    assert trouble.may_pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        asyncpg.UniqueViolationError("twice"),
        FileNotFoundError(2, "No such file", "sums.csv"),
    ],
)
def test_mistake_of_ours_is_no_trouble_of_the_database(error: Exception) -> None:
    assert trouble_of(error) is None


def test_certificate_that_cannot_be_verified_is_told() -> None:
    error = ssl.SSLCertVerificationError(1, "failed")
    error.verify_message = "self-signed certificate"
    trouble = trouble_of(error)
    assert trouble
    assert "self-signed certificate" in trouble.sentence
    assert not trouble.may_pass
