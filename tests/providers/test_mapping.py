"""The tables of kaspi-api.md sections 3 and 4, copied word for word, against what the mapping makes of them."""

import re
from typing import Final

import pytest

from payment_service.providers.interface import Meaning, NoSuchPayment, Rejected, StatusRead, StatusUnread, Unknown
from payment_service.providers.kaspi.mapping import MEANINGS, NO_MONEY_MOVED, NO_SUCH_PAYMENT, meaning_of
from payment_service.providers.kaspi.wire import Reply, read_status

from .verbs import ID, VERBS, Verb

# --- section 3

STATUSES: Final = """
| `QrTokenCreated` | QR or link made, not opened | no |
| `RemotePaymentCreated` | invoice delivered to the phone, or link opened | no |
| `Wait` | waiting for the customer to confirm | no |
| `Processed` | paid | yes |
| `Error` | failed, refused or expired | yes (read it twice, 30 s apart, before believing it) |
| `RemotePaymentCanceled` | cancelled by the merchant | yes |
"""
OTHERS: Final = """
`QrTokenScanned`, `PaymentConfirmation`, `RemotePaymentProcessing`: in progress; `Expired`,
`QrTokenDiscarded`, `RemotePaymentExpired`: expired; `CancelledByUser`, `CancelledByExternalSource`: cancelled;
`RemotePaymentRejected`, `NotConfirmedByUser`, `ProcessingFailed`, `Rejected`, `InsufficientFunds`: failed;
`Paid`, `RemotePaymentPaid`: paid
"""
MEANT: Final = {
    "QR or link made, not opened": Meaning.WAITING,
    "invoice delivered to the phone, or link opened": Meaning.WAITING,
    "waiting for the customer to confirm": Meaning.WAITING,
    "in progress": Meaning.WAITING,
    "paid": Meaning.PAID,
    "failed, refused or expired": Meaning.FAILED,
    "failed": Meaning.FAILED,
    "expired": Meaning.FAILED,
    "cancelled by the merchant": Meaning.CANCELLED,
    "cancelled": Meaning.CANCELLED,
}
ALL_STATUSES: Final = {
    **{status: MEANT[words] for status, words in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", STATUSES, re.MULTILINE)},
    **{
        status: MEANT[words]
        for statuses, words in re.findall(r"((?:`\w+`[,\s]*)+): ([a-z ]+)", OTHERS)
        for status in re.findall(r"\w+", statuses)
    },
}


def test_every_status_of_the_document_is_mapped_and_no_other() -> None:
    assert len(ALL_STATUSES) == 6 + 15
    assert dict(MEANINGS) == ALL_STATUSES


@pytest.mark.parametrize("status", ALL_STATUSES)
def test_status_means_what_the_document_says(status: str) -> None:
    body = f'{{"status": true, "data": {{"externalId": {ID}, "status": "{status}"}}}}'
    assert read_status(Reply(200, body.encode()), external_id=ID) == StatusRead(status, ALL_STATUSES[status])


@pytest.mark.parametrize("status", ["", "error", "ERROR", "Error ", "RemotePaymentCancelled", "Failed", "Refunded"])
def test_status_nobody_knows_is_never_read_as_an_end(status: str) -> None:
    assert meaning_of(status) is Meaning.UNHEARD_OF


# --- section 4

CODES: Final = """
| -999 | service unavailable / technical | unknown for create and refund | reads only |
| -10000 | no or wrong client certificate | no | no, alert |
| -1501 / -1502 | device not found / inactive | no | no: configuration |
| -1503 | device already bound to another trade point | no | no |
| -1601, -99000001 | purchase not found | no | no |
| -14000002 | no trade points: create one in the Kaspi Pay app | no | no |
| -99000002 | trade point not found | no | no |
| -99000003 | this purchase belongs to another trade point: wrong BIN or token | no | no |
| -99000005 | refund exceeds what is left | no | no |
| -99000006 | refund error, try again or call the bank | unknown | no |
| -99000011 | cannot refund in this status (not `Processed`) | no | no |
| -99000020 | partial refund impossible: offer a full one | no | no |
| 990000018 | trade point disabled | no | no |
| 990000026 | trade point does not accept QR | no | no |
| 990000028 | wrong amount | no | no |
| 990000033 | no payment methods available | no | no |
"""
ROWS: Final = [
    (re.findall(r"-?\d+", codes), words, moved)
    for codes, words, moved in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", CODES, re.MULTILINE)
]
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
    assert verb.read(said(code)) == Rejected(code, "Kaspi says no")


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
