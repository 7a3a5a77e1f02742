"""The status of a payment for people, and what to tell the buyer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from payment_service.languages import mark
from payment_service.payments.lifecycle import Failure, State
from payment_service.payments.views import PaymentLine
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.views import RefundLine

Tone = Literal["good", "wait", "warn", "bad", "quiet"]


@dataclass(frozen=True, slots=True)
class PaymentStatus:
    """``word`` for lists, ``headline`` and ``advice`` for its own page. Texts of the catalogues."""

    tone: Tone
    word: str
    headline: str
    advice: str


_OF_STATE: Final[Mapping[State, PaymentStatus]] = {
    State.SENDING: PaymentStatus(
        "wait",
        mark("being sent"),
        mark("Being sent to Kaspi"),
        mark("Wait a few seconds: this page changes by itself."),
    ),
    State.PENDING: PaymentStatus(
        "wait",
        mark("waiting"),
        mark("Waiting for the buyer in Kaspi"),
        mark("Tell the buyer: open Kaspi.kz and confirm the payment there. Nothing is paid yet."),
    ),
    State.PAID: PaymentStatus(
        "good", mark("paid"), mark("Paid"), mark("Tell the buyer: the money has arrived at the seller.")
    ),
    State.CANCELLED: PaymentStatus(
        "quiet", mark("cancelled"), mark("Cancelled"), mark("Nothing was paid. A new invoice may be sent.")
    ),
    State.UNKNOWN: PaymentStatus(
        "warn",
        mark("unknown"),
        mark("We do not know the outcome yet"),
        mark("Send no second invoice. Tell the buyer: we are checking, please pay nothing more until we write."),
    ),
}
_OF_FAILURE: Final[Mapping[Failure, PaymentStatus]] = {
    Failure.NOT_SENT: PaymentStatus(
        "bad", mark("not sent"), mark("Not sent"), mark("Kaspi could not be reached. The invoice may be sent again.")
    ),
    Failure.REFUSED: PaymentStatus(
        "bad",
        mark("refused"),
        mark("Kaspi's proxy refused us"),
        mark("The buyer can do nothing here: tell an engineer."),
    ),
    Failure.REJECTED: PaymentStatus(
        "bad", mark("rejected"), mark("Kaspi refused the invoice"), mark("Nothing was paid. Below is what Kaspi said.")
    ),
    Failure.DECLINED: PaymentStatus(
        "bad",
        mark("not paid"),
        mark("Not paid"),
        mark("The buyer declined, or the time ran out. A new invoice may be sent."),
    ),
    Failure.SETTLED: PaymentStatus(
        "bad",
        mark("never made"),
        mark("Never made"),
        mark("A person found in the Kaspi cabinet that there is no such payment. A new invoice may be sent."),
    ),
}
_BY_LINK: Final = PaymentStatus(
    "wait",
    mark("waiting"),
    mark("Waiting for the buyer to open the link"),
    mark("Send the buyer the link below and ask them to pay in Kaspi.kz. Nothing is paid yet."),
)
_REFUNDED: Final = PaymentStatus(
    "quiet",
    mark("refunded"),
    mark("Paid and refunded in whole"),
    mark("Tell the buyer: the money was sent back. It comes to the Kaspi card that paid."),
)
_PARTLY: Final = PaymentStatus(
    "good",
    mark("partly refunded"),
    mark("Paid, partly refunded"),
    mark("Tell the buyer: a part of the money was sent back. It comes to the Kaspi card that paid."),
)
_CHECKING: Final = PaymentStatus(
    "warn",
    mark("refund unknown"),
    mark("We are checking a refund"),
    mark("Do not refund it again. Tell the buyer: the refund is being checked."),
)
_RETURNING: Final = PaymentStatus(
    "wait", mark("being refunded"), mark("Being refunded"), mark("Wait a few seconds: this page changes by itself.")
)
_UNFAMILIAR: Final = PaymentStatus("warn", mark("unknown"), mark("We do not know the outcome yet"), "")
WORD_OF_REFUND: Final[Mapping[str, tuple[Tone, str]]] = {
    RefundState.SENDING: ("wait", mark("being sent")),
    RefundState.SUCCEEDED: ("good", mark("refunded")),
    RefundState.FAILED: ("bad", mark("not refunded")),
    RefundState.UNKNOWN: ("warn", mark("unknown")),
}


def payment_status(payment: PaymentLine, refunds: Sequence[RefundLine] = ()) -> PaymentStatus:
    """The status of a payment, with its refunds where they are known."""
    if payment.state is State.FAILED:
        return _OF_FAILURE[Failure(payment.failure)] if payment.failure in set(Failure) else _UNFAMILIAR
    if payment.state is State.PENDING and payment.method == "link":
        return _BY_LINK
    if payment.state is not State.PAID:
        return _OF_STATE[payment.state]
    states = {refund.state for refund in refunds}
    if RefundState.UNKNOWN in states:
        return _CHECKING
    if RefundState.SENDING in states:
        return _RETURNING
    if payment.refunded_amount and payment.amount:
        return _REFUNDED if payment.refunded_amount >= payment.amount else _PARTLY
    return _OF_STATE[State.PAID]
