"""Payments over HTTP: create, create-link, status, search.

A payment that the provider accepted is answered with 200, whatever became of it; ``outcomes`` has the other answers.
"""

import io
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from payment_service.access.service import Caller
from payment_service.api import problems
from payment_service.api.dependencies import AnswerBy, InServices, PaymentsReader, PaymentsWriter
from payment_service.api.fields import Cursor, ExternalId, Listed, Moment, ShopId, Text
from payment_service.api.outcomes import UNKNOWN, refused, unknown
from payment_service.api.payment_requests import Create, CreateLink, IdempotencyKey
from payment_service.api.responses import json_response
from payment_service.api.strict import StrictRoute
from payment_service.api.waiting import changed
from payment_service.audit import service as audit
from payment_service.audit.views import HistoryLine
from payment_service.errors import (
    DeviceTokenMissing,
    DeviceTokenUnreadable,
    IdempotencyKeyReused,
    NoRoomToWait,
    OrderAlreadyOpen,
    OrderAlreadyPaid,
    PaymentHasNoLink,
    PaymentNotFound,
    ProviderRefused,
    ProviderUnavailable,
    SendingHeld,
    ServiceError,
    ShopInactive,
    ShopNotConfigured,
    StillRunning,
    TooManyWaiting,
)
from payment_service.payments import queries
from payment_service.payments.lifecycle import Failure, State
from payment_service.payments.models import Payment
from payment_service.payments.queries import PaymentFilter
from payment_service.payments.reading import ForeignPayment
from payment_service.payments.service import PaymentRequest
from payment_service.payments.views import LinkAnswer, PaymentAnswer, PaymentLine
from payment_service.providers.interface import Meaning
from payment_service.providers.registry import DEFAULT
from payment_service.refunds.views import RefundLine
from payment_service.scheduling.operations import NotEndedYet
from payment_service.services import Services

router = APIRouter(tags=["payments"], route_class=StrictRoute)


class PaymentDetails(PaymentLine):
    """One payment with its refunds and its history."""

    refunds: list[RefundLine]
    history: list[HistoryLine]


class PaymentPage(Listed[PaymentLine]):
    """Some payments, newest first."""


def _problems(*more: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    return problems.declared(
        ShopNotConfigured,
        ShopInactive,
        DeviceTokenUnreadable,
        *more,
        OrderAlreadyOpen,
        OrderAlreadyPaid,
        IdempotencyKeyReused,
        StillRunning,
        SendingHeld,
        also={409: "`settled_as_failed`", 422: "`payment_rejected`", 502: "`provider_refused`", 503: "`not_sent`"},
    )


@router.post(
    "/payments/kaspi/create",
    response_model=PaymentAnswer,
    summary="Invoice a phone",
    responses={**UNKNOWN, **_problems()},
)
async def create(
    body: Create, services: InServices, caller: PaymentsWriter, by: AnswerBy, idempotency_key: IdempotencyKey = None
) -> Response:
    """Sends an invoice to a phone. The money goes to the account of the shop's seller."""
    return await _make(services, caller, _request(body, caller, body.phone, idempotency_key), by)


@router.post(
    "/payments/kaspi/create-link",
    response_model=LinkAnswer,
    summary="Make a payment link",
    responses={**UNKNOWN, **_problems(DeviceTokenMissing)},
)
async def create_link(
    body: CreateLink, services: InServices, caller: PaymentsWriter, by: AnswerBy, idempotency_key: IdempotencyKey = None
) -> Response:
    """Makes a payment link. The shop needs a device token."""
    return await _make(services, caller, _request(body, caller, None, idempotency_key), by)


@router.get(
    "/payments/kaspi/status/{external_id}",
    response_model=PaymentAnswer,
    summary="Status of a payment",
    responses=problems.declared(PaymentNotFound, ProviderUnavailable, ProviderRefused),
)
async def status(external_id: ExternalId, services: InServices, caller: PaymentsReader) -> Any:
    """Returns the current state of a payment. The provider is asked unless the payment has ended.

    A payment that this service did not make is looked up at the provider and returned without a shop.
    """
    payment = await services.reading.status(caller, DEFAULT, external_id)
    return _of_foreign(payment) if isinstance(payment, ForeignPayment) else PaymentAnswer.of(payment)


@router.get(
    "/payments/{id}/status",
    summary="Status of a payment by our id",
    responses=problems.declared(PaymentNotFound),
)
async def status_by_id(id: UUID, services: InServices, caller: PaymentsReader) -> PaymentAnswer:
    """Returns the current state of a payment. The provider is asked unless the payment has ended or has no id there."""
    return PaymentAnswer.of(await services.reading.refresh(await services.reading.get(caller, id)))


@router.get("/payments", summary="Search payments", responses=problems.declared())
async def search(
    services: InServices,
    caller: PaymentsReader,
    shop_id: Annotated[ShopId | None, Query()] = None,
    order_id: Annotated[Text, Query(max_length=64)] | None = None,
    external_id: Annotated[ExternalId | None, Query()] = None,
    state: State | None = None,
    phone_last4: Annotated[str | None, Query(pattern=r"^[0-9]{4}$", description="The phone's last 4 digits.")] = None,
    short_code: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9]{1,8}$", description="The code in the message that the buyer saw.")
    ] = None,
    since: Annotated[Moment | None, Query(description="Made at this time or later (ISO 8601).")] = None,
    until: Annotated[Moment | None, Query(description="Made before this time (ISO 8601).")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Cursor = None,
) -> PaymentPage:
    """Lists the payments that the caller may see, newest first."""
    wanted = PaymentFilter(
        shop_id=shop_id,
        order_id=order_id,
        external_id=external_id,
        state=state,
        phone_last4=phone_last4,
        short_code=short_code.upper() if short_code else None,
        since=since,
        until=until,
        shops=caller.shops,
    )
    async with services.database.reading() as session:
        page = await queries.search(session, wanted, limit=limit, cursor=cursor)
    return PaymentPage(items=[PaymentLine.of(payment) for payment in page.rows], next_cursor=page.next_cursor)


@router.get(
    "/payments/{id}", summary="One payment", responses=problems.declared(PaymentNotFound, TooManyWaiting, NoRoomToWait)
)
async def one(
    id: UUID,
    services: InServices,
    caller: PaymentsReader,
    request: Request,
    wait: Annotated[
        float,
        Query(
            ge=0,
            le=25,
            description="Seconds to wait for a change of state. A payment that has ended is returned at once.",
        ),
    ] = 0,
) -> PaymentDetails:
    """One payment with its refunds and its history."""
    payment = await changed(services, caller, id, within_s=wait, drain=request.app.state.drain)
    refunds = await services.refunds.of_payment(id)
    async with services.database.reading() as session:
        history = await audit.of_payment(session, id)
    return PaymentDetails.of(
        payment,
        refunds=[RefundLine.of(refund) for refund in refunds],
        history=[HistoryLine.model_validate(entry) for entry in history],
    )


@router.get(
    "/payments/{id}/qr.{kind}",
    response_class=Response,
    summary="The payment's link as a QR code",
    responses={
        200: {
            "content": {
                "image/svg+xml": {"schema": {"type": "string"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
            }
        },
        **problems.declared(PaymentNotFound, PaymentHasNoLink),
    },
)
async def qr(id: UUID, kind: Literal["svg", "png"], services: InServices, caller: PaymentsReader) -> Response:
    """Returns the payment link as a QR code."""
    payment = await services.reading.get(caller, id)
    if payment.payment_link is None:
        raise PaymentHasNoLink(id)
    import segno  # noqa: PLC0415 - for the few links that somebody scans

    out = io.BytesIO()
    segno.make(payment.payment_link, error="m", micro=False).save(out, kind=kind, scale=8, border=4)
    return Response(out.getvalue(), media_type={"svg": "image/svg+xml", "png": "image/png"}[kind])


async def _make(services: Services, caller: Caller, request: PaymentRequest, by: float) -> Response:
    caller.require_shop(request.shop_id)
    task = services.inflight.begin(services.payments.create(request))
    try:
        answer = await services.inflight.wait(task, until=by)
    except NotEndedYet:
        return unknown(request.id, None)
    headers = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    return _answer(answer.payment, is_link=request.phone is None, headers=headers)


def _request(body: CreateLink, caller: Caller, phone: str | None, key: str | None) -> PaymentRequest:
    return PaymentRequest(
        caller=caller,
        shop_id=body.shop_id,
        amount=body.amount,
        phone=phone,
        message=body.message,
        order_id=body.order_id,
        metadata=body.metadata,
        idempotency_key=key,
    )


def _answer(payment: Payment, *, is_link: bool, headers: dict[str, str]) -> Response:
    if payment.state in {State.UNKNOWN, State.SENDING}:
        return unknown(payment.id, payment, headers=headers)
    if payment.failure is not None and payment.failure != Failure.DECLINED:
        return refused(Failure(payment.failure), payment, payment, headers=headers)
    view = LinkAnswer if is_link else PaymentAnswer
    return json_response(view.of(payment), headers=headers)


_STATE_OF_MEANING = {
    Meaning.WAITING: State.PENDING,
    Meaning.PAID: State.PAID,
    Meaning.FAILED: State.FAILED,
    Meaning.CANCELLED: State.CANCELLED,
    Meaning.UNHEARD_OF: State.PENDING,
}


def _of_foreign(payment: ForeignPayment) -> PaymentAnswer:
    return PaymentAnswer(
        success=payment.meaning not in {Meaning.FAILED, Meaning.CANCELLED},
        id=None,
        version=None,
        external_id=payment.external_id,
        shop_id=None,
        organization_bin=None,
        provider=payment.provider,
        state=_STATE_OF_MEANING[payment.meaning],
        status=payment.status,
        amount=None,
        refunded_amount=None,
    )
