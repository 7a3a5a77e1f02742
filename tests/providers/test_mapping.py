"""The tables of docs/kaspi-api.md sections 3 and 4, against what the mapping makes of them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from payment_service.providers.interface import Meaning, NoSuchPayment, Rejected, StatusRead, StatusUnread, Unknown
from payment_service.providers.kaspi.mapping import MEANINGS, NO_MONEY_MOVED, NO_SUCH_PAYMENT, meaning_of
from payment_service.providers.kaspi.wire import Reply, read_status
from tests.support.verbs import ID, VERBS, Verb

DOCUMENT: Final = (Path(__file__).parents[2] / "docs" / "kaspi-api.md").read_text("utf-8")


def rows_of_section(number: int) -> list[list[str]]:
    """The cells of every table of a section, without the heads."""
    [section] = re.findall(rf"^## {number}\. .*?(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"^\|[- |]+\|\n((?:\|.*\n)+)", section, re.MULTILINE)
    return [line.strip("| ").split(" | ") for table in tables for line in table.splitlines()]


# --- section 3

MEANT: Final = {
    "QR or link made, not opened": Meaning.WAITING,
    "invoice delivered to the phone, or link opened": Meaning.WAITING,
    "waiting for the customer to confirm": Meaning.WAITING,
    "pending": Meaning.WAITING,
    "paid": Meaning.PAID,
    "failed, refused or expired": Meaning.FAILED,
    "failed": Meaning.FAILED,
    "cancelled by the merchant": Meaning.CANCELLED,
    "cancelled": Meaning.CANCELLED,
}
KASPIS: Final = {row[0].strip("`"): MEANT[row[1]] for row in rows_of_section(3) if len(row) == 3}
OTHERS: Final = {
    word: MEANT[row[0]] for row in rows_of_section(3) if len(row) == 2 for word in row[1].strip("`").split("`, `")
}
ALL_STATUSES: Final = {**KASPIS, **OTHERS}


def test_every_status_of_the_document_is_mapped_and_no_other() -> None:
    assert (len(KASPIS), len(OTHERS)) == (6, 15)
    assert dict(MEANINGS) == ALL_STATUSES


@pytest.mark.parametrize("status", ALL_STATUSES)
def test_status_means_what_the_document_says(status: str) -> None:
    body = f'{{"status": true, "data": {{"externalId": {ID}, "status": "{status}"}}}}'
    assert read_status(Reply(200, body.encode()), external_id=ID) == StatusRead(status, ALL_STATUSES[status])


@pytest.mark.parametrize("status", ["", "error", "ERROR", "Error ", "RemotePaymentCancelled", "Failed", "Refunded"])
def test_status_nobody_knows_is_never_read_as_an_end(status: str) -> None:
    assert meaning_of(status) is Meaning.UNHEARD_OF


# --- section 4

ROWS: Final = [(re.findall(r"-?\d+", codes), words, moved) for codes, words, moved, _ in rows_of_section(4)]
BOTH_SIGNS: Final = [code for codes, _, _ in ROWS[-4:] for code in codes]
CERTAIN: Final = {code for codes, _, moved in ROWS if moved == "no" for code in codes} | {f"-{c}" for c in BOTH_SIGNS}
UNCERTAIN: Final = {code for codes, _, moved in ROWS if moved.startswith("unknown") for code in codes}


def said(code: str) -> Reply:
    return Reply(200, b'{"status": false, "data": {"errors": {"%s": "Kaspi says no"}}}' % code.encode())


def test_every_code_of_the_document_is_classified_and_no_other() -> None:
    assert (len(ROWS), BOTH_SIGNS) == (16, ["990000018", "990000026", "990000028", "990000033"])
    assert CERTAIN == NO_MONEY_MOVED
    assert {"-999", "-99000006"} == UNCERTAIN
    assert {code for codes, words, _ in ROWS if words == "purchase not found" for code in codes} == NO_SUCH_PAYMENT


@pytest.mark.parametrize("verb", VERBS, ids=str)
@pytest.mark.parametrize("code", sorted(CERTAIN))
def test_code_that_moved_no_money_is_a_rejection(code: str, verb: Verb) -> None:
    found = verb.read(said(code))
    assert isinstance(found, Rejected)
    assert replace(found, contradicts_record=False) == Rejected(code, "Kaspi says no")


@pytest.mark.parametrize("verb", VERBS, ids=str)
@pytest.mark.parametrize("code", sorted(CERTAIN))
def test_refusal_of_a_refund_may_contradict_what_is_recorded(code: str, verb: Verb) -> None:
    """No such payment, of another account, less left, not paid."""
    found = verb.read(said(code))
    assert isinstance(found, Rejected)
    contradicts = code in {"-1601", "-99000001", "-99000003", "-99000005", "-99000011"}
    assert found.contradicts_record == (contradicts and str(verb) == "refund")


@pytest.mark.parametrize("verb", VERBS, ids=str)
@pytest.mark.parametrize("code", sorted(UNCERTAIN))
def test_code_that_may_have_moved_money_is_unknown(code: str, verb: Verb) -> None:
    assert verb.read(said(code)) == Unknown("provider_error", code)


@pytest.mark.parametrize("verb", VERBS, ids=str)
@pytest.mark.parametrize("code", sorted({code.removeprefix("-") for code in CERTAIN} - set(BOTH_SIGNS)))
def test_sign_matters_where_the_document_does_not_give_both(code: str, verb: Verb) -> None:
    assert verb.read(said(code)) == Unknown("provider_error", code)


@pytest.mark.parametrize("code", sorted(CERTAIN | UNCERTAIN))
def test_code_says_of_a_reading_only_whether_the_payment_exists(code: str) -> None:
    reading = read_status(said(code), external_id=ID)
    assert isinstance(reading, NoSuchPayment if code in {"-1601", "-99000001"} else StatusUnread)
