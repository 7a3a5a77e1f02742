"""Tasks for people, and settling by hand, over HTTP."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BeforeValidator, Field, StringConstraints

from payment_service.api import problems
from payment_service.api.dependencies import Admin, InServices
from payment_service.api.fields import Body, SentId, Text
from payment_service.api.strict import StrictRoute
from payment_service.errors import (
    ExternalIdNotProven,
    ExternalIdTaken,
    NothingToSettle,
    NothingToUndo,
    PaymentNotFound,
    ProviderRefused,
    ProviderUnavailable,
    RefundNotFound,
    SettledByCaller,
    SettlementContradicted,
    SettlementInUse,
    TooEarlyToSettle,
)
from payment_service.payments.lifecycle import State
from payment_service.payments.settling import Settlement
from payment_service.payments.views import PaymentLine
from payment_service.refunds.settling import RefundSettlement
from payment_service.refunds.views import RefundLine, Task

router = APIRouter(prefix="/admin", tags=["admin"], route_class=StrictRoute)


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


# Stripped before its length is checked.
Reason = Annotated[Text, BeforeValidator(_stripped), StringConstraints(min_length=3, max_length=500)]
_REASON = Field(
    description="The reason; kept in the record.", examples=["Seen in the merchant cabinet, 12:40, by Aigul"]
)


class PaymentSettlement(Body):
    """What became of an unknown payment."""

    state: Literal["paid", "pending", "failed"] = Field(
        description="`paid`; `pending` when it was made and is still open; `failed` when it was never made or failed."
    )
    external_id: SentId | None = Field(default=None, description="The provider's id: required unless it failed.")
    reason: Reason = _REASON


class UndoRequest(Body):
    """Why a settlement is undone."""

    reason: Reason = _REASON


class RefundSettlementBody(Body):
    """What became of an unknown refund."""

    state: Literal["succeeded", "failed"] = Field(description="`failed` when it was never made.")
    provider_refund_id: SentId | None = Field(default=None, description="The provider's id of the refund, if known.")
    reason: Reason = _REASON


@router.get("/tasks", summary="Tasks for people", responses=problems.declared())
async def tasks(services: InServices, caller: Admin) -> list[Task]:
    """Payments and refunds whose outcome is unknown, and payments that stayed open for too long. Oldest first."""
    return await services.tasks(caller)


@router.post(
    "/payments/{id}/settle",
    summary="Settle an unknown payment by hand",
    responses=problems.declared(
        PaymentNotFound,
        NothingToSettle,
        TooEarlyToSettle,
        SettlementContradicted,
        ExternalIdTaken,
        ExternalIdNotProven,
        ProviderUnavailable,
        ProviderRefused,
    ),
)
async def settle_payment(id: UUID, body: PaymentSettlement, services: InServices, caller: Admin) -> PaymentLine:
    """Records what a person found in the merchant cabinet. Where the provider can be asked, a contradiction is refused.

    A key that is limited to some shops cannot name an `external_id`: the provider does not say which seller it belongs
    to.
    """
    found = Settlement(state=State(body.state), reason=body.reason, external_id=body.external_id)
    return PaymentLine.of(await services.settling.settle(caller, id, found))


@router.post(
    "/payments/{id}/settle/undo",
    summary="Undo a wrong settlement of a payment",
    responses=problems.declared(PaymentNotFound, NothingToUndo, SettledByCaller, SettlementInUse),
)
async def undo_payment(id: UUID, body: UndoRequest, services: InServices, caller: Admin) -> PaymentLine:
    """Makes a wrongly settled payment unknown again and releases the `external_id` that the settlement named.

    Another person than the one who settled has to do it. Nothing of the payment may have been refunded since.
    """
    return PaymentLine.of(await services.settling.undo(caller, id, body.reason))


@router.post(
    "/refunds/{id}/settle",
    summary="Settle an unknown refund by hand",
    responses=problems.declared(RefundNotFound, NothingToSettle, TooEarlyToSettle),
)
async def settle_refund(id: UUID, body: RefundSettlementBody, services: InServices, caller: Admin) -> RefundLine:
    """Records what a person found in the merchant cabinet. The amount of a refund that was never made is released."""
    found = RefundSettlement(
        succeeded=body.state == "succeeded", reason=body.reason, provider_refund_id=body.provider_refund_id
    )
    return RefundLine.of((await services.refund_settling.settle(caller, id, found)).refund)


@router.post(
    "/refunds/{id}/settle/undo",
    summary="Undo a wrong settlement of a refund",
    responses=problems.declared(RefundNotFound, NothingToUndo, SettledByCaller, SettlementInUse),
)
async def undo_refund(id: UUID, body: UndoRequest, services: InServices, caller: Admin) -> RefundLine:
    """Makes a wrongly settled refund unknown again and reserves its amount.

    Another person than the one who settled has to do it, and the amount must still be available on the payment.
    """
    return RefundLine.of((await services.refund_settling.undo(caller, id, body.reason)).refund)
