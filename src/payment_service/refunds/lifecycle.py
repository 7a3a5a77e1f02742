"""The life of a refund. Pure.

    sending -> succeeded | failed | unknown
    unknown -> succeeded | failed           a person with a reason, or the provider where it can tell
    failed  -> succeeded                    late success: a person had settled it as failed; with an alarm

An unknown refund keeps its amount reserved. A settlement by hand can be undone: ``UNDOING``. A trigger
of the database enforces both tables.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, assert_never

from payment_service.payments.lifecycle import Failure, ForbiddenMoveError, failure_of
from payment_service.providers.interface import Accepted, NotSent, Outcome, RefundReceipt, Rejected, Unknown


class RefundState(StrEnum):
    """State of a refund."""

    SENDING = "sending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"


OPEN: Final = (RefundState.SENDING, RefundState.UNKNOWN)
"""States in which the amount is reserved: it may still be paid back, or may have been."""

MOVES: Final = frozenset(
    {
        (RefundState.SENDING, RefundState.SUCCEEDED),
        (RefundState.SENDING, RefundState.FAILED),
        (RefundState.SENDING, RefundState.UNKNOWN),
        (RefundState.UNKNOWN, RefundState.SUCCEEDED),
        (RefundState.UNKNOWN, RefundState.FAILED),
        (RefundState.FAILED, RefundState.SUCCEEDED),
    }
)
UNDOING: Final = frozenset({(RefundState.SUCCEEDED, RefundState.UNKNOWN), (RefundState.FAILED, RefundState.UNKNOWN)})
"""How a settlement by hand is undone: the refund is unknown again."""


@dataclass(frozen=True, slots=True)
class RefundStep:
    """What to write."""

    state: RefundState
    failure: Failure | None = None
    code: str | None = None
    message: str | None = None
    provider_refund_id: str | None = None
    undoes: bool = False
    """Whether this undoes a settlement by hand."""


def undo_settlement() -> RefundStep:
    """The step that undoes a settlement: the refund is unknown, and its amount reserved again."""
    message = "The settlement by hand was undone."
    return RefundStep(RefundState.UNKNOWN, code="settlement_undone", message=message, undoes=True)


def decide(before: RefundState, outcome: Outcome[RefundReceipt]) -> RefundStep | None:
    """The step that the outcome of the call leads to; none when the refund has ended or the outcome adds nothing.

    A refund that failed and was made after all was settled as failed by a person while the reply was on its way: the
    provider is believed.
    """
    if before is RefundState.SUCCEEDED or (before is RefundState.FAILED and not isinstance(outcome, Accepted)):
        return None
    match outcome:
        case Accepted(receipt):
            return RefundStep(RefundState.SUCCEEDED, provider_refund_id=receipt.provider_refund_id)
        case Rejected(code, message, by):
            return RefundStep(RefundState.FAILED, failure_of(by), code, message)
        case NotSent(reason):
            return RefundStep(RefundState.FAILED, Failure.NOT_SENT, reason, "Nothing was sent to the provider.")
        case Unknown(reason, code):
            if before is RefundState.UNKNOWN:
                return None
            return RefundStep(RefundState.UNKNOWN, code=code or reason, message=f"Outcome unknown: {reason}.")
        case _:
            assert_never(outcome)


class Movable(Protocol):
    """The columns of a refund that a step writes."""

    state: str
    failure: str | None
    error_code: str | None
    error_message: str | None
    provider_refund_id: str | None


def move_to(refund: Movable, step: RefundStep) -> None:
    """Write a step into a refund: the only writer of ``state``.

    Raises:
        ForbiddenMoveError: for a move that is not in the table.
    """
    before = RefundState(refund.state)
    if (before, step.state) not in (UNDOING if step.undoes else MOVES):
        raise ForbiddenMoveError(f"a refund cannot go from {before} to {step.state}")
    refund.state = step.state
    refund.failure, refund.error_code, refund.error_message = step.failure, step.code, step.message
    refund.provider_refund_id = step.provider_refund_id
