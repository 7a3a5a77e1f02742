"""Properties of reading: whatever comes back gives an outcome, and only a real success is one."""

import json
import time
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from payment_service.providers.interface import (
    Accepted,
    NoSuchPayment,
    PaymentReceipt,
    RefundReceipt,
    RefusedBy,
    Rejected,
    StatusRead,
    StatusUnread,
    Unknown,
)
from payment_service.providers.kaspi.mapping import NO_MONEY_MOVED, REFUSED_BY_PROXY
from payment_service.providers.kaspi.wire import Reply, read_status
from tests.support.verbs import CREATE, ID, LINK, REFUND, VERBS, AnyOutcome, Verb

REAL: Final = [
    *(verb.success() for verb in VERBS),
    b'{"success": true, "data": {"externalId": "12800627774", "status": "Processed"}, "http_code": 200}',
    b'{"status": false, "data": {"errors": {"-1502": "Device is inactive"}}, "http_code": 200}',
    b'{"status": false, "error": "text", "data": []}',
    b"",
]
WORDS: Final = ["status", "success", "data", "errors", "error", "externalId", "paymentId", "paymentLink", "expireDate"]
MORE_WORDS: Final = [*WORDS, "returnOperationId", "refundedAmount", "-1502", "-999"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([ID, int(ID), "Wait", "https://pay.kaspi.kz/x", "9999-12-31T23:59:59-12:00", "100.50"])
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MORE_WORDS) | st.text(), inner, max_size=5)
    ),
    max_leaves=15,
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "status": st.booleans() | anything,
        "success": st.booleans() | anything,
        "data": st.dictionaries(st.sampled_from(MORE_WORDS), anything, max_size=6) | anything,
        "error": anything,
        "http_code": anything,
    },
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real reply that lost, gained or changed some bytes on its way."""
    body = bytearray(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        length = draw(st.integers(0, 8))
        body[at : at + length] = draw(st.binary(max_size=4) | st.sampled_from(REAL))
    return bytes(body)


bodies = st.one_of(
    st.binary(),
    mutated(),
    (envelopes | anything).map(lambda value: json.dumps(value, ensure_ascii=True).encode()),
)
http_statuses = st.just(200) | st.integers(100, 999)


def says_success(body: bytes, wanted: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether a reply really says success: read anew, and not by the code that is tested."""
    parsed = json.loads(body)
    words = [parsed[word] for word in ("status", "success") if isinstance(parsed.get(word), bool)]
    return True in words and False not in words and wanted(parsed.get("data") or {})


def is_id(value: object) -> bool:
    return (isinstance(value, str) and value.isascii() and value.isdigit()) or (type(value) is int and value > 0)


def may_be_accepted(verb: Verb, body: bytes) -> bool:
    if verb is REFUND:
        return not body.strip() or says_success(body, lambda data: str(data["externalId"]) == ID)
    return says_success(body, lambda data: is_id(data[verb.id_key]))


@pytest.mark.parametrize("verb", VERBS, ids=str)
@settings(max_examples=40, deadline=None)
@given(http_status=http_statuses, body=bodies)
@example(200, b"[" * 100_000)
@example(200, b'{"status":true,"data":' + b'{"a":' * 50_000)
@example(200, b"1" * 60_000)
@example(200, b'{"status": true, "data": {"externalId": 1, "paymentId": 1, "expireDate": "0001-01-01T00:00:00+14:00"}}')
@example(200, b'{"status": false, "data": {"errors": {"\\ud800": "\\ud800\\u0000"}}}')
def test_any_reply_is_an_outcome(verb: Verb, http_status: int, body: bytes) -> None:
    outcome = verb.read(Reply(http_status, body))
    match outcome:
        case Accepted():
            assert http_status == 200
            assert may_be_accepted(verb, body)
        case Rejected(code, _, RefusedBy.PROXY):
            assert http_status in REFUSED_BY_PROXY
            assert code == f"http_{http_status}"
        case Rejected(code):
            assert http_status == 200
            assert code in NO_MONEY_MOVED
            assert f'"{code}"' in body.decode()
        case Unknown():
            assert http_status not in REFUSED_BY_PROXY
        case other:
            pytest.fail(f"a reply arrived, so this cannot be: {other}")
    assert_fits_a_row(outcome)


def assert_fits_a_row(outcome: AnyOutcome) -> None:
    """What goes into a row must be text that the database takes, of a length that it takes."""
    match outcome:
        case Accepted(PaymentReceipt(external_id, status, link, _)):
            texts = {external_id: 50, status: 50, link: 2100}
        case Accepted(RefundReceipt(provider_refund_id)):
            texts = {provider_refund_id: 50}
        case Rejected(code, message):
            texts = {code: 50, message: 500}
        case Unknown(reason, code, external_id):
            texts = {reason: 50, code: 50, external_id: 50}
        case other:
            pytest.fail(f"no other outcome has text: {other}")
    for text, length in texts.items():
        assert text is None or (len(text) <= length and text.encode() and "\0" not in text) or text == ""


@settings(max_examples=40, deadline=None)
@given(http_status=http_statuses, body=bodies)
def test_any_reply_to_a_status_request_is_a_reading(http_status: int, body: bytes) -> None:
    reading = read_status(Reply(http_status, body), external_id=ID)
    match reading:
        case StatusRead(status):
            assert http_status == 200
            assert says_success(body, lambda data: str(data["externalId"]) == ID and data["status"] == status)
            assert len(status) <= 50
        case NoSuchPayment(code):
            assert code in {"-1601", "-99000001"}
        case StatusUnread(reason, refused_by_proxy):
            assert refused_by_proxy == (http_status in REFUSED_BY_PROXY)
            assert len(reason) <= 50
            assert reason.isascii()


@pytest.mark.parametrize("verb", VERBS, ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_part_of_a_reply_is_never_an_end(verb: Verb, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([body for body in REAL if body]))
    part = whole[: data.draw(st.integers(1, len(whole) - 1))]
    assert isinstance(verb.read(Reply(200, part)), Unknown)
    assert isinstance(read_status(Reply(200, part), external_id=ID), StatusUnread)


@settings(max_examples=40, deadline=None)
@given(external_id=st.integers(1, 10**20 - 1), as_text=st.booleans())
def test_any_id_of_the_provider_comes_through_whole(external_id: int, as_text: bool) -> None:
    sent = str(external_id) if as_text else external_id
    for verb in (CREATE, LINK):
        outcome = verb.read(Reply(200, verb.success(id=sent)))
        assert isinstance(outcome, Accepted)
        assert isinstance(outcome.receipt, PaymentReceipt)
        assert outcome.receipt.external_id == str(external_id)


@settings(max_examples=40, deadline=None)
@given(amount=st.decimals(0, 99_999_999, places=2), exact=st.booleans())
def test_refund_of_another_amount_is_not_this_refund(amount: Any, exact: bool) -> None:
    said = f"{amount:.2f}" if exact else float(amount)
    outcome = REFUND.read(Reply(200, REFUND.success(refundedAmount=said)))
    assert isinstance(outcome, Accepted) == (f"{amount:.2f}" == REFUND.query["amount"])


ABSURD = ["1e999999999999", "-1E+999999999999", "1e-999999999999", "9" * 60_000, "-0." + "9" * 60_000, "1" + "0" * 4000]


@pytest.mark.parametrize("number", ABSURD, ids=lambda number: number[:20])
@pytest.mark.parametrize(
    "name", ["id", "status", "refundedAmount", "returnOperationId", "expireDate", "http_code", "x"]
)
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_absurd_number_of_the_provider_is_never_computed_with(verb: Verb, name: str, number: str) -> None:
    changes = {name: 4711} if name != "http_code" else {}
    body = verb.success(**changes).replace(b"4711", number.encode())
    if name == "http_code":
        body = body[:-1] + f', "http_code": {number}}}'.encode()
    started = time.process_time()
    outcome = verb.read(Reply(200, body))
    assert time.process_time() - started < 1
    if name == "id":
        assert isinstance(outcome, Unknown)
    assert isinstance(outcome, Accepted | Unknown)


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"a":' * 10_000, b'{"status": true, "data": ' + b"[" * 60_000])
@pytest.mark.parametrize("verb", VERBS, ids=str)
def test_depth_without_end_is_unknown(verb: Verb, body: bytes) -> None:
    assert verb.read(Reply(200, body)) == Unknown("not_json")
