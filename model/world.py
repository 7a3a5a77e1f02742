"""The protocol of one order's money as states and steps, driven by the decisions of the service itself.

What happens: clients ask, processes of the service write, call, learn and write again, the network delivers a call
late or never, replies are lost, processes die or stand still, the sweep comes when it comes, a person settles. What is
decided (``Decisions``) is the service's own code, so that it and this model cannot drift apart. Time is in ticks.

A database that is away is a step that is not taken yet, or an intent that is refused; so is a worker that is away.
What is read of a payment that the provider took on is another model: ``reading.py``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from payment_service.errors import TooEarlyToSettle
from payment_service.idempotency import decisions as idempotency
from payment_service.idempotency.decisions import IN_FLIGHT, Earlier, Rules, Verdict
from payment_service.idempotency.sending import SendingWindow
from payment_service.payments import lifecycle as payments
from payment_service.payments.lifecycle import OPEN, State
from payment_service.payments.models import Payment
from payment_service.payments.settling import check_age
from payment_service.providers.interface import (
    Accepted,
    NotSent,
    Outcome,
    PaymentReceipt,
    RefundReceipt,
    Rejected,
    Unknown,
)
from payment_service.refunds import lifecycle as refunds
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.service import remainder

DEADLINE: Final = 1
"""A call of a process that runs ends within this time."""
LEASE: Final = 2
WINDOW: Final = 3
"""At least the lease and a sweep."""
EFFECT: Final = 2
"""A call that left takes effect within this time or never: it is what LATE_EFFECT_S is set for."""
LATE: Final = LEASE + EFFECT
OLD: Final = LATE + 1
"""Ages are not counted any further."""
PAID: Final = 2
"""What was paid, and can be paid back."""
_BEGINNING: Final = datetime(2026, 1, 1, tzinfo=UTC)


class Ask(NamedTuple):
    """What a client asks for. Asks with the same ``words`` are equal."""

    words: str
    key: int = 0
    """0: none."""
    order: bool = False
    amount: int = 0
    """Of a refund; 0 is all that is left."""

    @property
    def fingerprint(self) -> str:
        """What makes two requests equal: an order is a part of it."""
        return f"{self.words} of the order" if self.order else self.words


class Row(NamedTuple):
    """A payment or a refund as the database holds it, and what the provider did of it."""

    ask: Ask
    amount: int
    rivals: frozenset[int]
    """Earlier rows that must not have taken effect together with this one."""
    state: str = "sending"
    failure: str | None = None
    age: int = 0
    known: int = 0
    """For how long its end has been known, as far as a window counts."""
    effects: int = 0
    way: int | None = None
    """How long its call has been on the way; none: it has not left, has arrived, or was lost."""
    told_failed: bool = False
    """Whether somebody was told that it was not done."""
    by_hand: bool = False
    """Whether it stands by a settlement, which another person can undo."""
    seen_missing: bool = False
    """Whether a person looked and did not find it (only where an old look is believed)."""


class Process(NamedTuple):
    """A process of the service at work for one ask."""

    at: str
    """``looked`` and ``sent twice`` (only under mutations), ``written``, ``calling``, ``sent``, ``learned``."""
    row: int
    """-1 while there is none."""
    call_age: int = 0
    """How long ago its call began."""
    outcome: str = ""
    ask: Ask = Ask("")
    """What it is about to write, when it only looked."""


UNSENT: Final = Process("learned", -1, outcome="unsent")
"""Takes back an intent that was written unheard."""


class World(NamedTuple):
    """All that there is."""

    rows: tuple[Row, ...] = ()
    processes: tuple[Process, ...] = ()
    asks: tuple[Ask, ...] = ()
    """Still to come."""
    claims: tuple[tuple[int, int, str], ...] = ()
    """Idempotency-Keys: the key, its row, its fingerprint."""


class Wrong(Exception):
    """A promise is broken."""


class Verb(NamedTuple):
    """Payments or refunds: what differs."""

    decide: Callable[[Any, Any], Any]
    state: Callable[[str], Any]
    moves: frozenset[tuple[Any, Any]]
    undo: Callable[[], Any]
    undoing: frozenset[tuple[Any, Any]]
    accepted: Outcome[Any]
    found: str
    """What a person settles it as who found it in the cabinet."""


PAYMENTS: Final = Verb(
    payments.decide,
    State,
    payments.MOVES,
    payments.undo_settlement,
    payments.UNDOING,
    Accepted(PaymentReceipt("1")),
    "paid",
)
REFUNDS: Final = Verb(
    refunds.decide,
    RefundState,
    refunds.MOVES,
    refunds.undo_settlement,
    refunds.UNDOING,
    Accepted(RefundReceipt()),
    "succeeded",
)


RULES: Final = Rules(duplicate_window_s=WINDOW, sending_lease_s=LEASE)
SENDER_DIED: Final = Unknown("sender_died")
REPLY_LOST: Final = Unknown("timeout")
OUTCOME_REFUSED: Final = Unknown("outcome_refused")


def _of_order(open_one: Earlier | None, rules: Rules, is_equal: bool) -> Verdict:
    return idempotency.verdict_for_order(open_one, rules, is_equal=is_equal)


def _of_equal(earlier: Earlier | None, rules: Rules, by_key: bool) -> Verdict:
    return idempotency.verdict_for_equal(earlier, rules, by_key=by_key)


def _may_be_called_failed(age: int) -> bool:
    try:
        check_age(_BEGINNING, _BEGINNING, _BEGINNING + timedelta(seconds=age), LATE)
    except TooEarlyToSettle:
        return False
    return True


def _left(amount: int, refunded: int, reserved: int) -> int:
    payment = SimpleNamespace(amount=amount, refunded_amount=refunded, reserved_amount=reserved)
    return remainder(cast("Payment", payment)).tiyn


def _may_leave(age: int, call_age: int) -> bool:
    """A call that stood still is cut off by its own deadline, and by the lease of its intent."""
    return call_age <= DEADLINE and age <= LEASE


def _each_alone(stuck: Sequence[bool]) -> list[bool]:
    """Which of the rows that a sweep found it can take."""
    return [not one for one in stuck]


@dataclass(frozen=True)
class Decisions:
    """What is decided where. The defaults are the service; a mutation replaces one of them."""

    rules: Rules = RULES
    verdict_for_equal: Callable[[Earlier | None, Rules, bool], Verdict] = _of_equal
    verdict_for_order: Callable[[Earlier | None, Rules, bool], Verdict] = _of_order
    decisive: Callable[[Sequence[Earlier]], Earlier | None] = idempotency.decisive
    may_begin: Callable[[int], bool] = lambda age: SendingWindow(LEASE - DEADLINE, LEASE, opened=0).is_open(age)
    may_leave: Callable[[int, int], bool] = _may_leave
    """Whether a process may still send in its call, by the ages of its row and of its call."""
    may_be_called_failed: Callable[[int], bool] = _may_be_called_failed
    left: Callable[[int, int, int], int] = _left
    of_the_dead: Outcome[Any] = SENDER_DIED
    of_a_lost_reply: Outcome[Any] = REPLY_LOST
    swept: Callable[[Sequence[bool]], list[bool]] = _each_alone
    lists_sending: bool = True
    """Whether people see what is sending beyond its lease."""
    locks: bool = True
    """Whether looking for an equal request and writing a new one are one step."""
    retries: bool = False
    refuses: Callable[[Row, str], bool] = lambda _row, _state: False
    """Whether the database refuses the move of a row to this state, though it took the row."""
    falls_back: bool = True
    """Whether an outcome that the database refuses becomes unknown."""
    trusts_any_reply: bool = False
    """Whether a reply that names what another request made is taken for our own."""
    trusts_old_looks: bool = False
    """Whether a person may settle by what was seen before the time had come."""
    unheard_is_written: bool = False
    """Whether an intent whose COMMIT was unheard is sent all the same, if it is there."""
    unheard_frees_key: bool = False
    """Whether a key is free as soon as "not sent" was told, before the intent is taken back."""


@dataclass(frozen=True)
class Model:
    """The steps that are possible in a world."""

    verb: Verb
    decisions: Decisions

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Every next step, in words, and the world after it.

        Raises:
            Wrong: when a step breaks a promise.
        """
        for ask in dict.fromkeys(world.asks):
            yield from self._asked(world, ask)
        for number, process in enumerate(world.processes):
            yield from self._worked(world, number, process)
        for number, row in enumerate(world.rows):
            yield from self._outside(world, number, row)
        # A process that does nothing meanwhile stands still.
        yield "time passes", _later(world)

    # --- a client asks

    def _asked(self, world: World, ask: Ask) -> Iterator[tuple[str, World]]:
        asks = list(world.asks)
        asks.remove(ask)
        world = world._replace(asks=tuple(asks))
        who = f"'{ask.words}' is asked for{f' with key {ask.key}' if ask.key else ''}{' of the order' * ask.order}"
        # The database cannot be reached: told that nothing was sent, and nothing is written.
        yield f"{who}; no database", world
        found, amount = self._look(world, ask)
        if found is None:
            yield f"{who}; refused", world
            return
        if found >= 0:
            self._answer(world, found, ask)
            if ask.key:
                claims = dict.fromkeys([*world.claims, (ask.key, found, ask.fingerprint)])
                world = world._replace(claims=tuple(sorted(claims)))
            yield f"{who}; answered with row {found}", _told(world, found)
            return
        if not self.decisions.locks:
            yield f"{who}; nothing is found", _with(world, Process("looked", -1, ask=ask._replace(amount=amount)))
            return
        yield from self._written(world, ask, amount, who)

    def _written(self, world: World, ask: Ask, amount: int, who: str) -> Iterator[tuple[str, World]]:
        number = len(world.rows)
        row = Row(ask, amount, self._rivals(world, ask))
        claims = world.claims
        if ask.key:
            claims = tuple(sorted([*(one for one in claims if one[0] != ask.key), (ask.key, number, ask.fingerprint)]))
        made = world._replace(rows=(*world.rows, row), claims=claims)
        yield f"{who}; row {number} is written", _with(made, Process("written", number))
        # The answer to the COMMIT was lost: told that nothing was sent, and the row is taken back.
        unheard = _row(made, number, told_failed=True)
        if self.decisions.unheard_frees_key:
            unheard = unheard._replace(claims=tuple(one for one in claims if one[0] != ask.key))
        after = Process("written", number) if self.decisions.unheard_is_written else UNSENT._replace(row=number)
        yield f"{who}; row {number} is written unheard", _with(unheard, after)

    def _look(self, world: World, ask: Ask) -> tuple[int | None, int]:
        """The row that answers, -1 when nothing stands in the way, none for a refusal; and the amount of a new row."""
        decisions = self.decisions
        aged = [_earlier(row) for row in world.rows]
        found = -1
        if ask.key:
            claim = next((one for one in world.claims if one[0] == ask.key), None)
            if claim is not None and claim[2] != ask.fingerprint:
                return None, 0
            found = claim[1] if claim else -1
        else:
            alike = [number for number, row in enumerate(world.rows) if row.ask.fingerprint == ask.fingerprint]
            meant = decisions.decisive([aged[number] for number in alike])
            found = next((number for number in reversed(alike) if aged[number] == meant), -1)
        verdict = decisions.verdict_for_equal(aged[found] if found >= 0 else None, decisions.rules, bool(ask.key))
        if verdict is Verdict.GO_ON and ask.order:
            ordered = [number for number, row in enumerate(world.rows) if row.ask.order]
            found = next((number for number in ordered if world.rows[number].state in OPEN), -1)
            is_equal = found >= 0 and world.rows[found].ask.fingerprint == ask.fingerprint
            verdict = decisions.verdict_for_order(aged[found] if found >= 0 else None, decisions.rules, is_equal)
            paid = [n for n in ordered if world.rows[n].state == "paid" and world.rows[n].ask.words == ask.words]
            if found < 0 and paid:
                return None, 0
        if verdict is not Verdict.GO_ON:
            return (found if verdict is Verdict.ANSWER else None), 0
        amount = 0
        if self.verb is REFUNDS:
            refunded = sum(row.amount for row in world.rows if row.state == "succeeded")
            reserved = sum(row.amount for row in world.rows if row.state in {"sending", "unknown"})
            left = decisions.left(PAID, refunded, reserved)
            amount = ask.amount or left
            if not amount or amount > left:
                return None, 0
        return -1, amount

    def _rivals(self, world: World, ask: Ask) -> frozenset[int]:
        """The promise, said without the service's decisions: which earlier rows this one must not be applied beside."""
        return frozenset(number for number in range(len(world.rows)) if self._is_rival(world, number, ask))

    def _is_rival(self, world: World, number: int, ask: Ask) -> bool:
        row = world.rows[number]
        in_flight = row.state in {"sending", "unknown"}
        if ask.key and any((ask.key, number) == claim[:2] for claim in world.claims):
            return True
        is_alike = not ask.key and row.ask.fingerprint == ask.fingerprint
        if is_alike and (in_flight or row.known < self.decisions.rules.duplicate_window_s):
            return True
        if not (ask.order and row.ask.order):
            return False
        return in_flight or row.state == "pending" or (row.state == "paid" and row.ask.words == ask.words)

    def _answer(self, world: World, number: int, ask: Ask) -> None:
        row = world.rows[number]
        if row.ask.words != ask.words:
            raise Wrong(f"'{ask.words}' is answered with a payment of '{row.ask.words}'")
        if not self._is_rival(world, number, ask):
            raise Wrong(f"'{ask.words}' is a new request, and is answered with row {number}")

    # --- a process of the service works

    def _worked(self, world: World, number: int, process: Process) -> Iterator[tuple[str, World]]:
        who = f"the process of row {process.row}"
        yield f"{who} dies", _without(world, number)
        if process.at == "looked":
            yield from self._written(_without(world, number), process.ask, process.ask.amount, "it goes on")
            return
        row = world.rows[process.row]
        match process.at:
            case "written":
                if self.decisions.may_begin(row.age):
                    yield f"{who} begins its call", _process(world, number, at="calling")
                else:
                    yield f"{who} is too late to send", _process(world, number, at="learned", outcome="unsent")
            case "calling":
                yield f"{who} cannot connect", _process(world, number, at="learned", outcome="unsent")
                if self.decisions.may_leave(row.age, process.call_age):
                    sent = _process(world, number, at="sent")
                    yield f"{who} sends", _row(sent, process.row, way=0)
                    yield f"{who} sends; it is refused", _process(world, number, at="learned", outcome="rejected")
            case "learned":
                yield from self._learned(world, number, process, who)
            case _:
                yield from self._sent(world, number, process, who)

    def _sent(self, world: World, number: int, process: Process, who: str) -> Iterator[tuple[str, World]]:
        row = world.rows[process.row]
        if row.effects:
            yield f"{who} reads the reply", _process(world, number, at="learned", outcome="accepted")
        elif self.decisions.trusts_any_reply:
            yield f"{who} reads the reply to another", _process(world, number, at="learned", outcome="accepted")
        if self.decisions.retries and process.at == "sent":
            yield f"{who} sends again", _row(_process(world, number, at="sent twice"), process.row, way=0)
        yield f"{who} gets no reply", _process(world, number, at="learned", outcome="lost")

    def _learned(self, world: World, number: int, process: Process, who: str) -> Iterator[tuple[str, World]]:
        outcome = {
            "accepted": self.verb.accepted,
            "rejected": Rejected("1", "no"),
            "unsent": NotSent("connect_failed"),
            "lost": self.decisions.of_a_lost_reply,
        }[process.outcome]
        row = world.rows[process.row]
        step = self.verb.decide(self.verb.state(row.state), outcome)
        if step is not None and self.decisions.refuses(row, step.state):
            if self.decisions.falls_back and not self.decisions.refuses(row, "unknown"):
                step = self.verb.decide(self.verb.state(row.state), OUTCOME_REFUSED)
            elif process.outcome == "accepted":
                raise Wrong(f"the outcome of row {process.row} came and cannot be written")
            else:
                yield f"{who} cannot write", _without(world, number)
                return
        after = _without(world, number)
        if step is not None:
            after = self._moved(after, process.row, step.state, failure=_word(step.failure))
        yield f"{who} writes: {after.rows[process.row].state}", _told(after, process.row)

    # --- everybody else

    def _outside(self, world: World, number: int, row: Row) -> Iterator[tuple[str, World]]:
        if row.way is not None:
            yield f"the call of row {number} is lost on its way", _row(world, number, way=None)
            if row.way < EFFECT:
                after = _row(world, number, way=None, effects=row.effects + 1)
                check_effects(after, number)
                yield f"the call of row {number} takes effect", after
        if row.state == "sending" and row.age > LEASE and not self.decisions.refuses(row, "unknown"):
            step = self.verb.decide(self.verb.state("sending"), self.decisions.of_the_dead)
            after = self._moved(world, number, step.state, failure=_word(step.failure))
            yield f"the sweep finds row {number}: {step.state}", after
        if row.state == "unknown":
            yield from self._settled(world, number, row)
        if row.by_hand and not self._is_settlement_in_use(world, number, row):
            step = self.verb.undo()
            after = self._moved(world, number, step.state, undoes=True, failure=None, by_hand=False)
            yield f"another person undoes the settlement of row {number}", after
        if row.state == "pending" and row.effects:
            yield f"row {number} is paid", self._moved(world, number, "paid")

    def _settled(self, world: World, number: int, row: Row) -> Iterator[tuple[str, World]]:
        """A person looks into the cabinet."""
        who = "a person"
        if row.effects:
            after = self._moved(world, number, self.verb.found, failure=None, by_hand=True)
            yield f"{who} finds row {number} in the cabinet", after
        elif self.decisions.trusts_old_looks:
            yield f"{who} does not find row {number} in the cabinet", _row(world, number, seen_missing=True)
        if (row.seen_missing or not row.effects) and self.decisions.may_be_called_failed(row.age):
            after = self._moved(world, number, "failed", failure="settled", told_failed=True, by_hand=True)
            yield f"{who} settles row {number} as never made", after

    def _is_settlement_in_use(self, world: World, number: int, row: Row) -> bool:
        """What the database refuses to undo: an order has one open payment, and no more is refunded than was paid."""
        others = [one for other, one in enumerate(world.rows) if other != number]
        if self.verb is REFUNDS:
            counting = (one.amount for one in others if one.state in {"sending", "unknown", "succeeded"})
            return sum(counting) + row.amount > PAID
        return row.ask.order and any(one.ask.order and one.state in OPEN for one in others)

    def _moved(self, world: World, number: int, state: str, *, undoes: bool = False, **changes: Any) -> World:
        """Move a row, if the table allows it and what it says is so."""
        before, row = world.rows[number].state, world.rows[number]
        moves = self.verb.undoing if undoes else self.verb.moves
        if before != state and (self.verb.state(before), self.verb.state(state)) not in moves:
            raise Wrong(f"row {number} cannot go from {before} to {state}")
        if state == "failed" and row.effects:
            raise Wrong(f"row {number} is called failed, and it took effect")
        if state in {"pending", "paid", "succeeded"} and not row.effects:
            raise Wrong(f"row {number} is called {state}, and it took no effect")
        return _row(world, number, state=str(state), **changes)

    # --- everything ends

    def check_end(self, world: World) -> None:
        """When everybody is back and time passes, every row ends or a person is told.

        Raises:
            Wrong: when one does neither.
        """
        owned = {process.row for process in world.processes}
        left = [number for number, row in enumerate(world.rows) if row.state == "sending" and number not in owned]
        stuck = [self.decisions.refuses(world.rows[number], "unknown") for number in left]
        taken = self.decisions.swept(stuck)
        for number, is_stuck, is_taken in zip(left, stuck, taken, strict=True):
            if not is_taken and not is_stuck:
                raise Wrong(f"the sweep never comes to row {number}")
            if not is_taken and not self.decisions.lists_sending:
                raise Wrong(f"row {number} stays as it is, and nobody is told")


def check_effects(world: World, number: int) -> None:
    """Hold the promises against what the provider just did.

    Raises:
        Wrong: when one is broken.
    """
    row = world.rows[number]
    if row.effects > 1:
        raise Wrong(f"row {number} took effect twice")
    if row.state == "failed" or row.told_failed:
        raise Wrong(f"row {number} took effect, and was told as not done")
    for other, one in enumerate(world.rows):
        if one.effects and row.effects and (other in row.rivals or number in one.rivals):
            raise Wrong(f"rows {min(number, other)} and {max(number, other)} are one request, and both took effect")
    if sum(one.amount for one in world.rows if one.effects) > PAID:
        raise Wrong("more was paid back than was paid")


def _earlier(row: Row) -> Earlier:
    return Earlier(row.state, row.failure, row.age, row.age if row.state in IN_FLIGHT else row.known)


def _word(failure: object) -> str | None:
    return None if failure is None else str(failure)


def _told(world: World, number: int) -> World:
    """Whoever asked gets the answer that the row is."""
    return _row(world, number, told_failed=True) if world.rows[number].state == "failed" else world


def _row(world: World, number: int, **changes: Any) -> World:
    rows = list(world.rows)
    rows[number] = rows[number]._replace(**changes)
    return world._replace(rows=tuple(rows))


def _with(world: World, process: Process) -> World:
    return world._replace(processes=tuple(sorted([*world.processes, process])))


def _without(world: World, number: int) -> World:
    return world._replace(processes=world.processes[:number] + world.processes[number + 1 :])


def _process(world: World, number: int, **changes: Any) -> World:
    return _with(_without(world, number), world.processes[number]._replace(call_age=0, **changes))


def _later(world: World) -> World:
    rows = tuple(
        row._replace(
            age=min(row.age + 1, OLD),
            known=0 if row.state in IN_FLIGHT else min(row.known + 1, WINDOW),
            way=None if row.way is None else min(row.way + 1, EFFECT),
        )
        for row in world.rows
    )
    processes = (
        process._replace(call_age=min(process.call_age + 1, DEADLINE + 1)) if process.at == "calling" else process
        for process in world.processes
    )
    return world._replace(rows=rows, processes=tuple(sorted(processes)))
