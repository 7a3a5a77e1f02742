"""The life of a payment, decided without a database: see payments/lifecycle.py and docs/kaspi-api.md section 3."""

import itertools
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payment_service.payments import lifecycle
from payment_service.payments.following import FollowPlan
from payment_service.payments.lifecycle import (
    MOVES,
    OPEN,
    UNDOING,
    Failure,
    FollowState,
    ForbiddenMoveError,
    State,
    Step,
    check_move,
    decide,
    decide_reading,
    move_to,
    undo_settlement,
)
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

TABLE: Final = """
    sending -> pending | failed | unknown
    pending -> paid | failed | cancelled
    unknown -> pending | paid | failed
    failed  -> pending | paid
"""
"""As docs/architecture.md draws it."""
NOON: Final = datetime(2025, 10, 22, 12, tzinfo=UTC)
CONFIRM: Final = timedelta(seconds=30)
RECEIPT: Final = PaymentReceipt("12800627774", "Wait")
ENDS: Final = [state for state in State if state not in OPEN]


def drawn(table: str) -> set[tuple[str, str]]:
    lines = re.findall(r"^ +(\w+) +-> ([\w|]+(?: \| \w+)*)", table, re.MULTILINE)
    return {(before, after) for before, afters in lines for after in re.findall(r"\w+", afters)}


@dataclass
class Row:
    """A payment as far as a step writes it."""

    state: str = State.SENDING
    status: str | None = None
    external_id: str | None = None
    payment_link: str | None = None
    expire_date: datetime | None = None
    failure: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    error_seen_at: datetime | None = None
    id_from_settlement: bool = False


def read(before: State, meaning: Meaning, *, first_error_s: float | None = None, status: str = "TheWord") -> Step:
    """What a reading at noon makes of a payment whose first Error was seen this long before."""
    seen_at = None if first_error_s is None else NOON - timedelta(seconds=first_error_s)
    reading = StatusRead(status, meaning)
    return decide_reading(before, reading, error_seen_at=seen_at, asked_at=NOON, now=NOON, confirm_after=CONFIRM)


def test_moves_are_those_of_the_design_and_of_the_docstring() -> None:
    assert drawn(TABLE) == set(MOVES) == drawn(lifecycle.__doc__ or "")


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_move_is_refused_unless_the_table_has_it(before: State, after: State) -> None:
    row = Row(before)
    if (before, after) in MOVES:
        check_move(before, after)
        assert move_to(row, Step(after))
        assert row.state == after
    else:
        with pytest.raises(ForbiddenMoveError):
            check_move(before, after)
        if before is not after:
            with pytest.raises(ForbiddenMoveError):
                move_to(row, Step(after))
            assert row == Row(before)


@pytest.mark.parametrize("before", State)
def test_settlement_is_undone_to_unknown_from_wherever_it_may_have_led(before: State) -> None:
    row = Row(before, "Processed", "12800627774", failure="settled")
    if before in {State.SENDING, State.UNKNOWN}:
        assert (before, State.UNKNOWN) not in UNDOING
        return
    assert move_to(row, undo_settlement())
    assert (row.state, row.failure, row.error_code) == (State.UNKNOWN, None, "settlement_undone")
    assert (row.external_id, row.status) == ("12800627774", "Processed")


def test_id_that_a_settlement_named_goes_with_it_and_with_what_was_said_of_it() -> None:
    row = Row(State.PAID, "Processed", "12800627774", id_from_settlement=True)
    move_to(row, undo_settlement())
    assert (row.external_id, row.status, row.id_from_settlement) == (None, None, False)


# --- outcomes

NEXT: Final[list[tuple[Outcome[PaymentReceipt], State, Failure | None, str | None]]] = [
    (Accepted(RECEIPT), State.PENDING, None, None),
    (Rejected("-1502", "no"), State.FAILED, Failure.REJECTED, "-1502"),
    (Rejected("http_401", "no", RefusedBy.PROXY), State.FAILED, Failure.REFUSED, "http_401"),
    (NotSent("connect_failed"), State.FAILED, Failure.NOT_SENT, "connect_failed"),
    (Unknown("timeout"), State.UNKNOWN, None, "timeout"),
    (Unknown("provider_error", "-999"), State.UNKNOWN, None, "-999"),
]


@pytest.mark.parametrize("before", [State.SENDING, State.UNKNOWN])
@pytest.mark.parametrize(("outcome", "after", "failure", "code"), NEXT)
def test_outcome_decides_the_next_state(
    before: State, outcome: Outcome[PaymentReceipt], after: State, failure: Failure | None, code: str | None
) -> None:
    step = decide(before, outcome)
    assert step is not None
    assert (step.state, step.failure, step.code) == (after, failure, code)


@pytest.mark.parametrize("before", [State.PENDING, State.PAID, State.FAILED, State.CANCELLED])
@pytest.mark.parametrize("outcome", [outcome for outcome, *_ in NEXT])
def test_outcome_of_a_call_teaches_a_settled_payment_nothing(before: State, outcome: Outcome[PaymentReceipt]) -> None:
    assert decide(before, outcome) is None


def test_unknown_payment_keeps_the_id_that_its_reply_named() -> None:
    row = Row()
    step = decide(State.SENDING, Unknown("no_usable_link", external_id="12800627774"))
    assert step
    move_to(row, step)
    assert (row.state, row.external_id) == (State.UNKNOWN, "12800627774")


def test_second_receipt_never_replaces_the_first() -> None:
    row = Row(State.UNKNOWN, external_id="1", payment_link="https://one", expire_date=NOON)
    move_to(row, Step(State.PENDING, receipt=PaymentReceipt("2", "Wait", "https://two", NOON + CONFIRM)))
    assert (row.external_id, row.payment_link, row.expire_date) == ("1", "https://one", NOON)


# --- readings

AFTER_READING: Final = {
    #                    waiting / unheard of  paid           failed, 2nd time  cancelled
    State.SENDING: (State.SENDING, State.SENDING, State.SENDING, State.SENDING),
    State.PENDING: (State.PENDING, State.PAID, State.FAILED, State.CANCELLED),
    State.UNKNOWN: (State.PENDING, State.PAID, State.FAILED, State.PENDING),
    State.FAILED: (State.FAILED, State.PAID, State.FAILED, State.FAILED),
    State.PAID: (State.PAID, State.PAID, State.PAID, State.PAID),
    State.CANCELLED: (State.CANCELLED, State.CANCELLED, State.CANCELLED, State.CANCELLED),
}


@pytest.mark.parametrize("before", State)
def test_reading_decides_the_next_state(before: State) -> None:
    waiting, paid, failed, cancelled = AFTER_READING[before]
    assert read(before, Meaning.WAITING).state is waiting
    assert read(before, Meaning.UNHEARD_OF).state is waiting
    assert read(before, Meaning.PAID).state is paid
    assert read(before, Meaning.FAILED, first_error_s=30).state is failed
    assert read(before, Meaning.CANCELLED).state is cancelled


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("meaning", Meaning)
def test_reading_keeps_the_providers_word_unless_it_contradicts_a_state_that_has_ended(
    before: State, meaning: Meaning
) -> None:
    step = read(before, meaning)
    unpaid = before in {State.FAILED, State.CANCELLED} and meaning in {Meaning.FAILED, Meaning.CANCELLED}
    agrees = before in OPEN or step.state is not before or unpaid or (before, meaning) == (State.PAID, Meaning.PAID)
    assert step.status == ("TheWord" if agrees else None)


@pytest.mark.parametrize("before", [State.PENDING, State.UNKNOWN])
def test_first_error_is_noted_and_not_believed(before: State) -> None:
    assert read(before, Meaning.FAILED) == Step(before, status="TheWord", error_seen_at=NOON)


def test_error_that_a_clock_which_was_ahead_dated_is_noted_anew() -> None:
    step = read(State.PENDING, Meaning.FAILED, first_error_s=-86400)
    assert (step.state, step.error_seen_at) == (State.PENDING, NOON)


@pytest.mark.parametrize("before", [State.PENDING, State.UNKNOWN])
@pytest.mark.parametrize("after_s", [0, 1, 29.999])
def test_error_read_again_too_soon_is_not_believed_and_counts_from_the_first(before: State, after_s: float) -> None:
    step = read(before, Meaning.FAILED, first_error_s=after_s)
    assert (step.state, step.error_seen_at) == (before, NOON - timedelta(seconds=after_s))


@pytest.mark.parametrize("before", [State.PENDING, State.UNKNOWN])
@pytest.mark.parametrize("after_s", [30, 31, 86400])
def test_error_read_again_after_30_seconds_is_believed(before: State, after_s: float) -> None:
    step = read(before, Meaning.FAILED, first_error_s=after_s, status="Error")
    assert (step.state, step.failure, step.code) == (State.FAILED, Failure.DECLINED, "Error")


@pytest.mark.parametrize("between", [Meaning.WAITING, Meaning.UNHEARD_OF])
def test_error_wait_error_counts_from_the_second_error(between: Meaning) -> None:
    row = Row(State.PENDING, external_id="1")
    seen = []
    for at_s, meaning in [(0, Meaning.FAILED), (15, between), (45, Meaning.FAILED), (74, Meaning.FAILED)]:
        reading = StatusRead("Word", meaning)
        now = NOON + timedelta(seconds=at_s)
        move_to(
            row,
            decide_reading(
                State(row.state),
                reading,
                error_seen_at=row.error_seen_at,
                asked_at=now,
                now=now,
                confirm_after=CONFIRM,
            ),
        )
        seen.append(row.error_seen_at and (row.error_seen_at - NOON).total_seconds())
    assert (row.state, seen) == (State.PENDING, [0, None, 45, 45])


def test_late_success_wins_and_clears_the_failure() -> None:
    row = Row(State.FAILED, "Error", "1", failure=Failure.DECLINED, error_code="Error", error_message="It failed.")
    row.error_seen_at = NOON
    assert move_to(row, read(State.FAILED, Meaning.PAID, status="Processed"))
    assert row == Row(State.PAID, "Processed", "1")


# --- any life

outcomes = st.one_of(
    st.builds(Accepted, st.builds(PaymentReceipt, st.text("0123456789", min_size=1), st.none() | st.text())),
    st.builds(Rejected, st.text(), st.text(), st.sampled_from(RefusedBy)),
    st.builds(NotSent, st.text()),
    st.builds(Unknown, st.text(), st.none() | st.text(), st.none() | st.text("0123456789", min_size=1)),
)
readings = st.tuples(st.sampled_from(Meaning), st.floats(0, 100))
events = st.lists(outcomes | readings, max_size=25)


@settings(max_examples=60, deadline=None)
@given(first=st.sampled_from(State), events=events)
def test_no_sequence_of_outcomes_and_readings_leaves_the_table(
    first: State, events: list[Outcome[PaymentReceipt] | tuple[Meaning, float]]
) -> None:
    row = Row(first, failure=Failure.DECLINED if first is State.FAILED else None)
    now = NOON
    for event in events:
        before, external_id = State(row.state), row.external_id
        step: Step | None
        if isinstance(event, tuple):
            now += timedelta(seconds=event[1])
            reading = StatusRead("Word", event[0])
            seen_at = row.error_seen_at
            step = decide_reading(before, reading, error_seen_at=seen_at, asked_at=now, now=now, confirm_after=CONFIRM)
        else:
            step = decide(before, event)
        if step is None:
            continue
        moved = move_to(row, step)  # raises for a move that is not in the table
        assert moved == ((before, row.state) in MOVES)
        if before in {State.PAID, State.CANCELLED}:
            assert row.state is before
        if isinstance(event, Unknown):
            assert row.state in {before, State.UNKNOWN}
        if row.state is State.FAILED and isinstance(event, tuple) and moved:
            assert event[0] is Meaning.FAILED
        assert (row.state is State.FAILED) == (row.failure is not None)
        assert external_id in {None, row.external_id}


# --- following


def schedule(plan: FollowPlan, state: State = State.PENDING, failure: Failure | None = None) -> list[float]:
    """The ages at which a payment that stays as it is is read."""
    ages: list[float] = []
    age = 0.0
    while True:
        now = FollowState(state=state, failure=failure, age_s=age, in_state_s=age, was_read=bool(ages))
        if (delay := plan.next_check(now)) is None:
            return ages
        age += delay
        ages.append(age)


def test_open_payment_is_read_every_15_s_for_10_minutes_then_every_3_minutes_for_a_day() -> None:
    ages = schedule(FollowPlan())
    gaps = [after - before for before, after in zip([0.0, *ages], ages, strict=False)]
    fast = sum(1 for age in ages if age < 600 + 15)
    assert gaps[0] == 5
    assert gaps[1:fast] == [15] * 40
    assert set(gaps[fast:]) == {180}
    assert 86400 < ages[-1] <= 86400 + 180


def test_unknown_payment_with_an_id_is_read_at_once() -> None:
    assert schedule(FollowPlan(), State.UNKNOWN)[:2] == [0, 5]


@pytest.mark.parametrize("failure", [Failure.DECLINED, Failure.SETTLED])
def test_failed_payment_is_looked_at_again_after_an_hour_and_a_day(failure: Failure) -> None:
    assert schedule(FollowPlan(), State.FAILED, failure) == [3600, 86400]


@pytest.mark.parametrize("failure", [Failure.NOT_SENT, Failure.REFUSED, Failure.REJECTED])
def test_payment_that_never_was_at_the_provider_is_not_looked_at_again(failure: Failure) -> None:
    assert schedule(FollowPlan(), State.FAILED, failure) == []


@pytest.mark.parametrize("state", [State.PAID, State.CANCELLED])
def test_ended_payment_is_followed_no_longer(state: State) -> None:
    for error_seen, unread in itertools.product((False, True), (0, 1)):
        now = FollowState(state=state, age_s=1, error_seen=error_seen, status_is_final=True, unread=unread)
        assert FollowPlan().next_check(now) is None


@pytest.mark.parametrize("state", sorted(OPEN))
def test_error_that_was_seen_is_read_again_when_it_may_be_believed(state: State) -> None:
    for age_s in (1, 700, 86400):
        assert FollowPlan().next_check(FollowState(state=state, age_s=age_s, error_seen=True)) == 30


def test_final_word_is_read_soon_and_never_without_a_pause() -> None:
    for age_s in (0, 700, 86400):
        delay_s = FollowPlan().next_check(FollowState(state=State.PENDING, age_s=age_s, status_is_final=True))
        assert delay_s == FollowPlan().first_s > 0


def test_pause_doubles_with_every_reading_that_told_nothing_up_to_the_slow_pace() -> None:
    assert [FollowPlan().pause(unread) for unread in (1, 2, 3, 4, 5, 6, 7, 1000)] == [5, 10, 20, 40, 80, 160, 180, 180]


A_DAY_OF_TRIES = 86400 // 180


def test_reading_that_is_due_and_told_nothing_is_tried_for_a_day_beyond_the_plan() -> None:
    for state, failure in ((State.PENDING, None), (State.FAILED, Failure.DECLINED)):
        for age_s, delay_s in ((86400 + 1, 180), (2 * 86400, 180), (2 * 86400 + 1, None)):
            now = FollowState(state=state, failure=failure, age_s=age_s, in_state_s=age_s, unread=A_DAY_OF_TRIES + 1)
            assert FollowPlan().next_check(now) == delay_s


def test_reading_that_told_nothing_is_tried_for_a_day_also_after_years_without_a_worker() -> None:
    for state, failure in ((State.PENDING, None), (State.UNKNOWN, None), (State.FAILED, Failure.DECLINED)):
        for unread, delay_s in ((1, 5), (A_DAY_OF_TRIES, 180), (A_DAY_OF_TRIES + 1, None)):
            now = FollowState(state=state, failure=failure, age_s=10**8, in_state_s=10**8, unread=unread)
            assert FollowPlan().next_check(now) == delay_s


@pytest.mark.parametrize("state", sorted(OPEN))
def test_word_that_takes_a_second_reading_gets_it_however_old_the_payment_is(state: State) -> None:
    assert FollowPlan().next_check(FollowState(state=state, age_s=10**8, in_state_s=10**8, error_seen=True)) == 30
    assert FollowPlan().next_check(FollowState(state=state, age_s=10**8, in_state_s=10**8, status_is_final=True)) == 5


@settings(deadline=None)
@given(
    state=st.sampled_from(sorted(OPEN)),
    age_s=st.floats(0, 10**6),
    error_seen=st.booleans(),
    final=st.booleans(),
    unread=st.integers(0, 10**6),
)
def test_follower_always_pauses_and_always_ends(
    state: State, age_s: float, error_seen: bool, final: bool, unread: int
) -> None:
    now = FollowState(
        state=state, age_s=age_s, in_state_s=age_s, error_seen=error_seen, status_is_final=final, unread=unread
    )
    delay_s = FollowPlan().next_check(now)
    if unread:
        assert (delay_s is None) == (age_s > 2 * 86400 and unread > A_DAY_OF_TRIES)
    else:
        # An error that is read again ends the payment, or was none.
        assert (delay_s is None) == (age_s > 86400 and not error_seen and not final)
    assert delay_s is None or 5 <= delay_s <= 180
