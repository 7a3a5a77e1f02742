"""``payment-service notify`` at the command line; what arrives is in tests/notifications/test_whole.py."""

import json

import pytest

from tests.support.rig import Rig

pytestmark = pytest.mark.xdist_group("cli")


def test_chat_is_added_listed_and_removed(serving: Rig) -> None:
    words = ("--shop", "121038", "--chat", "-100123", "--channel", "telegram", "--language", "ru")
    added = serving.run("notify", "add", *words, "--events", "payment.paid, payment.unknown")
    assert added.returncode == 0
    assert added.stderr.startswith("Warning: telegram is not set up here: TELEGRAM_BOT_TOKEN is missing.")
    row = json.loads(serving.run("notify", "list", "--json").stdout)[-1]
    assert (row["chat"], row["shop_id"], row["events"]) == ("-100123", 121038, ["payment.paid", "payment.unknown"])
    removed = json.loads(serving.run("notify", "remove", row["id"], "--json").stdout)
    assert [one["is_active"] for one in removed] == [False]
    bot = {"TELEGRAM_BOT_TOKEN": "1:set-up"}
    again = serving.run("notify", "add", *words, "--events", "payment.paid", **bot)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add", "--chat", "-1", "--events", "payment.sold"), "events: are one or more of"),
        (("add", "--chat", "-1", "--events", ","), "events: are one or more of"),
        (("add", "--chat", "staff", "--events", "payment.paid"), "address: is a chat's number"),
        (("add", "--chat", "-1", "--channel", "pigeon", "--events", "payment.paid"), "channel: is one of"),
        (("add", "--chat", "-1", "--language", "de", "--events", "payment.paid"), "language: is one of"),
        (("add", "--chat", "-1", "--shop", "404", "--events", "payment.paid"), "Shop 404 has no payment routing"),
        (("remove", "0198c0de-0000-7000-8000-000000000001"), "There is no binding"),
        (("test", "0198c0de-0000-7000-8000-000000000001"), "There is no binding"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(serving: Rig, words: tuple[str, ...], sentence: str) -> None:
    done = serving.run("notify", *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr


def test_test_message_without_a_bot_says_what_is_missing(serving: Rig) -> None:
    added = serving.run("notify", "add", "--chat", "-300", "--events", "payment.paid", "--json")
    done = serving.run("notify", "test", json.loads(added.stdout)[0]["id"])
    assert (done.returncode, done.stderr) == (
        1,
        "The message was not sent: telegram is not set up: TELEGRAM_BOT_TOKEN is missing.\n",
    )
