"""Whole answers for the OpenAPI document, taken from a development server. Examples of fields are in views."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

_ID: Final = "01a22a5a-ce15-7391-a105-d484f3f0c073"
_UNKNOWN_ID: Final = "01a22a5a-d611-7128-8fe9-8cdef14a4f09"
_OF_THE_SHOP: Final = {"shop_id": 121038, "organization_bin": "920317450731", "provider": "kaspi"}
_PENDING: Final = {
    "success": True,
    "id": _ID,
    "version": 2,
    "external_id": "18831731668",
    **_OF_THE_SHOP,
    "state": "pending",
    "status": "Wait",
    "amount": 17500,
    "refunded_amount": 0,
    "order_id": "12345",
    "payment_link": None,
    "expire_date": None,
    "short_code": "WHZF7Z",
    "created_at": "2026-11-30T02:48:44.064930Z",
    "updated_at": "2026-11-30T02:48:44.142165Z",
}
_PAID: Final = {**_PENDING, "version": 3, "state": "paid", "status": "Processed"}
_LINE: Final = {
    **_PAID,
    "source": "service",
    "same_as": None,
    "method": "phone",
    "phone_last4": "1545",
    "message": "Order 12345",
    "failure": None,
    "error_code": None,
    "error_message": None,
    "metadata": {"cart": "7"},
    "moved_at": "2026-11-30T02:48:45.426996Z",
}
_PAYMENT: Final = {
    **_LINE,
    "refunds": [],
    "history": [
        {
            "operation_type": operation_type,
            "state": state,
            "status": status,
            "error_message": None,
            "actor": actor,
            "source": "service",
            "reason": None,
            "refund_id": None,
            "request_id": request_id,
            "created_at": created_at,
        }
        for operation_type, state, status, actor, request_id, created_at in (
            ("create", "pending", "Wait", "shop", "f7235fe32a154e998577c634b1a15aaa", "2026-11-30T02:48:44.142165Z"),
            ("status", "paid", "Processed", "worker", None, "2026-11-30T02:48:45.426996Z"),
        )
    ],
}
_DOUBT: Final = (
    "The outcome is not known, so the request must not be sent again. "
    f"GET /payments/{_UNKNOWN_ID} shows the outcome as soon as it is known."
)


def _problem(status: int, code: str, title: str, detail: str, **more: Any) -> dict[str, Any]:
    request_id = "8cc7429135b042088dec4a3a4d82b016"
    named = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code}
    return {**named, "request_id": request_id, **more}


EXAMPLES: Final[Mapping[str, list[dict[str, Any]]]] = MappingProxyType(
    {
        "PaymentAnswer": [_PENDING, _PAID],
        "PaymentDetails": [_PAYMENT],
        "PaymentPage": [{"items": [_LINE], "next_cursor": None}],
        "LinkAnswer": [
            {
                **_PENDING,
                "payment_link": "https://kaspi.example.kz/pay/18831731668",
                "expire_date": "2026-11-30T02:51:45.797000Z",
                "payment_id": "18831731668",
            }
        ],
        "UnknownAnswer": [
            {
                "success": False,
                "id": _UNKNOWN_ID,
                "state": "unknown",
                "detail": _DOUBT,
                "error": _DOUBT,
                "external_id": None,
                "shop_id": 121038,
                "organization_bin": "920317450731",
                "amount": 17500,
                "order_id": "12347",
                "status": None,
            }
        ],
        "RefundedAnswer": [
            {
                "success": True,
                "id": _ID,
                "refund_id": "01a22a5a-d4d8-7759-8d37-5f94954e5d6d",
                "external_id": "18831731668",
                **_OF_THE_SHOP,
                "state": "succeeded",
                "amount": 17500,
                "refunded_amount": 500,
                "total_refunded_amount": 500,
                "remaining_amount": 17000,
                "order_id": "12345",
            }
        ],
        "Problem": [
            _problem(404, "shop_not_configured", "Shop not configured", "Shop 99 has no payment routing."),
            _problem(
                422,
                "validation_failed",
                "Invalid request",
                "amout: not known here; did you mean amount?",
                errors=[{"field": "amout", "message": "not known here; did you mean amount?"}],
            ),
            _problem(
                422,
                "payment_rejected",
                "Rejected by Kaspi",
                "Kaspi refused: Device not found (code -1501).",
                provider_code="-1501",
                provider_message="Device not found",
                success=False,
                id=_ID,
                state="failed",
                organization_bin="920317450731",
            ),
        ],
    }
)
"""By the name of the schema."""
