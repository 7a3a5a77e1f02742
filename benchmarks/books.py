"""Whether the books agree: what the clients were answered, what the upstream was asked, the payments, the audit log."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import asyncpg
from load import WrongAnswer

MESSAGE = "bench "
"""How the message of a payment begins that a client here asked for; rows that SQL made have another."""


@dataclass
class Answers:
    """What the clients were answered, a line for each create that was taken on."""

    lines: dict[str, tuple[str, int, str, str]] = field(default_factory=dict)
    """By the provider's id: our id, amount in tiyn, BIN, message."""
    ids: set[str] = field(default_factory=set)

    def note(self, answer: dict[str, Any], tiyn: int, organization_bin: str, message: str) -> None:
        """Write an answer down.

        Raises:
            WrongAnswer: when it is not what was asked for, or its ids were given before.
        """
        amount = Decimal(str(answer["amount"])) * 100
        if answer["organization_bin"] != organization_bin or amount != tiyn or answer["state"] != "pending":
            raise WrongAnswer("another seller, amount or state than was asked for")
        if answer["external_id"] in self.lines or answer["id"] in self.ids:
            raise WrongAnswer("an id that another payment has")
        self.ids.add(answer["id"])
        self.lines[answer["external_id"]] = (answer["id"], tiyn, organization_bin, message)


class BooksDisagree(SystemExit):
    """Money and record are not the same; the text shows where."""


async def compare(name: str, answers: Answers, ledger: list[dict[str, Any]], url: str) -> str:
    """Compare row by row; a sentence for the output.

    Raises:
        BooksDisagree: with the first rows that only one of two books has.
    """
    connection = await asyncpg.connect(url)
    try:
        payments = await connection.fetch(
            "SELECT id, external_id, amount, organization_bin, message, short_code, phone_last4 FROM payment "
            "WHERE message LIKE $1 AND external_id IS NOT NULL",
            f"{MESSAGE}%",
        )
        not_made = await connection.fetchval(
            "SELECT count(*) FROM payment WHERE message LIKE $1 AND external_id IS NULL", f"{MESSAGE}%"
        )
        log = await connection.fetch(
            "SELECT entry.payment_id, entry.external_id, entry.amount, entry.organization_bin FROM payment_log entry "
            "JOIN payment ON payment.id = entry.payment_id "
            "WHERE entry.operation_type = 'create' AND entry.state = 'pending' AND payment.message LIKE $1",
            f"{MESSAGE}%",
        )
    finally:
        await connection.close()

    sent = [
        (row["external_id"], row["amount"], row["organization_bin"], row["phone_last4"], _message(row))
        for row in payments
    ]
    _same(name, ("the upstream's ledger", map(_asked, ledger)), ("the payments", sent))
    rows = [(str(each["id"]), each["external_id"], each["amount"], each["organization_bin"]) for each in payments]
    _same(name, ("the payments", rows), ("the audit log", ((str(each[0]), *tuple(each)[1:]) for each in log)))
    told = [(line[0], external_id, *line[1:3]) for external_id, line in answers.lines.items()]
    _same(name, ("the answers", told), ("the payments", rows))
    return f"{name}: {len(payments)} creates, and answers, ledger, payments and audit log agree; {not_made} not made"


async def compare_bare(answers: Answers, ledger: list[dict[str, Any]], url: str) -> str:
    """As ``compare``, for the bare program, which has one table."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT * FROM bare WHERE external_id IS NOT NULL")
    finally:
        await connection.close()
    _same(
        "bare",
        ("the upstream's ledger", map(_asked, ledger)),
        (
            "the rows",
            (
                (row["external_id"], row["amount"], row["organization_bin"], row["phone_last4"], row["message"])
                for row in rows
            ),
        ),
    )
    told = [(line[0], external_id, *line[1:3]) for external_id, line in answers.lines.items()]
    _same(
        "bare",
        ("the answers", told),
        ("the rows", ((str(row["id"]), row["external_id"], row["amount"], row["organization_bin"]) for row in rows)),
    )
    return f"bare: {len(rows)} creates, and answers, ledger and rows agree"


def _message(row: asyncpg.Record) -> str:
    """As the buyer sees it."""
    return f"{row['message']} #{row['short_code']}"


def _asked(line: dict[str, Any]) -> tuple[str, int, str, str, str]:
    tiyn = int(Decimal(line["amount"]) * 100)
    bin_ = line.get("organizationBin") or line["organization_bin"]
    return line["external_id"], tiyn, bin_, line["phone"][-4:], line["message"]


def _same(name: str, one: tuple[str, Iterable[Any]], other: tuple[str, Iterable[Any]]) -> None:
    first, second = Counter(one[1]), Counter(other[1])
    if first == second:
        return
    one_sided = ((one[0], first - second), (other[0], second - first))
    lines = [f"  only in {book}: {row}" for book, rows in one_sided for row in rows]
    raise BooksDisagree(f"{name}: the books disagree in {len(lines)} rows\n" + "\n".join(lines[:10]))
