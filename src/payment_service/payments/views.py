"""A payment as the world sees it: in answers and in events, the same words. Amounts in tenge."""

from typing import Any

from payment_service.money import Money
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment

WAITING = "Wait"


def tenge(tiyn: int | None) -> int | float | None:
    """An amount as JSON shows it; none for a payment whose amount its client never told."""
    return None if tiyn is None else Money(tiyn).number


def status_word(payment: Payment) -> str | None:
    """The provider's word; ``Wait`` for a pending payment of which the provider said none, for callers need a word."""
    return payment.status or (WAITING if payment.state == State.PENDING else None)


def answer(payment: Payment) -> dict[str, Any]:
    """What whoever asked for a payment is told of it."""
    return {
        "success": payment.state not in {State.FAILED, State.CANCELLED, State.UNKNOWN},
        "id": payment.id,
        "version": payment.version,
        "external_id": payment.external_id,
        "shop_id": payment.shop_id,
        "organization_bin": payment.organization_bin,
        "provider": payment.provider,
        "state": payment.state,
        "status": status_word(payment),
        "amount": tenge(payment.amount),
        "refunded_amount": tenge(payment.refunded_amount),
        "order_id": payment.order_id,
        "payment_link": payment.payment_link,
        "expire_date": payment.expire_date,
        "short_code": payment.short_code,
        "created_at": payment.created_at,
        "updated_at": payment.updated_at,
    }


def line(payment: Payment) -> dict[str, Any]:
    """A payment as lists, ``GET /payments/{id}`` and events show it."""
    return {
        **answer(payment),
        "source": payment.source,
        "same_as": payment.same_as,
        "method": payment.method,
        "phone_last4": payment.phone_last4,
        "message": payment.message,
        "failure": payment.failure,
        "error_code": payment.error_code,
        "error_message": payment.error_message,
        "metadata": payment.details,
        "moved_at": payment.moved_at,
    }
