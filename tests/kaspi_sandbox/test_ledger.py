from dataclasses import replace
from pathlib import Path

import pytest

from kaspi_sandbox.ledger import Ledger
from kaspi_sandbox.records import Call, Payment, Refund, Refusal
from kaspi_sandbox.rules import BY_NAME, NORMAL
from tests.support.clock import Clock

SELLER = "920317450731"
TOKEN = "11111111-aaaa-4aaa-8aaa-000000000001"


@pytest.fixture
def clock() -> Clock:
    return Clock(1_760_000_000)


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return ledger_of(clock)


def ledger_of(clock: Clock, file: Path | None = None) -> Ledger:
    return Ledger(clock=clock, pay_after_s=6, seed=0, file=file)


def asked(op: str = "create", amount: int = 10_000, external_id: str | None = None, token: str | None = TOKEN) -> Call:
    return Call(
        op=op,
        organization_bin=SELLER,
        device_token=token,
        amount=amount,
        phone="77015211545" if op == "create" else None,
        message="Test",
        external_id=external_id,
        default_merchant_used=False,
    )


def made(ledger: Ledger, course: str = "normal", op: str = "create") -> Payment:
    return ledger.create(asked(op), BY_NAME[course])


def refunded(ledger: Ledger, payment: Payment, amount: int) -> Refund | Refusal:
    return ledger.refund(asked("refund", amount, payment.external_id), NORMAL)


@pytest.mark.parametrize(
    ("course", "op", "words"),
    [
        ("normal", "create", {0: "Wait", 3: "RemotePaymentCreated", 6: "Processed"}),
        ("normal", "create-link", {0: "QrTokenCreated", 3: "RemotePaymentCreated", 6: "Processed"}),
        ("pays_at_once", "create", {0: "Processed"}),
        ("pays_late", "create", {6: "RemotePaymentCreated", 59: "RemotePaymentCreated", 60: "Processed"}),
        ("declines", "create", {3: "RemotePaymentCreated", 6: "Error"}),
        ("expires", "create-link", {59: "QrTokenCreated", 60: "Error"}),
        ("cancelled", "create", {5: "Wait", 6: "RemotePaymentCanceled"}),
        ("waits", "create", {0: "Wait", 86_400: "Wait"}),
        ("error_then_paid", "create", {0: "Error", 59: "Error", 60: "Processed"}),
        ("unknown_status", "create", {0: "RemotePaymentUnderReview", 86_400: "RemotePaymentUnderReview"}),
    ],
)
def test_a_payment_lives_as_its_course_says(
    ledger: Ledger, clock: Clock, course: str, op: str, words: dict[int, str]
) -> None:
    payment = made(ledger, course, op)
    assert {age: payment.status(clock.now + age) for age in words} == words


def test_ids_have_eleven_digits_and_never_repeat(ledger: Ledger) -> None:
    ids = [made(ledger).external_id for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(len(external_id) == 11 and int(external_id) > 2**31 for external_id in ids)


def test_refunds_use_up_the_payment_and_not_one_tiyn_more(ledger: Ledger) -> None:
    payment = made(ledger, "pays_at_once")
    assert isinstance(refunded(ledger, payment, 4_000), Refund)
    assert isinstance(refunded(ledger, payment, 6_000), Refund)
    assert refunded(ledger, payment, 1) == Refusal(-99000005)
    assert payment.refunded == 10_000


def test_a_refund_leaves_the_status_alone(ledger: Ledger, clock: Clock) -> None:
    payment = made(ledger, "pays_at_once")
    refunded(ledger, payment, 10_000)
    assert payment.status(clock.now) == "Processed"


def test_a_payment_that_is_not_paid_cannot_be_refunded(ledger: Ledger) -> None:
    assert refunded(ledger, made(ledger), 100) == Refusal(-99000011)


def test_a_scripted_payment_can_be_refunded_only_whole(ledger: Ledger, clock: Clock) -> None:
    payment = made(ledger, "full_refund_only")
    clock.now += 6
    assert refunded(ledger, payment, 100) == Refusal(-99000020)
    assert isinstance(refunded(ledger, payment, 10_000), Refund)


def test_a_refund_of_a_payment_nobody_made_is_refused(ledger: Ledger) -> None:
    assert ledger.refund(asked("refund", 100, "12800000000"), NORMAL) == Refusal(-1601)


def test_a_payment_made_without_a_token_takes_any_token_of_its_seller(ledger: Ledger) -> None:
    payment = ledger.create(asked(token=None), BY_NAME["pays_at_once"])
    assert isinstance(refunded(ledger, payment, 100), Refund)


def test_a_person_pays_or_declines_what_is_pending_and_nothing_else(ledger: Ledger, clock: Clock) -> None:
    waiting, declined, late = made(ledger, "waits"), made(ledger), made(ledger, "unknown_status")
    clock.now += 2
    assert ledger.press(waiting.external_id, "pay") is waiting
    assert ledger.press(declined.external_id, "decline") is declined
    assert ledger.press(late.external_id, "pay") is late
    assert ledger.press(waiting.external_id, "decline") is None
    assert ledger.press("12800000000", "pay") is None
    clock.now += 60
    assert [payment.status(clock.now) for payment in (waiting, declined, late)] == ["Processed", "Error", "Processed"]


def test_a_restart_keeps_payments_refunds_presses_and_ids(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "new" / "ledger.jsonl"
    first = ledger_of(clock, file)
    paid, pressed = made(first, "pays_at_once"), made(first, "waits")
    refund = refunded(first, paid, 2_500)
    first.press(pressed.external_id, "decline")
    assert isinstance(refund, Refund)

    second = ledger_of(clock, file)
    assert list(second.entries()) == list(first.entries())
    assert [payment.shown(clock.now) for payment in second.payments()] == [
        payment.shown(clock.now) for payment in first.payments()
    ]
    assert int(made(second).external_id) > refund.return_operation_id


def test_a_reset_is_remembered_and_gives_no_id_twice(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger = ledger_of(clock, file)
    before = made(ledger)
    ledger.reset()
    assert (list(ledger.entries()), list(ledger.payments())) == ([], [])
    again = ledger_of(clock, file)
    assert list(again.payments()) == []
    assert int(made(again).external_id) > int(before.external_id)


def test_a_line_torn_by_a_crash_costs_only_itself(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    made(ledger_of(clock, file))
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"sequence": 2, "op": "cre')
    made(ledger_of(clock, file))
    assert len(list(ledger_of(clock, file).payments())) == 2


def test_a_line_separator_in_a_message_tears_no_line(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger_of(clock, file).create(replace(asked(), message="Roses\u2028\u2029\x85 for Anna"), NORMAL)
    [entry] = ledger_of(clock, file).entries()
    assert entry.message == "Roses\u2028\u2029\x85 for Anna"


def test_the_device_token_is_neither_in_an_entry_nor_in_the_file(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    ledger = ledger_of(clock, file)
    made(ledger)
    assert TOKEN not in file.read_text(encoding="utf-8")
    assert [entry.device_token for entry in ledger.entries()] == ["11111111…"]
