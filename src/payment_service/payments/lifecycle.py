"""The life of a payment: which moves there are, and which one an outcome or a reading leads to. Pure.

    sending -> pending | failed | unknown
    pending -> paid | failed | cancelled
    unknown -> pending | paid | failed          evidence from the provider, or a person with a reason
    failed  -> pending | paid                   the provider is believed, with an alarm: it is paid late, or its late
                                                reply says that it was made, which a person had settled as never made

A settlement by hand can be undone, back to unknown, from wherever it led: ``UNDOING``, which
is not part of the ordinary moves. A trigger of the database enforces both tables, and a test compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol, assert_never

from payment_service.providers.interface import (
    Accepted,
    Meaning,
    NotSent,
    Outcome,
    PaymentReceipt,
    RefusedBy,
    Rejected,
    StatusRead,
    Unknown,
)


class State(StrEnum):
    """State of a payment."""

    SENDING = "sending"
    PENDING = "pending"
    PAID = "paid"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Failure(StrEnum):
    """Why a payment or a refund failed; the answer to the caller depends on it."""

    NOT_SENT = "not_sent"
    """Nothing left this machine: it may be tried again."""
    REFUSED = "refused"
    """The proxy refused us: its operators must act."""
    REJECTED = "rejected"
    """The provider refused the request."""
    DECLINED = "declined"
    """The provider accepted it, and the customer did not pay."""
    SETTLED = "settled"
    """A person found in the merchant cabinet that it was never made."""


OPEN: Final = frozenset({State.SENDING, State.PENDING, State.UNKNOWN})
"""States from which a payment may still be paid in the ordinary way."""

MOVES: Final = frozenset(
    {
        (State.SENDING, State.PENDING),
        (State.SENDING, State.FAILED),
        (State.SENDING, State.UNKNOWN),
        (State.PENDING, State.PAID),
        (State.PENDING, State.FAILED),
        (State.PENDING, State.CANCELLED),
        (State.UNKNOWN, State.PENDING),
        (State.UNKNOWN, State.PAID),
        (State.UNKNOWN, State.FAILED),
        (State.FAILED, State.PENDING),
        (State.FAILED, State.PAID),
    }
)

_MEANINGS_AFTER_END: Final[Mapping[State, frozenset[Meaning]]] = {
    State.PAID: frozenset({Meaning.PAID}),
    State.FAILED: frozenset({Meaning.FAILED, Meaning.CANCELLED}),
    State.CANCELLED: frozenset({Meaning.FAILED, Meaning.CANCELLED}),
}
"""What the provider may still say of a payment that has ended, by state."""

UNDOING: Final = frozenset(
    (state, State.UNKNOWN) for state in (State.PENDING, State.PAID, State.FAILED, State.CANCELLED)
)
"""States that a settlement by hand, or a later reading of the id it named, may have led to. Undone: unknown again."""


class ForbiddenMoveError(Exception):
    """A move that is not in the table: a bug of this service, never the caller's fault."""


@dataclass(frozen=True, slots=True)
class Step:
    """What to write: the next state and what was learned on the way. ``None`` leaves a column as it is."""

    state: State
    failure: Failure | None = None
    code: str | None = None
    message: str | None = None
    receipt: PaymentReceipt | None = None
    status: str | None = None
    error_seen_at: datetime | None = None
    undoes: bool = False
    """Whether this undoes a settlement by hand; an external_id that it named goes with it."""


def check_move(before: State, after: State, *, undoes: bool = False) -> None:
    """Refuse a move that is not in the table.

    Raises:
        ForbiddenMoveError: for such a move.
    """
    if (before, after) not in (UNDOING if undoes else MOVES):
        raise ForbiddenMoveError(f"a payment cannot go from {before} to {after}")


def agrees(state: State, meaning: Meaning) -> bool:
    """Whether the provider may say this of a payment in this state: anything while it is open."""
    return state not in _MEANINGS_AFTER_END or meaning in _MEANINGS_AFTER_END[state]


def undo_settlement() -> Step:
    """The step that undoes a settlement: the payment is unknown, as it was before."""
    return Step(State.UNKNOWN, code="settlement_undone", message="The settlement by hand was undone.", undoes=True)


def decide(before: State, outcome: Outcome[PaymentReceipt]) -> Step | None:
    """The step that the outcome of create or create-link leads to; none when it adds nothing.

    ``before`` is sending, or unknown when the outcome came after the lease of the call.
    """
    if before not in {State.SENDING, State.UNKNOWN}:
        return None
    match outcome:
        case Accepted(receipt):
            return Step(State.PENDING, receipt=receipt, status=receipt.status)
        case Rejected(code, message, by):
            return Step(State.FAILED, failure_of(by), code, message)
        case NotSent(reason):
            return Step(State.FAILED, Failure.NOT_SENT, reason, "Nothing was sent to the provider.")
        case Unknown(reason, code, external_id):
            known = PaymentReceipt(external_id) if external_id else None
            return Step(State.UNKNOWN, code=code or reason, message=f"Outcome unknown: {reason}.", receipt=known)
        case _:
            assert_never(outcome)


def failure_of(by: RefusedBy) -> Failure:
    """The kind of failure that a refusal is."""
    return Failure.REJECTED if by is RefusedBy.PROVIDER else Failure.REFUSED


def decide_reading(
    before: State,
    reading: StatusRead,
    *,
    error_seen_at: datetime | None,
    asked_at: datetime,
    now: datetime,
    confirm_after: timedelta,
) -> Step:
    """The step that a status reading leads to. ``Step.state`` equals ``before`` when nothing moves.

    A failed status counts only when it is read again, by a request made ``confirm_after`` later than the first one was
    written (docs/kaspi-api.md section 3). Paid is final. An unknown status word changes nothing but ``status``; a word
    that contradicts a state that has ended does not change even that, since many callers look at the word alone.
    """
    stay = Step(before, status=reading.status if agrees(before, reading.meaning) else None)
    match reading.meaning:
        case Meaning.PAID:
            may_be_paid = (before, State.PAID) in MOVES
            return Step(State.PAID, status=reading.status) if may_be_paid else stay
        case Meaning.WAITING | Meaning.UNHEARD_OF:
            return Step(State.PENDING, status=reading.status) if before is State.UNKNOWN else stay
        case Meaning.FAILED:
            if before not in {State.PENDING, State.UNKNOWN}:
                return stay
            if error_seen_at is None or error_seen_at > now:  # in the future by a clock that was ahead
                return Step(before, status=reading.status, error_seen_at=now)
            if asked_at - error_seen_at < confirm_after:
                return Step(before, status=reading.status, error_seen_at=error_seen_at)
            return Step(
                State.FAILED,
                Failure.DECLINED,
                reading.status,
                "The provider says that the payment failed, was refused or expired.",
                status=reading.status,
                error_seen_at=error_seen_at,
            )
        case Meaning.CANCELLED:
            # That it was cancelled shows that it was made: pending first, cancelled at the next reading.
            if before is State.UNKNOWN:
                return Step(State.PENDING, status=reading.status)
            return Step(State.CANCELLED, status=reading.status) if before is State.PENDING else stay
        case _:
            assert_never(reading.meaning)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowState:
    """What the follow plan depends on. Times in seconds."""

    state: State
    failure: Failure | None = None
    age_s: float
    in_state_s: float = 0
    was_read: bool = True
    """Whether its status was ever read."""
    unread: int = 0
    """How many readings in a row failed."""
    error_seen: bool = False
    status_is_final: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it may still be paid in the ordinary way."""
        return self.state in OPEN

    @property
    def may_be_paid_late(self) -> bool:
        """Whether it failed at the provider, which may still report it as paid later."""
        return self.state is State.FAILED and self.failure in {Failure.DECLINED, Failure.SETTLED}

    @property
    def takes_another_reading(self) -> bool:
        """Whether the next reading ends it, if it says what the last one said: however old it is."""
        return self.error_seen or self.status_is_final

    @property
    def is_due_at_once(self) -> bool:
        """Whether nothing is known about it, and the provider may know."""
        return self.state is State.UNKNOWN and not self.was_read


class Movable(Protocol):
    """The columns of a payment that a step writes."""

    state: str
    status: str | None
    external_id: str | None
    payment_link: str | None
    expire_date: datetime | None
    failure: str | None
    error_code: str | None
    error_message: str | None
    error_seen_at: datetime | None
    id_from_settlement: bool


def move_to(payment: Movable, step: Step) -> bool:
    """Write a step into a payment: the only writer of ``state``. Returns whether the state changed.

    Raises:
        ForbiddenMoveError: for a move that is not in the table.
    """
    before = State(payment.state)
    moved = step.state is not before
    if moved:
        check_move(before, step.state, undoes=step.undoes)
        payment.state = step.state
        payment.failure, payment.error_code, payment.error_message = step.failure, step.code, step.message
    if step.receipt is not None:
        payment.external_id = payment.external_id or step.receipt.external_id
        payment.payment_link = payment.payment_link or step.receipt.payment_link
        payment.expire_date = payment.expire_date or step.receipt.expire_date
    payment.status = step.status or payment.status
    if step.undoes and payment.id_from_settlement:
        # What was read under that id was the status of another payment.
        payment.external_id = payment.status = None
        payment.id_from_settlement = False
    payment.error_seen_at = step.error_seen_at
    return moved
