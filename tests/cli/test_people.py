"""``payment-service people``: accounts of the console, made and ended at the command line."""

import json
from typing import Any

import pytest

from tests.support.mailbox import Mailbox, read
from tests.support.rig import Rig


def person(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    [line] = json.loads(done.stdout)
    assert isinstance(line, dict)
    return line


def test_account_is_made_changed_and_ended(shell: Rig) -> None:
    words = (
        "--name",
        "Айгуль",
        "--role",
        "florist",
        "--shop",
        "121038",
        "--shop",
        "75509",
        "--refund-limit",
        "50000",
        "--json",
    )
    assert shell.run("shops", "import").returncode == 0
    made = person(shell.run("people", "add", "Aigul@Example.kz", *words, CONSOLE_URL="https://pay.example.kz"))
    assert (made["email"], made["shops"], made["has_password"]) == ("aigul@example.kz", [75509, 121038], False)
    assert made["refund_limit"] == 50000
    assert made["link"].startswith("https://pay.example.kz/console/link/")
    number = str(made["id"])

    changed = person(shell.run("people", "change", number, "--role", "operator", "--all-shops", "--json"))
    assert (changed["role"], changed["shops"]) == ("operator", "all")
    limited = person(shell.run("people", "change", number, "--refund-limit", "99.50", "--json"))
    assert (limited["refund_limit"], limited["role"]) == (99.5, "operator")
    again = shell.run("people", "link", number)
    assert again.stdout.startswith("/console/link/")
    assert again.stdout.strip() not in made["link"]
    assert person(shell.run("people", "sign-out", number, "--json"))["id"] == made["id"]
    assert person(shell.run("people", "disable", number, "--json"))["disabled_at"] is not None
    assert "that may sign in" in shell.run("people", "link", number).stderr
    assert [line["email"] for line in json.loads(shell.run("people", "list", "--json").stdout)] == ["aigul@example.kz"]


def test_link_is_sent_or_said_to_be_not_sent_and_printed(shell: Rig, mailbox: Mailbox) -> None:
    words = ("people", "add", "dana@example.kz", "--name", "Дана", "--role", "operator", "--send", "--json")
    nowhere = shell.run(*words)
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert "set SMTP_URL, SMTP_FROM and CONSOLE_URL" in nowhere.stderr
    mail = {"SMTP_URL": f"smtp://127.0.0.1:{mailbox.port}", "SMTP_FROM": "pay@example.kz"}
    mail["CONSOLE_URL"] = "https://pay.example.kz"
    added = shell.run(*words, **mail)
    made = person(added)
    assert (made["link"], made["is_sent"], added.stderr) == (None, True, "Sent to dana@example.kz.\n")
    mailbox.answer_to_data = "554 5.7.1 refused: {end}"
    again = shell.run("people", "link", str(made["id"]), "--send", "--language", "kk", **mail)
    assert again.returncode == 1
    assert again.stdout.startswith("https://pay.example.kz/console/link/")
    assert "could not be sent, or it is not known whether it was (email: 554)" in again.stderr
    mailbox.answer_to_data = "250 OK"
    third = shell.run("people", "link", str(made["id"]), "--send", "--language", "kk", **mail)
    assert (third.returncode, third.stdout) == (0, "")
    russian, kazakh = (read(envelope) for envelope in mailbox.mails)
    assert russian["Subject"] == "Вход в консоль платежей"
    assert kazakh["Subject"] == "Төлемдер консоліне кіру"


def test_florist_without_a_shop_sees_none_and_an_operator_without_one_sees_all(shell: Rig) -> None:
    shops = {
        role: person(shell.run("people", "add", f"{role}@a.kz", "--name", "A", "--role", role, "--json"))["shops"]
        for role in ("florist", "operator", "accountant", "admin")
    }
    assert shops == {"florist": [], "operator": "all", "accountant": "all", "admin": "all"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add", "nobody", "--name", "A", "--role", "admin"), "is an address"),
        (("add", "a@b.kz", "--name", "A", "--role", "owner"), "one of florist, operator, accountant, admin"),
        (("add", "a@b.kz", "--name", "A", "--role", "florist", "--shop", "8"), "Shop 8 has no"),
        (("change", "1", "--shop", "8"), "Shop 8 has no"),
        (("change", "1"), "Say --role"),
        (("change", "99", "--role", "admin"), "no account 99"),
        (("disable", "99"), "no account 99"),
        (("link", "99"), "no account 99"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(shell: Rig, words: tuple[str, ...], sentence: str) -> None:
    done = shell.run("people", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
