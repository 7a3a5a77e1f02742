"""Programs that cannot start say why in a sentence, and say nothing that is secret."""

import asyncio
import socket
from typing import Any

import asyncpg
import pytest
from cryptography.fernet import Fernet

from payment_service import schema
from tests.e2e.rig import Rig, free_port


def refusal(done: Any) -> str:
    """What a program said that did not start."""
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("See .env.example")]
    assert len(lines) == 1, done.stderr
    return str(lines[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DEV_NO_AUTH": "true", "PRODUCTION_API_URL": "https://proxy.example.kz/api"}, "DEV_NO_AUTH works only with"),
        ({"DEV_NO_AUTH": "true", "HOST": "0.0.0.0"}, "DEV_NO_AUTH works only when HOST"),
        ({"PRODUCTION_API_URL": "http://proxy.example.kz/api"}, "PRODUCTION_API_URL must be https://"),
        ({"SENDING_LEASE_S": "1"}, "SENDING_LEASE_S must be longer"),
        ({"KASPI_DEADLINE_S": "9"}, "KASPI_DEADLINE_S"),
        ({"PORT": "eighty"}, "PORT"),
        ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS must name the origins"),
        ({"DATABASE_URL": "mysql://nobody:hidden-word@127.0.0.1/nowhere"}, "must start with postgresql://"),
        ({"ENCRYPTION_KEYS": "not-a-fernet-key"}, "payment-service secrets new-key"),
        ({"DATABASE_URL": "postgresql://nobody:hidden-word@127.0.0.1:1/nowhere"}, "cannot be reached"),
    ],
    ids=str,
)
def test_service_refuses_settings_that_make_no_service(shell: Rig, settings: dict[str, str], words: str) -> None:
    sentence = refusal(shell.run("serve", **settings))
    assert words in sentence
    assert "hidden-word" not in sentence


def test_missing_settings_are_all_named(shell: Rig) -> None:
    done = shell.run("serve", KASPI_ACCESS_TOKEN="", PRODUCTION_API_URL="", ENCRYPTION_KEYS="")
    assert done.returncode == 1
    assert all(name in done.stderr for name in ("KASPI_ACCESS_TOKEN", "PRODUCTION_API_URL", "ENCRYPTION_KEYS"))


@pytest.mark.parametrize("words", [("serve",), ("worker",), ("shops", "import"), ("shops", "list"), ("keys", "list")])
def test_database_that_was_never_migrated_is_told_with_what_to_do(empty_shell: Rig, words: tuple[str, ...]) -> None:
    assert "payment-service migrate" in refusal(empty_shell.run(*words))


@pytest.mark.parametrize("words", [("serve",), ("worker",), ("secrets", "rotate")])
def test_keys_that_do_not_open_the_database_are_told(serving: Rig, words: tuple[str, ...]) -> None:
    sentence = refusal(serving.run(*words, ENCRYPTION_KEYS=Fernet.generate_key().decode()))
    assert "ENCRYPTION_KEYS" in sentence


def test_taken_port_is_told(shell: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in refusal(shell.run("serve", "--port", port))
        assert port in shell.run("sandbox", "--port", port).stderr.splitlines()[-1]


def test_stand_in_without_access_token_is_refused(shell: Rig) -> None:
    done = shell.run("sandbox", "--port", str(free_port()), KASPI_ACCESS_TOKEN="")
    assert "access token" in refusal(done)


async def test_migrations_may_run_at_once_and_again(empty_shell: Rig) -> None:
    runs = [asyncio.to_thread(empty_shell.run, "migrate") for _ in range(2)]
    for done in [*await asyncio.gather(*runs), empty_shell.run("migrate")]:
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"The database is at schema {schema.head()}.\n"
    connection = await asyncpg.connect(empty_shell.database_url)
    assert await connection.fetchval("SELECT count(*) FROM paymentconfig") == 0
    await connection.close()
