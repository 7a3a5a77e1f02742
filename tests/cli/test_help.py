"""Help that a stranger understands, for every command of the tree."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from payment_service.cli import app, main
from payment_service.cli.errors import sentence_of
from tests.support.command_line import Words, tree
from tests.support.processes import clean_environment

COMMANDS = dict(tree())
PROMISED = [
    "serve", "worker", "migrate", "shops", "payments", "keys", "secrets", "audit",
    "reconcile", "import-legacy",
]  # fmt: skip
every_command = pytest.mark.parametrize("words", COMMANDS, ids=" ".join)


def test_promised_commands_are_there() -> None:
    assert {(name,) for name in PROMISED} <= COMMANDS.keys()
    assert {("shops", name) for name in ("import", "export", "list", "set-token")} <= COMMANDS.keys()
    assert {("keys", name) for name in ("create", "list", "revoke")} <= COMMANDS.keys()


@every_command
def test_help_is_shown_and_ends_well(words: Words) -> None:
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0
    assert "Usage:" in done.output


@every_command
def test_command_is_explained_in_a_sentence(words: Words) -> None:
    first = (COMMANDS[words].help or "").strip().split("\n\n")[0]
    assert first.endswith((".", ":")) or ". " in first, first
    assert len(first) > 20


def test_list_of_commands_says_what_each_says_first() -> None:
    lines = {words: command.help for words, command in typer.main.get_command(app).commands.items()}  # type: ignore[attr-defined]
    first = {name: COMMANDS[name,].help.split("\n\n")[0].replace("\n", " ") for name in lines}
    assert lines == first


@every_command
def test_every_option_and_argument_is_explained(words: Words) -> None:
    unexplained = [each.name for each in COMMANDS[words].params if not getattr(each, "help", None)]
    assert unexplained == []


@pytest.mark.parametrize("how", ["program", "module"])
def test_program_needs_no_settings_to_explain_itself(tmp_path: Path, how: str) -> None:
    program = {"program": [str(Path(sys.executable).parent / "payment-service")]}
    command = program.get(how, [sys.executable, "-m", "payment_service"])
    environment = clean_environment(tmp_path)
    done = subprocess.run(
        [*command, "--help"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in PROMISED)


NEEDLESS = """
import sys
from payment_service.cli.commands import Deferred, app

heavy = {"alembic", "asyncpg", "cryptography", "fastapi", "httpx", "pydantic", "segno", "sqlalchemy", "uvicorn"}
heavy |= {"argon2", "babel", "jinja2"}  # for the console, when somebody opens it
heavy |= {"authlib", "joserfc"}  # when somebody signs in through a provider
for name, needed in [
    ("list of commands", set()),
    ("keys", {"asyncpg", "cryptography", "pydantic", "sqlalchemy"}),
    ("audit", set()),
    ("worker", {"httpx"}),
    ("serve", {"fastapi", "segno", "uvicorn"}),
]:
    if name in {"keys", "audit", "worker", "serve"}:
        Deferred(name).load()
    heavy -= needed
    assert not heavy & sys.modules.keys(), (name, heavy & sys.modules.keys())
"""
"""Each line adds to what the lines before it imported."""


@pytest.mark.thorough
def test_command_imports_only_what_it_needs() -> None:
    subprocess.run([sys.executable, "-c", NEEDLESS], check=True, timeout=60)


def test_output_that_is_closed_or_full_is_no_fault_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "argv", ["payment-service", "secrets", "new-key"])
    with pytest.raises(SystemExit) as ended:
        main()
    sys.stdout.close()
    assert not ended.value.code
    said = sentence_of(OSError(errno.ENOSPC, "No space left on device"))
    assert said is not None
    assert said.startswith("What this command prints cannot be written (No space left on device).")
