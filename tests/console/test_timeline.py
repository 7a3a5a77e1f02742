"""The timeline of a payment: who is named for what, and in which order."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from payment_service.audit.models import AuditEntry
from payment_service.console.timeline import timeline
from payment_service.payments.views import PaymentLine
from payment_service.refunds.views import RefundLine

AT = datetime(2026, 11, 29, 9, 0, tzinfo=UTC)
REFUND = UUID(int=2)


def entry(minute: int, operation: str, actor: str, **more: Any) -> AuditEntry:
    at = AT + timedelta(minutes=minute)
    fields: dict[str, Any] = dict.fromkeys(("refund_id", "reason", "status", "error_message", "amount", "state"))
    return AuditEntry(operation_type=operation, actor=actor, source="service", created_at=at, **{**fields, **more})


def told(*entries: AuditEntry, refunded: bool = False) -> list[tuple[str, str | None]]:
    of_payment: dict[str, Any] = {"created_at": AT, "source": "service", "amount": 100, "message": "Roses"}
    of_refund: dict[str, Any] = {"id": REFUND, "created_at": AT + timedelta(minutes=5), "amount": 50}
    payment, refund = PaymentLine.model_construct(**of_payment), RefundLine.model_construct(**of_refund)
    return [(one.title, one.who) for one in timeline(payment, "bitrix", [refund] if refunded else [], entries)]


def test_newest_stands_first_and_what_was_asked_for_before_its_answer() -> None:
    assert told(entry(0, "create", "bitrix", state="pending"), entry(1, "status", "worker", state="paid")) == [
        ("Kaspi says: paid", None),
        ("Kaspi took the invoice on", None),
        ("Invoice asked for", "bitrix"),
    ]


def test_person_who_refunded_is_named_where_it_was_asked_for() -> None:
    done = entry(5, "refund", "aigul@example.kz", refund_id=REFUND, state="succeeded", amount=5000)
    assert told(done, refunded=True)[:2] == [("Refunded", None), ("Refund asked for", "aigul@example.kz")]


def test_person_who_settles_a_lost_refund_is_not_named_as_who_asked_for_it() -> None:
    lost = entry(9, "settle", "aigul@example.kz", refund_id=REFUND, state="unknown")
    settled = entry(9, "settle", "aigul@example.kz", refund_id=REFUND, state="failed", reason="not in the cabinet")
    assert told(lost, settled, refunded=True)[:3] == [
        ("Settled by hand", "aigul@example.kz"),
        ("Refund: outcome unknown", None),
        ("Refund asked for", None),
    ]


def test_refund_that_is_on_its_way_is_shown_before_anything_is_recorded_of_it() -> None:
    assert told(refunded=True)[0] == ("Refund asked for", None)
