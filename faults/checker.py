"""The laws of the rig: what must hold between what clients were told, what the database holds and what was applied.

Pure, and on purpose ignorant of the service's code: the moves below are written down a second time. A violation is a
line ``law: what contradicts what``; the names of the laws are the names of the functions in ``LAWS``.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from faults.books import PaymentRow, Records
from faults.clients import Asked, Told

PAYMENT_MOVES: Final = {
    "sending": {"pending", "failed", "unknown"},
    "pending": {"paid", "failed", "cancelled"},
    "unknown": {"pending", "paid", "failed"},
    "failed": {"pending", "paid"},
    "paid": set(),
    "cancelled": set(),
}
REFUND_MOVES: Final = {
    "sending": {"succeeded", "failed", "unknown"},
    "unknown": {"succeeded", "failed"},
    "succeeded": set(),
    "failed": set(),
}
NOT_MADE: Final = frozenset({"not_sent", "refused", "rejected"})
"""Failures that say that the provider made nothing. Declined and settled payments may exist there."""
NO_ANSWER_YET: Final = "still_running"
BUSY: Final = "database_unavailable"
_FULL_PHONE: Final = re.compile(r"(?<![0-9A-Za-z])\+?[78]7\d{9}(?![0-9A-Za-z])")
_UPSTREAM_QUERY: Final = re.compile(r"(?i)access_token=(?!\[hidden\])|devicetoken=|organizationbin=")

Found = Iterator[str]


def applied_has_its_row(books: Records, **_allowed: bool) -> Found:
    """Every call that took effect belongs to a payment, or to a refund of one."""
    codes = {payment.short_code for payment in books.payments}
    by_external_id = _by_external_id(books)
    for call in books.applied:
        if call.op == "refund":
            if call.external_id not in by_external_id:
                yield f"a refund of {call.external_id} was applied, and no payment has that id"
        elif call.short_code not in codes:
            yield f"{call.op} {call.external_id} ({call.message}) was applied, and no payment has its code"


def written_before_sent(books: Records, **_allowed: bool) -> Found:
    """When a money call arrives, its row is committed and says that it is being sent."""
    for arrival in books.arrivals:
        if not arrival.looked:
            continue
        what = f"{arrival.op} #{arrival.short_code}" if arrival.short_code else f"refund of {arrival.external_id}"
        if arrival.state is None:
            yield f"{what} for {arrival.amount} arrived before its row was committed"
        elif arrival.state not in {"sending", "unknown"}:
            yield f"{what} for {arrival.amount} arrived when its row was {arrival.state}"


def applied_once(books: Records, **_allowed: bool) -> Found:
    """At most one call took effect for a payment, for a request, for a refund, and for an order that is not over."""
    creates = [call for call in books.applied if call.op != "refund"]
    for code, times in Counter(call.short_code for call in creates).items():
        if times > 1:
            yield f"payment #{code} was applied {times} times"
    # A word is one request: one key, or one client without a key. Asked again, it may send only if nothing was made.
    for word, times in Counter(call.word for call in creates).items():
        if times > 1:
            yield f"the request '{word}' was applied {times} times"
    applied = Counter((call.external_id, call.amount) for call in books.applied if call.op == "refund")
    made = _refunds_by_call(books, {"sending", "unknown", "succeeded"})
    for (external_id, amount), times in applied.items():
        if times > (may := made[external_id, amount]):
            yield f"a refund of {external_id} for {amount} was applied {times} times, and {may} may have been"
    yield from _refunded_more_often_than_asked(books)
    yield from _orders_paid_twice(books)


def _refunded_more_often_than_asked(books: Records) -> Found:
    """Whoever asks again with the same key, or the same without a key, means one refund."""
    asked: defaultdict[str | None, set[Asked]] = defaultdict(set)
    for told in books.told:
        if told.asked.op == "refund":
            asked[told.asked.external_id].add(told.asked)
    applied = Counter(call.external_id for call in books.applied if call.op == "refund")
    for external_id, wishes in asked.items():
        if (times := applied[external_id]) > len(wishes):
            yield f"{len(wishes)} refunds of {external_id} were asked for, and {times} were applied"


def _orders_paid_twice(books: Records) -> Found:
    codes = Counter(call.short_code for call in books.applied if call.op != "refund")
    orders: defaultdict[tuple[int, str], list[PaymentRow]] = defaultdict(list)
    for payment in books.payments:
        if payment.order_id and payment.short_code and codes[payment.short_code]:
            orders[payment.shop_id, payment.order_id].append(payment)
    for (shop_id, order_id), payments in orders.items():
        alive = [payment for payment in payments if payment.state not in {"failed", "cancelled"}]
        if len(alive) > 1:
            yield f"order {order_id} of shop {shop_id} has {len(alive)} payments that were applied"


def sent_to_the_pinned_account(books: Records, **_allowed: bool) -> Found:
    """BIN and device token of every call are those that its payment is pinned to; so are amount and kind."""
    by_code = {payment.short_code: payment for payment in books.payments if payment.short_code}
    by_external_id = _by_external_id(books)
    for call in books.calls:
        what = f"{call.op} {call.external_id or call.message}"
        if call.default_merchant_used:
            yield f"{what} went to the proxy's own merchant"
        payment = by_external_id.get(call.external_id) if call.op == "refund" else by_code.get(call.short_code)
        if payment is None:
            continue  # told by applied_has_its_row
        if call.organization_bin != payment.organization_bin:
            yield f"{what} went to BIN {call.organization_bin}, not {payment.organization_bin}"
        if call.token_sha256 != payment.token_sha256:
            yield f"{what} went with another device token than the payment's"
        if call.op != "refund":
            if call.amount != payment.amount:
                yield f"{what} was for {call.amount} tiyn, the payment is for {payment.amount}"
            if call.op != {"phone": "create", "link": "create-link"}[payment.method or ""]:
                yield f"{what} was sent for a payment by {payment.method}"


def external_id_is_its_own(books: Records, **_allowed: bool) -> Found:
    """The id that a payment has is the id that the provider gave to that payment."""
    given = {call.short_code: call.external_id for call in books.applied if call.op != "refund"}
    for payment in books.payments:
        if payment.source != "service" or payment.external_id is None:
            continue
        if (mine := given.get(payment.short_code or "")) != payment.external_id:
            yield f"payment {payment.id} has external_id {payment.external_id}; the provider gave it {mine}"


def state_is_true(books: Records, **_allowed: bool) -> Found:
    """What the database says was made was made, and what it says was not made was not."""
    codes = Counter(call.short_code for call in books.applied if call.op != "refund")
    for payment in books.payments:
        if payment.source != "service":
            continue
        made = codes[payment.short_code or ""]
        if payment.state == "failed" and payment.failure in NOT_MADE and made:
            yield f"payment {payment.id} is failed ({payment.failure}), and it was applied"
        exists = payment.state in {"pending", "paid", "cancelled"} or payment.failure == "declined"
        if exists and not made:
            yield f"payment {payment.id} is {payment.state}, and it was never applied"
    applied = Counter((call.external_id, call.amount) for call in books.applied if call.op == "refund")
    for (external_id, amount), succeeded in _refunds_by_call(books, {"succeeded"}).items():
        if succeeded > (times := applied[external_id, amount]):
            yield f"{succeeded} refunds of {external_id} for {amount} succeeded, and {times} were applied"


def refunds_within_the_payment(books: Records, **_allowed: bool) -> Found:
    """No refund is asked for that is more than what is left, and the payment's own sums are those of its refunds."""
    by_external_id = _by_external_id(books)
    paid_back: Counter[str] = Counter()
    for call in books.calls:
        if call.op != "refund" or (payment := by_external_id.get(call.external_id)) is None:
            continue
        left = (payment.amount or 0) - paid_back[call.external_id or ""]
        if call.amount > left:
            yield f"a refund of {call.amount} tiyn was sent for payment {payment.id}, of which {left} were left"
        if call.applied:
            paid_back[call.external_id or ""] += call.amount
    sums: Counter[tuple[object, str]] = Counter()
    for refund in books.refunds:
        sums[refund.payment_id, refund.state] += refund.amount
    for payment in books.payments:
        done, held = sums[payment.id, "succeeded"], sums[payment.id, "sending"] + sums[payment.id, "unknown"]
        if (payment.refunded_amount, payment.reserved_amount) != (done, held):
            yield (
                f"payment {payment.id} says that {payment.refunded_amount} were refunded and {payment.reserved_amount} "
                f"are reserved, its refunds say {done} and {held}"
            )


def error_is_read_twice(books: Records, **_allowed: bool) -> Found:
    """A payment is declined only after the provider was asked twice, far enough apart."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for reading in books.readings:
        times[reading.external_id].append(reading.time)
    for payment in books.payments:
        if payment.source == "service" and payment.failure == "declined":
            asked = times[payment.external_id or ""] or [0]
            # The service takes its times a little later than the provider is asked.
            if max(asked) - min(asked) < 0.8 * books.confirm_s:
                yield f"payment {payment.id} is declined, and the provider was asked {len(asked)} times"


def told_success_was_done(books: Records, **_allowed: bool) -> Found:
    """Who was told 200 has exactly that payment or refund, applied exactly once, of the shop and amount asked for."""
    payments = {str(payment.id): payment for payment in books.payments}
    refunds = {str(refund.id): refund for refund in books.refunds}
    creates = Counter((call.external_id, call.short_code) for call in books.applied if call.op != "refund")
    paid_back = Counter((call.external_id, call.amount) for call in books.applied if call.op == "refund")
    told_refunds: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for told in books.told:
        if told.status != 200 or told.asked.op == "status":
            continue
        body, asked = told.body, told.asked
        payment = payments.get(str(body.get("id")))
        if payment is None:
            yield f"{who(told)} was told of payment {body.get('id')}, which is not in the database"
            continue
        external_id = str(body.get("external_id"))
        if payment.external_id != external_id:
            yield f"{who(told)} was told external_id {external_id}, the payment has {payment.external_id}"
        if (payment.shop_id, payment.organization_bin) != (asked.shop_id, body.get("organization_bin")):
            yield f"{who(told)} was told of shop {payment.shop_id}, BIN {body.get('organization_bin')}"
        if asked.op == "refund":
            refund = refunds.get(str(body.get("refund_id")))
            if refund is None or refund.state != "succeeded" or asked.amount not in {None, refund.amount}:
                yield f"{who(told)} was told 200 for refund {body.get('refund_id')}, which is {refund}"
                continue
            told_refunds[external_id, refund.amount].add(str(refund.id))
        else:
            if payment.amount != asked.amount:
                yield f"{who(told)} asked for {asked.amount} tiyn and got a payment of {payment.amount}"
            if (times := creates[external_id, payment.short_code or ""]) != 1:
                yield f"{who(told)} was told 200 with {external_id}, which was applied {times} times for it"
    for (external_id, amount), ids in told_refunds.items():
        if (done := paid_back[external_id, amount]) < len(ids):
            yield f"{len(ids)} refunds of {external_id} for {amount} were told of, {done} applied"


def told_of_its_own_request(books: Records, **_allowed: bool) -> Found:
    """Whoever is told that a payment was made, or that nobody knows, is told of the payment that it asked for."""
    payments = {str(payment.id): payment for payment in books.payments}
    for told in books.told:
        if told.status not in {200, 202} or told.asked.op == "status":
            continue
        asked = told.asked
        if (payment := payments.get(str(told.body.get("id")))) is None:
            yield f"{who(told)} was told {told.status} of {told.body.get('id')}, and there is no such payment"
        elif asked.op == "refund":
            if payment.external_id != asked.external_id:
                yield f"{who(told)} was told {told.status} of payment {payment.id}, which is {payment.external_id}"
        else:
            wanted = (asked.shop_id, asked.amount, asked.word or "", asked.order_id)
            has = (payment.shop_id, payment.amount, payment.message, payment.order_id)
            if wanted != has:
                yield f"{who(told)} asked for {wanted} and was told {told.status} of a payment for {has}"
            elif asked.key and dict(asked.metadata) != payment.metadata:
                yield f"{who(told)} was told {told.status} of payment {payment.id}, which has other metadata"


def still_running_ends_with_the_lease(books: Records, **_allowed: bool) -> Found:
    """Nobody is told to wait for a sender that must have died: after its lease the answer is that nobody knows."""
    begun = {str(payment.id): payment.created_at for payment in books.payments}
    begun |= {str(refund.id): refund.created_at for refund in books.refunds}
    for told in books.told:
        if told.status != 409 or told.body.get("code") != NO_ANSWER_YET:
            continue
        made_at = begun.get(str(told.body.get("id")))
        if made_at is None:
            yield f"{who(told)} was told that {told.body.get('id')} is still running, and there is no such row"
        elif (late_s := told.at - told.seconds - made_at - books.lease_s) > 0:
            yield f"{who(told)} was told that {told.body['id']} is still running, {late_s:.1f} s after its lease"


def told_failure_was_not_done(books: Records, **_allowed: bool) -> Found:
    """Who was only ever told that it failed, was refused or was not sent has nothing applied."""
    payments = {str(payment.id): payment for payment in books.payments}
    codes = Counter(call.short_code for call in books.applied if call.op != "refund")
    requests: defaultdict[str | None, list[Told]] = defaultdict(list)
    keys: defaultdict[str, list[Told]] = defaultdict(list)
    for told in books.told:
        if told.asked.op in {"create", "create-link"}:
            requests[told.asked.word].append(told)
        keys[told.asked.key or ""].append(told)
    for word, answers in requests.items():
        if all(map(_is_refusal, answers)):
            times = sum(call.word == word for call in books.applied if call.op != "refund")
            if times:
                yield f"{who(answers[0])} was only told {answers[-1].status}, and it was applied {times} times"
    yield from _keyless_refunds_that_were_done(books)
    states = {refund.id: refund.state for refund in books.refunds}
    for key, answers in keys.items():
        # Whoever was only ever told no believes that the key did nothing.
        state = states.get(operation) if key and (operation := books.claims.get(key)) else None
        if state in {"sending", "unknown", "succeeded"} and all(map(_is_refusal, answers)):
            yield f"{who(answers[0])} was only told {answers[-1].status}, and its refund is {state}"
    for told in books.told:
        # A problem with a state tells of that payment, whatever came before and after. Others may name somebody else's.
        named = payments.get(str(told.body.get("id"))) if told.asked.op in {"create", "create-link"} else None
        if (
            named is not None
            and _is_refusal(told)
            and told.body.get("state") == "failed"
            and codes[named.short_code or ""]
        ):
            yield f"{who(told)} was told {told.status} of payment {named.id}, and it was applied"


def _keyless_refunds_that_were_done(books: Records) -> Found:
    refunds: defaultdict[tuple[str | None, int | None], list[Told]] = defaultdict(list)
    for told in books.told:
        if told.asked.op == "refund":
            refunds[told.asked.external_id, told.asked.amount].append(told)
    applied = Counter((call.external_id, call.amount) for call in books.applied if call.op == "refund")
    for (external_id, amount), answers in refunds.items():
        if amount is not None and applied[external_id, amount] and all(map(_is_refusal, answers)):
            yield f"{who(answers[0])} was only told {answers[-1].status}, and its refund was applied"


def nobody_was_told_500(books: Records, **_allowed: bool) -> Found:
    """Whatever breaks, the caller gets a sentence that was meant for it."""
    for told in books.told:
        if told.status == 500:
            yield f"{who(told)} was told 500: {told.body}"


def unharmed_shops_are_served(books: Records, **_allowed: bool) -> Found:
    """What befalls the calls of one shop is told to no other; a database that is busy with all of them may be."""
    for told in books.told:
        if told.asked.shop_id in books.unharmed and told.status != 200 and told.body.get("code") != BUSY:
            yield f"{who(told)} was told {told.status} {told.body.get('code')}, and nothing befell its shop"


def one_line_per_move(books: Records, **_allowed: bool) -> Found:
    """The lines of the record lead along allowed moves to the state of the row, one line for each move."""
    lines: defaultdict[object, list[str]] = defaultdict(list)
    for line in books.log:
        lines[line.refund_id or line.payment_id].append(line.state)
    for payment in books.payments:
        start = "sending" if payment.source == "service" else "unknown"
        yield from _chain(f"payment {payment.id}", start, lines[payment.id], payment.state, PAYMENT_MOVES)
    for refund in books.refunds:
        yield from _chain(f"refund {refund.id}", "sending", lines[refund.id], refund.state, REFUND_MOVES)


def _chain(what: str, start: str, told: list[str], end: str, moves: dict[str, set[str]]) -> Found:
    at = start
    for state in told:
        if state not in moves[at]:
            yield f"the record of {what} goes from {at} to {state}"
        at = state
    if at != end:
        yield f"the record of {what} ends in {at}, and it is {end}"


def key_stands_for_what_was_told(books: Records, **_allowed: bool) -> Found:
    """One key is one operation: all who were told of it with an id were told of the one that the key stands for."""
    ids: defaultdict[str, set[str]] = defaultdict(set)
    for told in books.told:
        if told.asked.key and told.status in {200, 202} and told.asked.op != "status":
            name = "refund_id" if told.asked.op == "refund" else "id"
            if told.body.get(name):
                ids[told.asked.key].add(str(told.body[name]))
    for key, known in ids.items():
        claimed = books.claims.get(key)
        if claimed is None:
            yield f"key {key} was answered with {', '.join(sorted(known))}, and nobody claimed it"
        elif known != {str(claimed)}:
            yield f"key {key} stands for {claimed} and was answered with {', '.join(sorted(known))}"


def nothing_left_in_sending(books: Records, **_allowed: bool) -> Found:
    """Once things have settled nothing is being sent."""
    yield from (f"{name} is still in sending" for name in _in_state(books, "sending"))


def unknown_only_where_allowed(books: Records, *, may_be_unknown: bool) -> Found:
    """Only a fault that really hides the outcome may leave something unknown."""
    if not may_be_unknown:
        yield from (f"{name} is unknown, and this fault hides no outcome" for name in _in_state(books, "unknown"))


def no_secret_was_written(books: Records, **_allowed: bool) -> Found:
    """No log and no row holds a secret, a full phone number or the query of a call."""
    for secret in books.secrets:
        if secret and secret in books.written:
            yield f"a secret that begins with {secret[:4]!r} was written"
    if _FULL_PHONE.search(books.written):
        yield "a full phone number was written"
    if found := _UPSTREAM_QUERY.search(books.written):
        yield f"a query of the provider was written: {found[0]}"


LAWS: Final[tuple[Callable[..., Found], ...]] = (
    applied_has_its_row,
    written_before_sent,
    applied_once,
    sent_to_the_pinned_account,
    external_id_is_its_own,
    state_is_true,
    refunds_within_the_payment,
    error_is_read_twice,
    told_success_was_done,
    told_of_its_own_request,
    still_running_ends_with_the_lease,
    told_failure_was_not_done,
    nobody_was_told_500,
    unharmed_shops_are_served,
    one_line_per_move,
    key_stands_for_what_was_told,
    nothing_left_in_sending,
    unknown_only_where_allowed,
    no_secret_was_written,
)


def violations(books: Records, *, may_be_unknown: bool) -> list[str]:
    """Everything that contradicts a law; empty for clean books."""
    return [f"{law.__name__}: {found}" for law in LAWS for found in law(books, may_be_unknown=may_be_unknown)]


def _is_refusal(told: Told) -> bool:
    """An answer that says no. No answer, a balancer's own, 200, 202, a 500 and 'still running' say nothing of it."""
    if told.status is None or told.unanswered or told.status < 400 or told.status == 500:
        return False
    return told.body.get("code") != NO_ANSWER_YET


def _in_state(books: Records, state: str) -> list[str]:
    payments = [f"payment {row.id}" for row in books.payments if row.state == state]
    return payments + [f"refund {row.id}" for row in books.refunds if row.state == state]


def _by_external_id(books: Records) -> dict[str | None, PaymentRow]:
    return {payment.external_id: payment for payment in books.payments if payment.external_id}


def _refunds_by_call(books: Records, states: set[str]) -> Counter[tuple[str | None, int]]:
    """How many refunds there are in these states, by what the provider is asked: whose, and how much."""
    external_ids = {payment.id: payment.external_id for payment in books.payments}
    return Counter(
        (external_ids.get(refund.payment_id), refund.amount) for refund in books.refunds if refund.state in states
    )


def who(told: Told) -> str:
    """The caller that was told, and what it asked for."""
    return f"{told.asked.op} {told.asked.word or told.asked.external_id} at {told.by}"
