"""A refund as the world sees it: in answers and in events, the same words. Amounts in tenge."""

from typing import Any

from payment_service.payments.views import tenge
from payment_service.refunds.models import Refund


def line(refund: Refund) -> dict[str, Any]:
    """A refund as lists and events show it."""
    return {
        "id": refund.id,
        "version": refund.version,
        "amount": tenge(refund.amount),
        "state": refund.state,
        "error_code": refund.error_code,
        "error_message": refund.error_message,
        "provider_refund_id": refund.provider_refund_id,
        "created_at": refund.created_at,
        "updated_at": refund.updated_at,
    }
