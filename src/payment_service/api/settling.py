"""What people must look at, and what they found: tasks, and settling by hand."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, BeforeValidator, Field, StringConstraints

from payment_service.access.service import Caller, Scope
from payment_service.api import problems
from payment_service.api.dependencies import InServices, caller_who_may
from payment_service.api.exact import ExactRoute
from payment_service.api.fields import Body, JsonTenge, SentId, Text
from payment_service.api.payments import PaymentLine, RefundLine, payment_line, refund_line
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
from payment_service.payments.models import Payment
from payment_service.payments.settling import Settlement
from payment_service.payments.views import tenge
from payment_service.refunds.models import Refund
from payment_service.refunds.service import RefundSettlement

router = APIRouter(prefix="/admin", tags=["admin"], route_class=ExactRoute)


def _stripped(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


# Stripped before it is measured: spaces are no reason.
Reason = Annotated[Text, BeforeValidator(_stripped), StringConstraints(min_length=3, max_length=500)]
_REASON = Field(description="Why; kept in the record.", examples=["Seen in the merchant cabinet, 12:40, by Aigul"])
_SENTENCES = {
    "unknown_payment": "Look for the short code in the seller's merchant cabinet and settle the payment by hand.",
    "unread_payment": "The provider knows its id but could not be asked: it goes on being asked. "
    "Look at it in the seller's merchant cabinet if that takes long.",
    "unknown_refund": "Look in the seller's merchant cabinet whether this refund was made and settle it by hand.",
    "open_payment": "It is still open, and is not asked about any more: ask for its status, or look in the cabinet.",
}


class Task(BaseModel):
    """Something that a person must look at, with what is needed to find it in the merchant cabinet."""

    kind: Literal["unknown_payment", "unread_payment", "unknown_refund", "open_payment"]
    todo: str = Field(description="What to do, in a sentence.")
    payment: UUID = Field(description="Our id of the payment.")
    refund_id: UUID | None = Field(default=None, description="Our id of the refund, where it is about one.")
    shop_id: int
    organization_bin: str | None
    phone: str | None = Field(description="The buyer's phone, masked.", examples=["•••1545"])
    amount: JsonTenge | None = Field(description="Tenge: of the refund where it is about one.")
    short_code: str | None = Field(description="Ends the message that the buyer saw.", examples=["7KQ2MX"])
    order_id: str | None
    external_id: str | None
    why: str | None = Field(description="How it came to this, in a word.", examples=["timeout"])
    made_at: datetime = Field(description="When it was sent.")
    since: datetime = Field(description="Since when it stands like this.")


class PaymentSettlement(Body):
    """What became of an unknown payment."""

    state: Literal["paid", "pending", "failed"] = Field(
        description="`paid`; `pending` when it was made and is still open; `failed` when it was never made or failed."
    )
    external_id: SentId | None = Field(default=None, description="The provider's id: needed unless it failed.")
    reason: Reason = _REASON


class Undoing(Body):
    """Why a settlement is undone."""

    reason: Reason = _REASON


class RefundSettled(Body):
    """What became of an unknown refund."""

    state: Literal["succeeded", "failed"] = Field(description="`failed` when it was never made.")
    provider_refund_id: SentId | None = Field(default=None, description="The provider's id of the refund, if known.")
    reason: Reason = _REASON


@router.get("/tasks", summary="What people must look at", responses=problems.declared())
async def tasks(services: InServices, caller: Annotated[Caller, caller_who_may(Scope.ADMIN)]) -> list[Task]:
    """Payments and refunds whose end nobody knows, and payments that stayed open for too long. Oldest first."""
    found = [_of_payment(payment) for payment in await services.settling.tasks(caller)]
    found += [_of_refund(refund, payment) for refund, payment in await services.refunds.tasks(caller)]
    return sorted(found, key=lambda task: task.since)


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
async def settle_payment(
    id: UUID,  # noqa: A002 - the name that the address has
    body: PaymentSettlement,
    services: InServices,
    caller: Annotated[Caller, caller_who_may(Scope.ADMIN)],
) -> PaymentLine:
    """Say what was found in the merchant cabinet. The provider is asked wherever it can be, and has the last word.

    The provider does not say whose payment an id is of, so a key of some shops cannot name an `external_id`.
    """
    found = Settlement(state=State(body.state), reason=body.reason, external_id=body.external_id)
    return payment_line(await services.settling.settle(caller, id, found))


@router.post(
    "/payments/{id}/settle/undo",
    summary="Undo a wrong settlement of a payment",
    responses=problems.declared(PaymentNotFound, NothingToUndo, SettledByCaller, SettlementInUse),
)
async def undo_payment(
    id: UUID,  # noqa: A002 - the name that the address has
    body: Undoing,
    services: InServices,
    caller: Annotated[Caller, caller_who_may(Scope.ADMIN)],
) -> PaymentLine:
    """Make a payment unknown again that was settled wrongly. An `external_id` that the settlement named is free again.

    It takes another person than the one who settled. Nothing of the payment may have been paid back since.
    """
    return payment_line(await services.settling.undo(caller, id, body.reason))


@router.post(
    "/refunds/{id}/settle",
    summary="Settle an unknown refund by hand",
    responses=problems.declared(RefundNotFound, NothingToSettle, TooEarlyToSettle),
)
async def settle_refund(
    id: UUID,  # noqa: A002 - the name that the address has
    body: RefundSettled,
    services: InServices,
    caller: Annotated[Caller, caller_who_may(Scope.ADMIN)],
) -> RefundLine:
    """Say what was found in the merchant cabinet. A refund that was never made frees its amount."""
    found = RefundSettlement(
        succeeded=body.state == "succeeded", reason=body.reason, provider_refund_id=body.provider_refund_id
    )
    return refund_line((await services.refunds.settle(caller, id, found)).refund)


@router.post(
    "/refunds/{id}/settle/undo",
    summary="Undo a wrong settlement of a refund",
    responses=problems.declared(RefundNotFound, NothingToUndo, SettledByCaller, SettlementInUse),
)
async def undo_refund(
    id: UUID,  # noqa: A002 - the name that the address has
    body: Undoing,
    services: InServices,
    caller: Annotated[Caller, caller_who_may(Scope.ADMIN)],
) -> RefundLine:
    """Make a refund unknown again that was settled wrongly. Its amount is reserved again.

    It takes another person than the one who settled, and what is left of the payment must still hold the amount.
    """
    return refund_line((await services.refunds.undo_settlement(caller, id, body.reason)).refund)


def _of_payment(payment: Payment) -> Task:
    if payment.state in {State.UNKNOWN, State.SENDING}:
        kind = "unknown_payment" if payment.external_id is None else "unread_payment"
    else:
        kind = "open_payment"
    return Task(
        kind=kind,
        todo=_SENTENCES[kind],
        payment=payment.id,
        amount=tenge(payment.amount),
        why=payment.error_code,
        made_at=payment.created_at,
        since=payment.moved_at,
        **_found_by(payment),
    )


def _of_refund(refund: Refund, payment: Payment) -> Task:
    return Task(
        kind="unknown_refund",
        todo=_SENTENCES["unknown_refund"],
        payment=payment.id,
        refund_id=refund.id,
        amount=tenge(refund.amount),
        why=refund.error_code,
        made_at=refund.created_at,
        since=refund.moved_at,
        **_found_by(payment),
    )


def _found_by(payment: Payment) -> dict[str, object]:
    return {
        "shop_id": payment.shop_id,
        "organization_bin": payment.organization_bin,
        "phone": f"•••{payment.phone_last4}" if payment.phone_last4 else None,
        "short_code": payment.short_code,
        "order_id": payment.order_id,
        "external_id": payment.external_id,
    }
