"""What is asked in the model, and the mistakes that must be found when one decision is replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Final

from model.world import DEADLINE, LATE, LEASE, PAYMENTS, REFUNDS, Ask, Decisions, Row, Verb
from payment_service.idempotency import decisions as idempotency
from payment_service.idempotency.decisions import IN_FLIGHT, Earlier, Rules, Verdict
from payment_service.providers.interface import NotSent

PLAIN: Final = Ask("100")
KEYED: Final = Ask("100", key=1)
OTHER_KEY: Final = Ask("100", key=2)
ORDERED: Final = Ask("100", order=True)
ORDERED_WITH_KEY: Final = Ask("100", key=1, order=True)
OTHER_OF_ORDER: Final = Ask("2000", key=2, order=True)
HALF: Final = Ask("half", amount=1)
HALF_WITH_KEY: Final = Ask("half", key=1, amount=1)
HALF_WITH_OTHER_KEY: Final = Ask("half", key=2, amount=1)
FULL: Final = Ask("full")

OF_PAYMENTS: Final = (PLAIN, KEYED, OTHER_KEY, ORDERED, ORDERED_WITH_KEY, OTHER_OF_ORDER)
OF_REFUNDS: Final = (HALF, HALF_WITH_KEY, HALF_WITH_OTHER_KEY, FULL)
SLICE: Final[Sequence[tuple[Verb, tuple[Ask, ...]]]] = (
    (PAYMENTS, (PLAIN, PLAIN)),
    (PAYMENTS, (KEYED, KEYED)),
    (PAYMENTS, (ORDERED, OTHER_OF_ORDER)),
    (REFUNDS, (HALF, HALF)),
    (REFUNDS, (FULL, HALF_WITH_KEY)),
)
"""What ``make test`` explores."""


PAIRS: Final = tuple(
    (verb, asks)
    for verb, kinds in ((PAYMENTS, OF_PAYMENTS), (REFUNDS, OF_REFUNDS))
    for asks in combinations_with_replacement(kinds, 2)
)
MORE: Final[Sequence[tuple[Verb, tuple[Ask, ...]]]] = (
    (PAYMENTS, (PLAIN, PLAIN, PLAIN)),
    (PAYMENTS, (PLAIN, PLAIN, KEYED)),
    (PAYMENTS, (KEYED, KEYED, KEYED)),
    (PAYMENTS, (KEYED, KEYED, OTHER_KEY)),
    (PAYMENTS, (KEYED, KEYED, KEYED, KEYED)),
    (PAYMENTS, (ORDERED, ORDERED, ORDERED)),
    (PAYMENTS, (ORDERED, ORDERED_WITH_KEY, OTHER_OF_ORDER)),
    (REFUNDS, (HALF, HALF, HALF)),
    (REFUNDS, (HALF, HALF, FULL)),
    (REFUNDS, (HALF_WITH_KEY, HALF_WITH_KEY, HALF_WITH_OTHER_KEY)),
)
"""What a third and a fourth ask can add: they meet more than one row."""

Equal = Callable[[Earlier | None, Rules, bool], Verdict]


def _matched_in_the_window(earlier: Earlier | None, rules: Rules, by_key: bool) -> Verdict:
    """As it was once: inside the window, or unknown."""
    if earlier is not None and earlier.state == "sending" and not by_key and earlier.age_s >= rules.duplicate_window_s:
        return Verdict.GO_ON
    return idempotency.verdict_for_equal(earlier, rules, by_key=by_key)


def _unknown_is_forgotten(earlier: Earlier | None, rules: Rules, by_key: bool) -> Verdict:
    if earlier is not None and earlier.state == "unknown" and not by_key and earlier.age_s >= rules.duplicate_window_s:
        return Verdict.GO_ON
    return idempotency.verdict_for_equal(earlier, rules, by_key=by_key)


def _key_is_free_beyond_the_lease(earlier: Earlier | None, rules: Rules, by_key: bool) -> Verdict:
    if earlier is not None and by_key and earlier.state == "sending" and earlier.age_s > rules.sending_lease_s:
        return Verdict.GO_ON
    return idempotency.verdict_for_equal(earlier, rules, by_key=by_key)


def _unknown_answers_any_request(open_one: Earlier | None, rules: Rules, is_equal: bool) -> Verdict:
    """As it was once: an unknown payment was the answer to whatever was asked for its order."""
    is_unknown = open_one is not None and open_one.state == "unknown"
    return idempotency.verdict_for_order(open_one, rules, is_equal=is_equal or is_unknown)


def _order_is_free_once_sent(open_one: Earlier | None, rules: Rules, is_equal: bool) -> Verdict:
    is_lost = open_one is not None and open_one.state in IN_FLIGHT and open_one.age_s > rules.sending_lease_s
    return Verdict.GO_ON if is_lost else idempotency.verdict_for_order(open_one, rules, is_equal=is_equal)


def _stops_at_the_first(stuck: Sequence[bool]) -> list[bool]:
    """A sweep that raises at a row which it cannot take, and at the same row the next time."""
    return [not any(stuck[: number + 1]) for number in range(len(stuck))]


def _window_of_the_row(earlier: Earlier | None, rules: Rules, by_key: bool) -> Verdict:
    """As it was once: a window that begins when the row was written, and may be over before its end is known."""
    if earlier is not None:
        earlier = replace(earlier, known_s=earlier.age_s)
    return idempotency.verdict_for_equal(earlier, rules, by_key=by_key)


def _window_without_end(earlier: Earlier | None, rules: Rules, by_key: bool) -> Verdict:
    """A window that is one tick too long."""
    if earlier is not None:
        earlier = replace(earlier, known_s=earlier.known_s - 1)
    return idempotency.verdict_for_equal(earlier, rules, by_key=by_key)


def _is_first(row: Row) -> bool:
    return not row.rivals and row.ask == PLAIN


SERVICE: Final = Decisions()
NO_WINDOW: Final = replace(SERVICE, rules=Rules(duplicate_window_s=0, sending_lease_s=LEASE))
SHORT_WINDOW: Final = replace(SERVICE, rules=Rules(duplicate_window_s=LEASE - 1, sending_lease_s=LEASE))
LAW: Final = replace(SERVICE, refuses=lambda row, state: _is_first(row) and state != "unknown")
"""A law that the database holds against what came of a row which it let begin."""
LAW_OF_ALL: Final = replace(SERVICE, refuses=lambda row, _state: _is_first(row))
"""A law against every move of such a row."""


@dataclass(frozen=True)
class Mutation:
    """A mistake, and asks under which it shows."""

    decisions: Decisions
    asks: tuple[Ask, ...]
    breaks: str
    """Words of the promise that it breaks."""
    verb: Verb = PAYMENTS


MUTATIONS: Final = {
    "sending does not block beyond the window": Mutation(
        replace(SERVICE, verdict_for_equal=_matched_in_the_window),
        (PLAIN, PLAIN),
        "are one request, and both took effect",
    ),
    "the same of refunds": Mutation(
        replace(SERVICE, verdict_for_equal=_matched_in_the_window), (HALF, HALF), "are one request", REFUNDS
    ),
    "a window shorter than the lease, and sending does not block beyond it": Mutation(
        replace(SHORT_WINDOW, verdict_for_equal=_matched_in_the_window), (PLAIN, PLAIN), "are one request"
    ),
    "an unknown one is forgotten when the window is over": Mutation(
        replace(SERVICE, verdict_for_equal=_unknown_is_forgotten), (PLAIN, PLAIN), "are one request"
    ),
    "a key is free again when its sender was given up": Mutation(
        replace(SERVICE, verdict_for_equal=_key_is_free_beyond_the_lease), (KEYED, KEYED), "are one request"
    ),
    "an unknown payment answers any request for its order": Mutation(
        replace(SERVICE, verdict_for_order=_unknown_answers_any_request),
        (ORDERED, OTHER_OF_ORDER),
        "'2000' is answered with a payment of '100'",
    ),
    "an order is free again when its sender was given up": Mutation(
        replace(SERVICE, verdict_for_order=_order_is_free_once_sent), (ORDERED, OTHER_OF_ORDER), "are one request"
    ),
    "two that look at once both write": Mutation(replace(SERVICE, locks=False), (PLAIN, PLAIN), "are one request"),
    "a lost reply is asked for again": Mutation(replace(SERVICE, retries=True), (PLAIN,), "took effect twice"),
    "a lost reply means that nothing was sent": Mutation(
        replace(SERVICE, of_a_lost_reply=NotSent("timeout")), (PLAIN,), "took effect, and was told as not done"
    ),
    "the sweep calls failed what a dead process left": Mutation(
        replace(SERVICE, of_the_dead=NotSent("sender_died")), (PLAIN,), "is called failed, and it took effect"
    ),
    "a person may call failed what may still take effect": Mutation(
        replace(SERVICE, may_be_called_failed=lambda _age: True), (PLAIN,), "told as not done"
    ),
    "a process that stood still sends all the same": Mutation(
        replace(SERVICE, may_begin=lambda _age: True, may_leave=lambda *_ages: True), (PLAIN,), "told as not done"
    ),
    "a process that stood still in its call sends all the same": Mutation(
        replace(SERVICE, may_leave=lambda *_ages: True), (PLAIN,), "told as not done"
    ),
    "a call may begin until its lease is over, and only its own deadline cuts it off": Mutation(
        replace(SERVICE, may_begin=lambda age: age <= LEASE, may_leave=lambda _age, call_age: call_age <= DEADLINE),
        (PLAIN,),
        "told as not done",
    ),
    "a person may call failed what may still take effect for one tick": Mutation(
        replace(SERVICE, may_be_called_failed=lambda age: age >= LATE - 1), (PLAIN,), "told as not done"
    ),
    "a person settles by what was seen before the time had come": Mutation(
        replace(SERVICE, trusts_old_looks=True), (PLAIN,), "is called failed, and it took effect"
    ),
    "an intent whose COMMIT was unheard is sent if it is there": Mutation(
        replace(SERVICE, unheard_is_written=True), (PLAIN,), "told as not done"
    ),
    "a reply to another request is taken for our own": Mutation(
        replace(SERVICE, trusts_any_reply=True), (PLAIN,), "is called pending, and it took no effect"
    ),
    "the window begins when the row was written": Mutation(
        replace(SERVICE, verdict_for_equal=_window_of_the_row), (PLAIN, PLAIN), "are one request, and both took effect"
    ),
    "the window is longer than it is said to be": Mutation(
        replace(SERVICE, verdict_for_equal=_window_without_end),
        (PLAIN, PLAIN),
        "is a new request, and is answered with row 0",
    ),
    "a law is first met after the effect": Mutation(
        replace(LAW, falls_back=False), (PLAIN,), "came and cannot be written"
    ),
    "a sweep stops at a row that it cannot take": Mutation(
        replace(LAW_OF_ALL, swept=_stops_at_the_first), (PLAIN, Ask("200")), "the sweep never comes to row"
    ),
    "nobody is told of a row that no sweep can take": Mutation(
        replace(LAW_OF_ALL, lists_sending=False), (PLAIN,), "nobody is told"
    ),
    "what is under way is not kept back from the next refund": Mutation(
        replace(SERVICE, left=lambda paid, refunded, _reserved: paid - refunded),
        (FULL, HALF_WITH_KEY),
        "more was paid back than was paid",
        REFUNDS,
    ),
}
"""Each breaks a promise, and the exploration must find it."""

HARMLESS: Final = {
    "a key is free as soon as it was told that nothing was sent": (
        replace(SERVICE, unheard_frees_key=True),
        (KEYED, KEYED),
    ),
}
"""What looks like a mistake and breaks no promise by itself: an intent that was given up is never sent."""
