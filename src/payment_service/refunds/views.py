"""The public view of a refund, the same in answers, in events and on the command line. Amounts in tenge."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, Self, TypeAlias
from uuid import UUID

from pydantic import BaseModel, Field

from payment_service.money import Money
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.views import JsonTenge, tenge
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import Refund


class RefundLine(BaseModel):
    """One refund of a payment."""

    id: UUID
    version: int
    amount: JsonTenge
    state: str
    error_code: str | None
    error_message: str | None
    provider_refund_id: str | None
    created_at: datetime
    updated_at: datetime
    moved_at: datetime = Field(description="When its state last changed.")

    @classmethod
    def of(cls, refund: Refund) -> Self:
        """The view of a refund."""
        return cls(
            id=refund.id,
            version=refund.version,
            amount=tenge(refund.amount),
            state=refund.state,
            error_code=refund.error_code,
            error_message=refund.error_message,
            provider_refund_id=refund.provider_refund_id,
            created_at=refund.created_at,
            updated_at=refund.updated_at,
            moved_at=refund.moved_at,
        )


class RefundItem(RefundLine):
    """One refund in a list of those of many payments."""

    payment: UUID = Field(description="Our id of the payment.")
    shop_id: int
    organization_bin: str | None = Field(description="The BIN that took the payment and paid it back.")
    external_id: str | None = Field(description="The provider's id of the payment.")
    order_id: str | None

    @classmethod
    def of_payment(cls, refund: Refund, payment: Payment) -> Self:
        """The view of a refund with its payment."""
        return cls(
            **dict(RefundLine.of(refund)),
            payment=payment.id,
            shop_id=payment.shop_id,
            organization_bin=payment.organization_bin,
            external_id=payment.external_id,
            order_id=payment.order_id,
        )


class RefundedAnswer(BaseModel):
    """A refund that was made."""

    success: bool
    id: UUID = Field(description="Our id of the payment.")
    refund_id: UUID = Field(description="Our id of the refund.")
    external_id: str
    shop_id: int
    organization_bin: str = Field(description="The BIN that took the payment and paid it back.")
    provider: str
    state: RefundState
    amount: JsonTenge = Field(description="Tenge of the payment.")
    refunded_amount: JsonTenge = Field(description="Tenge of this refund.", examples=[50])
    total_refunded_amount: JsonTenge = Field(description="Tenge refunded of the payment so far.", examples=[50])
    remaining_amount: JsonTenge = Field(description="Tenge that can still be refunded.", examples=[50])
    order_id: str | None

    @classmethod
    def of(cls, refund: Refund, payment: Payment, *, remaining: Money) -> Self:
        """The view of a refund that was made, with what can still be refunded of its payment."""
        return cls(
            success=True,
            id=payment.id,
            refund_id=refund.id,
            external_id=payment.external_id,
            shop_id=payment.shop_id,
            organization_bin=payment.organization_bin,
            provider=payment.provider,
            state=RefundState(refund.state),
            amount=tenge(payment.amount),
            refunded_amount=tenge(refund.amount),
            total_refunded_amount=tenge(payment.refunded_amount),
            remaining_amount=remaining.number,
            order_id=payment.order_id,
        )


TaskKind: TypeAlias = Literal["unknown_payment", "unread_payment", "unknown_refund", "open_payment"]
_TODO: Final[Mapping[TaskKind, str]] = {
    "unknown_payment": "Look for the short code in the seller's merchant cabinet and settle the payment by hand.",
    "unread_payment": "Its id is known, but the provider could not be reached. Polling continues. Look in the "
    "seller's merchant cabinet if that takes long.",
    "unknown_refund": "Look in the seller's merchant cabinet whether this refund was made and settle it by hand.",
    "open_payment": "It is still open and no longer polled. Request its status, or look in the merchant cabinet.",
}


class Task(BaseModel):
    """A task for a person, with what is needed to find the payment in the merchant cabinet."""

    kind: TaskKind
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
    why: str | None = Field(description="The cause, in one word.", examples=["timeout"])
    made_at: datetime = Field(description="When it was sent.")
    since: datetime = Field(description="When it entered this state.")

    @classmethod
    def of_payment(cls, payment: Payment) -> Self:
        """A payment whose end is not known, or that stayed open for too long."""
        if payment.state not in {State.UNKNOWN, State.SENDING}:
            kind: TaskKind = "open_payment"
        else:
            kind = "unknown_payment" if payment.external_id is None else "unread_payment"
        return cls._of(kind, payment, payment)

    @classmethod
    def of_refund(cls, refund: Refund, payment: Payment) -> Self:
        """A refund whose end is not known."""
        return cls._of("unknown_refund", refund, payment, refund_id=refund.id)

    @classmethod
    def _of(cls, kind: TaskKind, what: Payment | Refund, payment: Payment, refund_id: UUID | None = None) -> Self:
        return cls(
            kind=kind,
            todo=_TODO[kind],
            payment=payment.id,
            refund_id=refund_id,
            shop_id=payment.shop_id,
            organization_bin=payment.organization_bin,
            phone=f"•••{payment.phone_last4}" if payment.phone_last4 else None,
            amount=tenge(what.amount),
            short_code=payment.short_code,
            order_id=payment.order_id,
            external_id=payment.external_id,
            why=what.error_code,
            made_at=what.created_at,
            since=what.moved_at,
        )


def event_data(refund: Refund) -> str:
    """What events say of a refund: as lists show it, in JSON."""
    return RefundLine.of(refund).model_dump_json()
