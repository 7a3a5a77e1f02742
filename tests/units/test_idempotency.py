"""What an earlier request means for a new one: the decisions alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment_service.idempotency import decisions as idempotency
from payment_service.idempotency.decisions import (
    IN_FLIGHT,
    Earlier,
    Rules,
    Verdict,
    decisive,
    verdict_for_equal,
    verdict_for_order,
)
from payment_service.payments.lifecycle import Failure, State
from payment_service.refunds.lifecycle import RefundState

RULES = Rules(duplicate_window_s=60, sending_lease_s=30)
NO_WINDOW = Rules(duplicate_window_s=0, sending_lease_s=30)
states = st.sampled_from([*State, *RefundState]).map(str)
ages = st.floats(min_value=-1, max_value=1e6)
earlier_ones = st.builds(Earlier, states, st.sampled_from([None, *Failure]).map(lambda f: f and str(f)), ages, ages)


@pytest.mark.parametrize("rules", [RULES, NO_WINDOW])
@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize(
    ("state", "age_s", "verdict"),
    [
        ("sending", 0, Verdict.STILL_RUNNING),
        ("sending", 30, Verdict.STILL_RUNNING),
        ("sending", 31, Verdict.ANSWER),
        ("sending", 1e9, Verdict.ANSWER),
        ("unknown", 0, Verdict.ANSWER),
        ("unknown", 1e9, Verdict.ANSWER),
    ],
)
def test_what_may_have_left_blocks_its_like_whatever_its_age(
    rules: Rules, by_key: bool, state: str, age_s: float, verdict: Verdict
) -> None:
    assert verdict_for_equal(Earlier(state, None, age_s, age_s), rules, by_key=by_key) is verdict


@pytest.mark.parametrize("state", ["pending", "paid", "failed", "cancelled", "succeeded"])
def test_what_ended_is_the_answer_within_the_window_and_to_its_key_for_good(state: str) -> None:
    failure = "rejected" if state == "failed" else None
    assert verdict_for_equal(Earlier(state, failure, 59, 59), RULES, by_key=False) is Verdict.ANSWER
    assert verdict_for_equal(Earlier(state, failure, 60, 60), RULES, by_key=False) is Verdict.GO_ON
    assert verdict_for_equal(Earlier(state, failure, 0, 0), NO_WINDOW, by_key=False) is Verdict.GO_ON
    assert verdict_for_equal(Earlier(state, failure, 1e9, 1e9), RULES, by_key=True) is Verdict.ANSWER


def test_window_begins_when_the_end_became_known() -> None:
    assert verdict_for_equal(Earlier("pending", None, 3600, 59), RULES, by_key=False) is Verdict.ANSWER
    assert verdict_for_equal(Earlier("pending", None, 3600, 60), RULES, by_key=False) is Verdict.GO_ON


@pytest.mark.parametrize("by_key", [True, False])
def test_what_never_left_may_be_asked_for_again(by_key: bool) -> None:
    assert verdict_for_equal(Earlier("failed", "not_sent", 0, 0), RULES, by_key=by_key) is Verdict.GO_ON
    assert verdict_for_equal(None, RULES, by_key=by_key) is Verdict.GO_ON


@given(earlier=earlier_ones)
def test_open_order_lets_no_other_request_go_on(earlier: Earlier) -> None:
    assert verdict_for_order(earlier, RULES, is_equal=False) is Verdict.ORDER_OPEN
    assert verdict_for_order(earlier, RULES, is_equal=True) is verdict_for_equal(earlier, RULES, by_key=True)
    assert verdict_for_order(None, RULES, is_equal=False) is Verdict.GO_ON


@given(candidates=st.lists(earlier_ones, max_size=5))
def test_one_whose_end_is_not_known_counts_before_all_others(candidates: list[Earlier]) -> None:
    chosen = decisive(candidates)
    in_flight = [one for one in candidates if one.state in IN_FLIGHT and one.failure != "not_sent"]
    if in_flight:
        assert chosen in in_flight
        assert verdict_for_equal(chosen, NO_WINDOW, by_key=False) is not Verdict.GO_ON
    elif chosen is not None:
        assert chosen.known_s == min(one.known_s for one in candidates if one.failure != "not_sent")


def test_words_are_those_of_the_states() -> None:
    assert {State.SENDING, State.UNKNOWN} == IN_FLIGHT == {RefundState.SENDING, RefundState.UNKNOWN}
    assert Failure(idempotency.NOT_SENT) is Failure.NOT_SENT
