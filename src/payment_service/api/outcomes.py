"""How an outcome is answered over HTTP: 202 while it is unknown, a problem when it failed at once.

Unknown -> 202; never sent -> 503; refused by the proxy -> 502; refused by Kaspi -> 422; settled as never made -> 409.
"""

from http import HTTPStatus
from typing import Any
from uuid import UUID

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from payment_service.api import problems
from payment_service.api.responses import json_response
from payment_service.payments.lifecycle import Failure, State
from payment_service.payments.models import Payment
from payment_service.payments.views import JsonTenge, tenge
from payment_service.refunds.models import Refund


class UnknownAnswer(BaseModel):
    """The outcome is unknown: the payment or refund may have been made or not."""

    success: bool = Field(default=False, examples=[False])
    id: UUID = Field(description="Our id.")
    state: State = Field(default=State.UNKNOWN, examples=[State.UNKNOWN])
    detail: str
    error: str = Field(description="The same sentence, where older clients look for it.")
    external_id: str | None = None
    shop_id: int | None = None
    organization_bin: str | None = None
    amount: JsonTenge | None = None
    order_id: str | None = None
    status: str | None = None


UNKNOWN: dict[int | str, dict[str, Any]] = {
    202: {"model": UnknownAnswer, "description": "Outcome unknown: do not send it again, look it up."}
}


def unknown(payment_id: UUID, payment: Payment | None, *, headers: dict[str, str] | None = None) -> Response:
    """The answer to an operation whose outcome is unknown."""
    sentence = (
        "The outcome is not known, so the request must not be sent again. "
        f"GET /payments/{payment_id} shows the outcome as soon as it is known."
    )
    body = UnknownAnswer(
        id=payment_id,
        detail=sentence,
        error=sentence,
        **{}
        if payment is None
        else {
            "external_id": payment.external_id,
            "shop_id": payment.shop_id,
            "organization_bin": payment.organization_bin,
            "amount": tenge(payment.amount),
            "order_id": payment.order_id,
            "status": payment.status,
        },
    )
    return json_response(body, HTTPStatus.ACCEPTED, headers=headers)


def refused(failure: Failure, what: Payment | Refund, payment: Payment, *, headers: dict[str, str]) -> JSONResponse:
    """The problem for a payment or a refund that failed at once."""
    facts: dict[str, Any] = {
        "success": False,
        "id": str(payment.id),
        "state": what.state,
        "organization_bin": payment.organization_bin,
    }
    match failure:
        case Failure.NOT_SENT:
            sentence = "The payment provider could not be reached. Nothing was sent. The request may be repeated."
            headers = {**headers, "Retry-After": problems.RETRY_AFTER_S}
            return problems.problem(503, "not_sent", "Not sent", sentence, headers=headers, **facts)
        case Failure.REFUSED:
            sentence = (
                "The payment proxy refused this service. Its operators have to check its credentials and the "
                "allowed addresses."
            )
            return problems.problem(502, "provider_refused", "Refused by the proxy", sentence, headers=headers, **facts)
        case Failure.SETTLED:
            sentence = (
                "A person found in the merchant cabinet that this was never made. To try again, use a new "
                "Idempotency-Key."
            )
            return problems.problem(409, "settled_as_failed", "Never made", sentence, headers=headers, **facts)
        case _:
            sentence = f"Kaspi refused: {what.error_message or 'no reason given'} (code {what.error_code})."
            return problems.problem(
                422,
                "payment_rejected" if isinstance(what, Payment) else "refund_rejected",
                "Rejected by Kaspi",
                sentence,
                headers=headers,
                provider_code=what.error_code,
                provider_message=what.error_message,
                **facts,
            )
