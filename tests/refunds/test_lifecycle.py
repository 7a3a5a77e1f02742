"""The life of a refund, decided without a database: see the table in refunds/lifecycle.py."""

from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payment_service.payments.lifecycle import Failure, ForbiddenMoveError
from payment_service.providers.interface import (
    Accepted,
    NotSent,
    Outcome,
    RefundReceipt,
    RefusedBy,
    Rejected,
    Unknown,
)
from payment_service.refunds import lifecycle
from payment_service.refunds.lifecycle import MOVES, RefundState, RefundStep, decide, move_to
from tests.payments.test_lifecycle import drawn

TABLE: Final = """
    sending -> succeeded | failed | unknown
    unknown -> succeeded | failed
    failed -> succeeded
"""
"""As docs/architecture.md draws it."""
SENDING, SUCCEEDED, FAILED, UNKNOWN = RefundState


@dataclass
class Row:
    """A refund as far as a step writes it."""

    state: str = SENDING
    failure: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    provider_refund_id: str | None = None


def test_moves_are_those_of_the_design_and_of_the_docstring() -> None:
    assert drawn(TABLE) == set(MOVES) == drawn(lifecycle.__doc__ or "")


@pytest.mark.parametrize("before", RefundState)
@pytest.mark.parametrize("after", RefundState)
def test_move_is_refused_unless_the_table_has_it(before: RefundState, after: RefundState) -> None:
    row = Row(before)
    if (before, after) in MOVES:
        move_to(row, RefundStep(after))
        assert row == Row(after)
    else:
        with pytest.raises(ForbiddenMoveError):
            move_to(row, RefundStep(after))
        assert row == Row(before)


NEXT: Final[list[tuple[Outcome[RefundReceipt], RefundState, Failure | None, str | None]]] = [
    (Accepted(RefundReceipt("15")), SUCCEEDED, None, None),
    (Accepted(RefundReceipt()), SUCCEEDED, None, None),
    (Rejected("-99000005", "no"), FAILED, Failure.REJECTED, "-99000005"),
    (Rejected("http_401", "no", RefusedBy.PROXY), FAILED, Failure.REFUSED, "http_401"),
    (NotSent("connect_failed"), FAILED, Failure.NOT_SENT, "connect_failed"),
    (Unknown("timeout"), UNKNOWN, None, "timeout"),
    (Unknown("provider_error", "-99000006"), UNKNOWN, None, "-99000006"),
]


@pytest.mark.parametrize(("outcome", "after", "failure", "code"), NEXT)
def test_outcome_decides_the_next_state(
    outcome: Outcome[RefundReceipt], after: RefundState, failure: Failure | None, code: str | None
) -> None:
    step = decide(SENDING, outcome)
    assert step
    assert (step.state, step.failure, step.code) == (after, failure, code)


@pytest.mark.parametrize(("outcome", "after", "failure", "code"), NEXT)
def test_late_outcome_settles_an_unknown_refund_unless_it_is_unknown_too(
    outcome: Outcome[RefundReceipt], after: RefundState, failure: Failure | None, code: str | None
) -> None:
    step = decide(UNKNOWN, outcome)
    assert (step and step.state) == (None if after is UNKNOWN else after)


@pytest.mark.parametrize("before", [SUCCEEDED, FAILED])
@pytest.mark.parametrize("outcome", [outcome for outcome, *_ in NEXT])
def test_outcome_teaches_an_ended_refund_nothing_but_that_it_was_made(
    before: RefundState, outcome: Outcome[RefundReceipt]
) -> None:
    step = decide(before, outcome)
    assert (step and step.state) == (SUCCEEDED if before is FAILED and isinstance(outcome, Accepted) else None)


outcomes = st.one_of(
    st.builds(Accepted, st.builds(RefundReceipt, st.none() | st.text())),
    st.builds(Rejected, st.text(), st.text(), st.sampled_from(RefusedBy)),
    st.builds(NotSent, st.text()),
    st.builds(Unknown, st.text(), st.none() | st.text()),
)


@settings(max_examples=100, deadline=None)
@given(first=st.sampled_from(RefundState), happening=st.lists(outcomes, max_size=15))
def test_no_sequence_of_outcomes_leaves_the_table(first: RefundState, happening: list[Outcome[RefundReceipt]]) -> None:
    row = Row(first, failure=Failure.REJECTED if first is FAILED else None)
    for outcome in happening:
        before = RefundState(row.state)
        step = decide(before, outcome)
        if step is None:
            continue
        move_to(row, step)  # raises for a move that is not in the table
        assert (before, row.state) in MOVES
        assert (row.state is FAILED) == (row.failure is not None)
        if isinstance(outcome, Unknown):
            assert row.state is UNKNOWN
