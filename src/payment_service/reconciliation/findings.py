"""What reconciliation finds, and how our state is compared with the provider's status. Pure.

docs/reconcile.md explains each kind of finding and what to do.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, assert_never
from uuid import UUID

from payment_service.payments.lifecycle import OPEN, State
from payment_service.providers.interface import Meaning, NoSuchPayment, StatusRead


class Kind(StrEnum):
    """What is wrong with a payment or a refund."""

    # The provider and our record disagree.
    PAID_THERE_OPEN_HERE = "paid_there_open_here"
    PAID_THERE_ENDED_HERE = "paid_there_ended_here"
    PAID_HERE_NOT_THERE = "paid_here_not_there"
    ENDED_THERE_OPEN_HERE = "ended_there_open_here"
    OPEN_THERE_ENDED_HERE = "open_there_ended_here"
    OPEN_THERE_UNKNOWN_HERE = "open_there_unknown_here"
    NOT_KNOWN_THERE = "not_known_there"
    UNHEARD_OF_WORD = "unheard_of_word"

    # The provider does not know.
    UNKNOWN_WITHOUT_ID = "unknown_without_id"
    UNKNOWN_REFUND = "unknown_refund"
    AMOUNT_NOT_REPORTED = "amount_not_reported"

    SENDING = "sending"
    """Under way at this moment; listed so that nothing of the period is left out."""
    UNREAD = "unread"
    """The status could not be read, which says nothing about the payment."""


QUESTIONS: Final = frozenset({Kind.UNKNOWN_WITHOUT_ID, Kind.UNKNOWN_REFUND, Kind.AMOUNT_NOT_REPORTED})
"""What only people can answer, in the merchant cabinet."""
DIFFERENCES: Final = frozenset(Kind) - QUESTIONS - {Kind.SENDING, Kind.UNREAD}
"""Where the provider and our record disagree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing found. ``amount`` is in tiyn: the refund's for a refund, else the payment's."""

    kind: Kind
    payment_id: UUID
    refund_id: UUID | None = None
    shop_id: int
    organization_bin: str | None
    source: str
    external_id: str | None
    short_code: str | None
    amount: int | None
    created_at: datetime
    here: str
    """Our state, as it was compared."""
    there: str | None = None
    """The provider's word or code; for an unread payment, why it was not read."""
    became: str | None = None
    """The state that the payment was corrected to; none when it was not."""

    @property
    def differs(self) -> bool:
        """Whether our record and the provider's still disagree."""
        return self.kind in DIFFERENCES and self.became is None


def compare(state: State, reading: StatusRead | NoSuchPayment) -> Kind | None:
    """How the provider's status differs from our state; none when both agree about the money.

    Failed and cancelled are one thing here: nothing was paid.
    """
    if isinstance(reading, NoSuchPayment):
        return Kind.NOT_KNOWN_THERE
    ended_unpaid = state in {State.FAILED, State.CANCELLED}
    match reading.meaning:
        case Meaning.UNHEARD_OF:
            return Kind.UNHEARD_OF_WORD
        case Meaning.PAID:
            if state is State.PAID:
                return None
            return Kind.PAID_THERE_ENDED_HERE if ended_unpaid else Kind.PAID_THERE_OPEN_HERE
        case Meaning.FAILED | Meaning.CANCELLED:
            if ended_unpaid:
                return None
            return Kind.ENDED_THERE_OPEN_HERE if state in OPEN else Kind.PAID_HERE_NOT_THERE
        case Meaning.WAITING:
            if state is State.PENDING:
                return None
            if state is State.PAID:
                return Kind.PAID_HERE_NOT_THERE
            return Kind.OPEN_THERE_ENDED_HERE if ended_unpaid else Kind.OPEN_THERE_UNKNOWN_HERE
        case _:
            assert_never(reading.meaning)
