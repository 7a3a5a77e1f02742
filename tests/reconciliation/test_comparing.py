"""Every state of ours against everything that the provider can say."""

import pytest

from payment_service.payments.lifecycle import State
from payment_service.providers.interface import Meaning, NoSuchPayment, StatusRead
from payment_service.reconciliation.findings import DIFFERENCES, QUESTIONS, Kind, compare

AGREE = None
TABLE = {
    State.SENDING: ("open_there_unknown_here", "paid_there_open_here", "ended_there_open_here"),
    State.UNKNOWN: ("open_there_unknown_here", "paid_there_open_here", "ended_there_open_here"),
    State.PENDING: (AGREE, "paid_there_open_here", "ended_there_open_here"),
    State.PAID: ("paid_here_not_there", AGREE, "paid_here_not_there"),
    State.FAILED: ("open_there_ended_here", "paid_there_ended_here", AGREE),
    State.CANCELLED: ("open_there_ended_here", "paid_there_ended_here", AGREE),
}


@pytest.mark.parametrize("state", State)
def test_state_is_compared_with_every_meaning(state: State) -> None:
    waiting, paid, ended = TABLE[state]
    expected = {
        Meaning.WAITING: waiting,
        Meaning.PAID: paid,
        Meaning.FAILED: ended,
        Meaning.CANCELLED: ended,
        Meaning.UNHEARD_OF: "unheard_of_word",
    }
    assert {meaning: compare(state, StatusRead("word", meaning)) for meaning in Meaning} == expected


@pytest.mark.parametrize("state", State)
def test_payment_that_the_provider_does_not_know_always_differs(state: State) -> None:
    assert compare(state, NoSuchPayment("-1601", "")) is Kind.NOT_KNOWN_THERE


def test_neither_unread_nor_sending_nor_a_question_is_a_difference() -> None:
    assert DIFFERENCES & (QUESTIONS | {Kind.UNREAD, Kind.SENDING}) == set()
