"""Programs that cannot start say why in a sentence, and say nothing that is secret."""

import socket
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from cryptography.fernet import Fernet

from payment_service.postgres import schema
from tests.cli.test_help import COMMANDS
from tests.support.processes import free_port
from tests.support.relay import Relay
from tests.support.rig import Rig
from tests.support.waiting import until


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
        ({"PORT": "eighty"}, "PORT"),
        ({"DATABASE_URL": "mysql://nobody:hidden-word@127.0.0.1/nowhere"}, "must start with postgresql://"),
        ({"ENCRYPTION_KEYS": "not-a-fernet-key"}, "payment-service secrets new-key"),
        (
            {"DATABASE_URL": "postgresql://nobody:hidden-word@127.0.0.1:1/nowhere", "DATABASE_WAIT_S": "0"},
            "cannot be reached",
        ),
        ({"METRICS_TOKEN": '"hidden-word"'}, "METRICS_TOKEN has quotation marks"),
    ],
    ids=str,
)  # one of each kind; all of them are in tests/programs/test_settings.py
def test_service_refuses_settings_that_make_no_service(shell: Rig, settings: dict[str, str], words: str) -> None:
    sentence = refusal(shell.run("serve", **settings))
    assert words in sentence
    assert "hidden-word" not in sentence


def test_missing_settings_are_all_named(shell: Rig) -> None:
    done = shell.run("serve", KASPI_ACCESS_TOKEN="", PRODUCTION_API_URL="", ENCRYPTION_KEYS="")
    assert done.returncode == 1
    assert all(name in done.stderr for name in ("KASPI_ACCESS_TOKEN", "PRODUCTION_API_URL", "ENCRYPTION_KEYS"))


@pytest.mark.parametrize("words", [("serve",), ("worker",), ("shops", "import")])
def test_database_that_was_never_migrated_is_told_with_what_to_do(empty_shell: Rig, words: tuple[str, ...]) -> None:
    assert "payment-service migrate" in refusal(empty_shell.run(*words))


@pytest.mark.xdist_group("cli")
@pytest.mark.parametrize("words", [("serve",), ("secrets", "rotate")])
def test_keys_that_do_not_open_the_database_are_told(serving: Rig, words: tuple[str, ...]) -> None:
    sentence = refusal(serving.run(*words, ENCRYPTION_KEYS=Fernet.generate_key().decode()))
    assert "ENCRYPTION_KEYS" in sentence


ANY_ID = "00000000-0000-0000-0000-000000000000"
ARGUMENTS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("serve",): (),
    ("worker",): (),
    ("migrate",): (),
    ("reconcile",): ("--since", "2026-11-01"),
    ("shops", "list"): (),
    ("shops", "import"): (),
    ("shops", "export"): (),
    ("shops", "set-token"): ("8",),
    ("shops", "same-seller"): ("8", "920317450731", "891027350515"),
    ("payments", "tasks"): (),
    ("payments", "settle"): (ANY_ID, "--failed", "--reason", "not there"),
    ("payments", "settle-refund"): (ANY_ID, "--failed", "--reason", "not there"),
    ("payments", "undo-settle"): (ANY_ID, "--reason", "by mistake"),
    ("payments", "undo-settle-refund"): (ANY_ID, "--reason", "by mistake"),
    ("notify", "add"): ("--chat", "-100123", "--events", "payment.paid"),
    ("notify", "list"): (),
    ("notify", "remove"): (ANY_ID,),
    ("notify", "test"): (ANY_ID,),
    ("webhooks", "list"): (),
    ("webhooks", "add"): ("https://93.184.215.14/hook",),
    ("webhooks", "change"): (ANY_ID, "--description", "x"),
    ("webhooks", "remove"): (ANY_ID,),
    ("webhooks", "rotate-secret"): (ANY_ID,),
    ("webhooks", "test"): (ANY_ID,),
    ("webhooks", "deliveries"): (),
    ("webhooks", "show"): (ANY_ID,),
    ("webhooks", "replay"): ("--endpoint", ANY_ID, "--failed-since", "2026-11-21T00:00:00"),
    ("keys", "create"): ("tests", "--scope", "admin"),
    ("keys", "list"): (),
    ("keys", "revoke"): ("1",),
    ("people", "add"): ("a@example.kz", "--name", "A", "--role", "operator"),
    ("people", "list"): (),
    ("people", "change"): ("1", "--role", "admin"),
    ("people", "disable"): ("1",),
    ("people", "sign-out"): ("1",),
    ("people", "link"): ("1",),
    ("sending", "show"): (),
    ("sending", "hold"): ("--reason", "a restore"),
    ("sending", "release"): ("--reason", "looked at"),
    ("secrets", "rotate"): (),
    ("audit", "verify"): (),
    ("audit", "export"): (),
    ("audit", "retire"): ("--before", "2026-01", "--folder", "."),
    ("events", "retire"): ("--before", "2026-01"),
}
"""Every command that needs the database, with what else it needs."""
WITHOUT_DATABASE = {("doctor",), ("secrets", "new-key"), ("import-legacy",), ("openapi",)}


def test_every_command_is_tried_with_a_database_that_cannot_be_used() -> None:
    leaves = {words for words, command in COMMANDS.items() if not getattr(command, "commands", None)}
    assert leaves == ARGUMENTS.keys() | WITHOUT_DATABASE


@pytest.mark.parametrize(
    "several",
    [
        pytest.param([("serve",), ("payments", "tasks"), ("audit", "export")], id="some"),
        pytest.param(list(ARGUMENTS), id="all", marks=pytest.mark.thorough),
    ],
)
def test_every_command_says_in_a_sentence_why_it_cannot_use_the_database(
    several: list[tuple[str, ...]], shell: Rig
) -> None:
    nowhere = shell.database_url.rpartition("/")[0] + "/nowhere"
    for words in several:
        done = shell.run(*words, *ARGUMENTS[words], DATABASE_URL=nowhere, text="your-device-token-uuid\n")
        assert done.returncode == (2 if words == ("reconcile",) else 1), words
        said = done.stderr.splitlines()[-1]
        assert said.endswith("does not exist on its server: create it, or correct the name."), (words, said)


@pytest.mark.parametrize("words", [("serve",), ("migrate",), ("import-legacy",)])
def test_wrong_password_is_told_at_once(shell: Rig, words: tuple[str, ...]) -> None:
    password = urlsplit(shell.database_url).password or ""
    wrong = shell.database_url.replace(f":{password}@", ":hidden-word@")
    sentence = refusal(shell.run(*words, DATABASE_URL=wrong, LEGACY_DATABASE_URL=wrong))
    assert "refuses the user or the password" in sentence
    assert "hidden-word" not in sentence


@pytest.mark.parametrize("words", [("serve",), pytest.param(("worker",), marks=pytest.mark.thorough)])
async def test_program_waits_for_a_database_that_is_away_and_says_so(shell: Rig, words: tuple[str, ...]) -> None:
    relay = Relay(shell.database_url)
    await relay.start()
    relay.refuse(refused=True)
    port = free_port()
    program = shell.start(
        "payment_service", *words, name=words[0], port=port, PORT=str(port), HOST="127.0.0.1", DATABASE_URL=relay.url
    )

    async def writes(text: str) -> None:
        async def wrote() -> bool:
            assert program.alive, program.written
            return text in program.written

        await until(wrote, text, within_s=30)

    try:
        await writes("waiting for the database")
        relay.refuse(refused=False)
        if words == ("serve",):
            await program.ready()
        else:
            await writes("worker started")
        assert await program.stop() == 0
    finally:
        await program.stop()
        await relay.stop()


def test_taken_port_is_told(shell: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in refusal(shell.run("serve", "--port", port))


async def test_migrations_may_run_again_and_leave_the_need_of_two_administrators(empty_shell: Rig) -> None:
    needed = "A change of where the money of a shop goes needs two administrators from now on.\n"
    for setting, told in ({"ROUTE_CHANGE_NEEDS_TWO": "true"}, needed), ({}, ""):
        done = empty_shell.run("migrate", **setting)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{told}The database is at schema {schema.head()}.\n"
    connection = await asyncpg.connect(empty_shell.database_url)
    assert await connection.fetchval("SELECT count(*) FROM paymentconfig") == 0
    assert await connection.fetchval("SELECT needs_two FROM route_rule")
    await connection.close()
