"""Refunds over HTTP."""

import asyncio
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import ConfigDict, Field, StrictBool, ValidationInfo, field_validator

from payment_service.api import problems
from payment_service.api.dependencies import AnswerBy, InServices, PaymentsReader, RefundsWriter
from payment_service.api.fields import Body, Cursor, Listed, Moment, SentId, ShopId, Tenge
from payment_service.api.outcomes import UNKNOWN, refused, unknown
from payment_service.api.payment_requests import IdempotencyKey
from payment_service.api.responses import json_response
from payment_service.api.strict import StrictRoute
from payment_service.errors import (
    DeviceTokenMissing,
    DeviceTokenUnreadable,
    IdempotencyKeyReused,
    PaymentIncomplete,
    PaymentNotFound,
    PaymentNotPaid,
    ProviderUnavailable,
    RefundAlreadyOpen,
    RefundExceedsRemainder,
    SendingHeld,
    StillRunning,
)
from payment_service.money import Money
from payment_service.payments.lifecycle import Failure
from payment_service.providers.registry import DEFAULT
from payment_service.refunds import queries
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.queries import RefundFilter
from payment_service.refunds.service import RefundRequest
from payment_service.refunds.views import RefundedAnswer, RefundItem
from payment_service.scheduling.operations import NotEndedYet

router = APIRouter(tags=["payments"], route_class=StrictRoute)


class RefundBody(Body):
    """A refund of a paid payment: either an `amount`, or `full` for all that is left."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {
                    "required": ["amount"],
                    "properties": {"amount": {"not": {"type": "null"}}, "full": {"enum": [False, None]}},
                },
                {"required": ["full"], "properties": {"full": {"const": True}, "amount": {"type": "null"}}},
            ]
        }
    )

    shop_id: ShopId
    external_id: SentId
    full: StrictBool = Field(default=False, description="True, without `amount`: refund all that is left.")
    amount: Tenge | None = Field(
        default=None, validate_default=True, description="Tenge to refund. Required unless `full` is true."
    )

    @field_validator("amount")
    @classmethod
    def _either_amount_or_full(cls, amount: Money | None, info: ValidationInfo) -> Money | None:
        if "full" in info.data and info.data["full"] == (amount is not None):
            raise ValueError('send either the amount to pay back, in tenge, or "full": true for all that is left')
        return amount


class RefundPage(Listed[RefundItem]):
    """Some refunds, newest first."""


@router.get("/refunds", summary="Search refunds", responses=problems.declared())
async def search(
    services: InServices,
    caller: PaymentsReader,
    shop_id: Annotated[ShopId | None, Query()] = None,
    payment: Annotated[UUID | None, Query(description="Our id of the payment.")] = None,
    state: RefundState | None = None,
    since: Annotated[Moment | None, Query(description="Requested at this time or later (ISO 8601).")] = None,
    until: Annotated[Moment | None, Query(description="Requested before this time (ISO 8601).")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Cursor = None,
) -> RefundPage:
    """Lists the refunds of payments that the caller may see, newest first."""
    wanted = RefundFilter(
        shops=caller.shops, shop_id=shop_id, payment_id=payment, state=state, since=since, until=until
    )
    async with services.database.reading() as session:
        page = await queries.search(session, wanted, limit=limit, cursor=cursor)
    return RefundPage(items=[RefundItem.of_payment(*one) for one in page.rows], next_cursor=page.next_cursor)


@router.post(
    "/payments/kaspi/refund",
    response_model=RefundedAnswer,
    summary="Refund a payment",
    responses={
        **UNKNOWN,
        **problems.declared(
            PaymentNotFound,
            PaymentNotPaid,
            PaymentIncomplete,
            DeviceTokenMissing,
            DeviceTokenUnreadable,
            RefundExceedsRemainder,
            ProviderUnavailable,
            IdempotencyKeyReused,
            RefundAlreadyOpen,
            StillRunning,
            SendingHeld,
            also={409: "`settled_as_failed`", 422: "`refund_rejected`", 502: "`provider_refused`", 503: "`not_sent`"},
        ),
    },
)
async def refund(
    body: RefundBody, services: InServices, caller: RefundsWriter, by: AnswerBy, idempotency_key: IdempotencyKey = None
) -> Response:
    """Refunds a payment, in whole or in part, with the BIN and the device token of the payment."""
    try:
        async with asyncio.timeout_at(by):
            payment = await services.refunds.payment_of(caller, body.shop_id, DEFAULT, body.external_id)
    except TimeoutError as error:
        raise ProviderUnavailable from error  # only its status was read: nothing was sent
    request = RefundRequest(caller=caller, payment=payment, amount=body.amount, idempotency_key=idempotency_key)
    task = services.inflight.begin(services.refunds.refund(request))
    try:
        answer = await services.inflight.wait(task, until=by)
    except NotEndedYet:
        return unknown(payment.id, payment)
    done, payment = answer.refund, answer.payment
    headers = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    if done.state in {RefundState.UNKNOWN, RefundState.SENDING}:
        return unknown(payment.id, payment, headers=headers)
    if done.failure is not None:
        return refused(Failure(done.failure), done, payment, headers=headers)
    return json_response(RefundedAnswer.of(done, payment, remaining=answer.left), headers=headers)
