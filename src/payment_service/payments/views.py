"""The public view of a payment, the same in answers, in events and on the command line. Amounts in tenge."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from payment_service.money import Money
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment

WAITING = "Wait"
JsonTenge = Annotated[int | float, Field(description="Tenge.", examples=[100])]
_NO_SUCCESS = frozenset({State.FAILED, State.CANCELLED, State.UNKNOWN})


def tenge(tiyn: int | None) -> int | float | None:
    """An amount as JSON shows it; none when the client that made the payment never reported it."""
    return None if tiyn is None else Money(tiyn).number


def status_word(payment: Payment) -> str | None:
    """The provider's status; ``Wait`` while a payment is pending and has none, because callers need a word."""
    return payment.status or (WAITING if payment.state == State.PENDING else None)


class PaymentAnswer(BaseModel):
    """A payment as it stands."""

    success: bool = Field(description="True when the provider accepted the payment and it has not failed since.")
    id: UUID | None = Field(description="Our id (UUIDv7); null for a payment that this service never made.")
    version: int | None = Field(
        description="Increases with every change. Of two answers, the one with the higher version is newer."
    )
    external_id: str | None = Field(description="The provider's id.", examples=["12800627774"])
    shop_id: int | None
    organization_bin: str | None = Field(examples=["891027350515"])
    provider: str
    state: State = Field(description="The state in this service.")
    status: str | None = Field(description="The provider's word.", examples=["Wait"])
    amount: JsonTenge | None
    refunded_amount: JsonTenge | None = Field(description="Tenge refunded so far.", examples=[0])
    order_id: str | None = None
    payment_link: str | None = None
    expire_date: datetime | None = None
    short_code: str | None = Field(default=None, description="Part of the message that the buyer sees.")
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def of(cls, payment: Payment, **more: Any) -> Self:
        """The view of a payment; ``more`` are the fields that a wider view adds."""
        return cls(
            success=payment.state not in _NO_SUCCESS,
            id=payment.id,
            version=payment.version,
            external_id=payment.external_id,
            shop_id=payment.shop_id,
            organization_bin=payment.organization_bin,
            provider=payment.provider,
            state=State(payment.state),
            status=status_word(payment),
            amount=tenge(payment.amount),
            refunded_amount=tenge(payment.refunded_amount),
            order_id=payment.order_id,
            payment_link=payment.payment_link,
            expire_date=payment.expire_date,
            short_code=payment.short_code,
            created_at=payment.created_at,
            updated_at=payment.updated_at,
            **more,
        )


class LinkAnswer(PaymentAnswer):
    """A payment link."""

    payment_id: str | None = Field(
        description="The provider's id, under the name that existing clients of create-link know.",
        examples=["12800627774"],
    )

    @classmethod
    def of(cls, payment: Payment, **more: Any) -> Self:
        """The view of a payment."""
        return super().of(payment, payment_id=payment.external_id, **more)


class PaymentLine(PaymentAnswer):
    """A payment in a list."""

    source: str = Field(description="`service` when this service made it; `client` when a client made and reported it.")
    same_as: UUID | None = Field(description="The payment of this service that the reported payment is the same as.")
    method: str | None = Field(examples=["phone"])
    phone_last4: str | None
    message: str
    failure: str | None
    error_code: str | None
    error_message: str | None
    metadata: dict[str, str]
    moved_at: datetime = Field(description="When its state last changed.")

    @classmethod
    def of(cls, payment: Payment, **more: Any) -> Self:
        """The view of a payment; ``more`` are the fields that a wider view adds."""
        return super().of(
            payment,
            source=payment.source,
            same_as=payment.same_as,
            method=payment.method,
            phone_last4=payment.phone_last4,
            message=payment.message,
            failure=payment.failure,
            error_code=payment.error_code,
            error_message=payment.error_message,
            metadata=payment.details,
            moved_at=payment.moved_at,
            **more,
        )


def event_data(payment: Payment) -> str:
    """What events say of a payment: as ``GET /payments/{id}`` shows it, in JSON."""
    return PaymentLine.of(payment).model_dump_json()
