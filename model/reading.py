"""What is read of a payment that the provider took on, driven by ``decide_reading`` and by the rules of settling.

Two readers (workers, or callers who ask for the status) read and write in any order; each may stand still between the
two, or die. The provider says waiting, paid, cancelled or failed. A failure that it takes back, it takes back within
``CONFIRM``: that is why a failure is read twice (docs/kaspi-api.md section 3).
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from model.world import Wrong
from payment_service.payments.lifecycle import MOVES, State, Step, decide_reading
from payment_service.providers.interface import Meaning, StatusRead

CONFIRM: Final = 3
"""So long after the first reading a failure is believed."""
READING: Final = 1
"""A reading of a process that runs is written within this time."""
READERS: Final = 2
_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_ENDS: Final = {Meaning.PAID: State.PAID, Meaning.FAILED: State.FAILED, Meaning.CANCELLED: State.CANCELLED}


class Reader(NamedTuple):
    """Somebody who has read, and has not written yet."""

    said: Meaning
    age: int = 0
    stands_still: bool = False


class Read(NamedTuple):
    """The payment in our database, and in the provider's books."""

    state: State = State.PENDING
    error_age: int | None = None
    """How long ago the first reading of a failure was made, as the row has it."""
    books: Meaning = Meaning.WAITING
    failed_for: int = 0
    readers: tuple[Reader, ...] = ()


Decide = Callable[[State, StatusRead, int | None, int], Step]
"""What a reading makes of a payment, by the age of the first failure that was read and by the reading's own age."""


def service(before: State, reading: StatusRead, error_age: int | None, reading_age: int) -> Step:
    """As the service does it: the first one counts from when it was written, the second from when it was made."""
    return _decided(before, reading, error_age, reading_age)


def at_writing(before: State, reading: StatusRead, error_age: int | None, _reading_age: int) -> Step:
    """As it was once: a reading counts from when it is written."""
    return _decided(before, reading, error_age, 0)


def at_once(before: State, reading: StatusRead, _error_age: int | None, reading_age: int) -> Step:
    """A failure is believed at its first reading."""
    return _decided(before, reading, reading_age + CONFIRM, reading_age)


def any_word_may_mean_failed(before: State, reading: StatusRead, error_age: int | None, reading_age: int) -> Step:
    """A word that nobody knows is read as a failure."""
    if reading.meaning is Meaning.UNHEARD_OF:
        reading = StatusRead(reading.status, Meaning.FAILED)
    return _decided(before, reading, error_age, reading_age)


MISTAKES: Final[Mapping[str, tuple[Decide, str]]] = {
    "a reading counts from when it is written": (at_writing, "it is called failed"),
    "a failure is believed at its first reading": (at_once, "it is called failed"),
    "a word that nobody knows is a failure": (any_word_may_mean_failed, "it is called failed"),
}
"""Each with words of the promise that it breaks."""


def _decided(before: State, reading: StatusRead, error_age: int | None, reading_age: int) -> Step:
    """The service's decision, with ages instead of moments."""
    return decide_reading(
        before,
        reading,
        error_seen_at=None if error_age is None else _NOW - timedelta(seconds=error_age),
        asked_at=_NOW - timedelta(seconds=reading_age),
        now=_NOW,
        confirm_after=timedelta(seconds=CONFIRM),
    )


@dataclass(frozen=True)
class ExploredReadings:
    """What came of an exploration."""

    states: int
    depth: int
    wrong: str | None = None
    trace: tuple[str, ...] = ()


def explore_readings(decide: Decide) -> ExploredReadings:
    """Explore everything that can be read of a payment that is pending, or unknown with the provider's id."""
    ways: dict[Read, tuple[str, ...]] = {Read(state): () for state in (State.PENDING, State.UNKNOWN)}
    after: dict[Read, list[Read]] = {}
    waiting = deque(ways)
    depth = 0
    while waiting:
        world = waiting.popleft()
        way = ways[world]
        depth = len(way)
        after[world] = []
        try:
            for words, following in _steps(world, decide):
                after[world].append(following)
                if following not in ways:
                    ways[following] = (*way, words)
                    waiting.append(following)
        except Wrong as wrong:
            return ExploredReadings(len(ways), depth, str(wrong), (*way, f"then: {wrong}"))
    ended = {world for world in after if world.books is Meaning.PAID}
    lost = len(ended - _leading_to_truth(after))
    return ExploredReadings(len(ways), depth, f"{lost} worlds never learn that it is paid" if lost else None)


def _steps(world: Read, decide: Decide) -> Iterator[tuple[str, Read]]:
    if world.books is Meaning.WAITING:
        for meaning in _ENDS:
            yield f"the provider: {meaning}", world._replace(books=meaning)
    if world.books is Meaning.FAILED and world.failed_for < CONFIRM:
        if world.state is State.FAILED:
            raise Wrong("it is called failed, and the provider may still say that it is paid")
        yield "the provider after all: paid", world._replace(books=Meaning.PAID)
    if len(world.readers) < READERS:
        for said in (world.books, Meaning.UNHEARD_OF):
            yield f"read: {said}", _with_readers(world, *world.readers, Reader(said))
    for number, reader in enumerate(world.readers):
        others = world.readers[:number] + world.readers[number + 1 :]
        yield "a reader dies", _with_readers(world, *others)
        if reader.stands_still:
            yield "a reader goes on", _with_readers(world, *others, reader._replace(stands_still=False))
            continue
        yield "a reader stands still", _with_readers(world, *others, reader._replace(stands_still=True))
        step = decide(world.state, StatusRead(reader.said, reader.said), world.error_age, reader.age)
        written = _written(_with_readers(world, *others), step)
        yield f"{reader.said}, read {reader.age} ago, is written: {step.state}", written
    if all(reader.stands_still or reader.age < READING for reader in world.readers):
        yield "time passes", _later(world)


def _written(world: Read, step: Step) -> Read:
    if step.state is not world.state and (world.state, step.state) not in MOVES:
        raise Wrong(f"it cannot go from {world.state} to {step.state}")
    if step.state in {State.FAILED, State.CANCELLED} and step.state is not world.state and world.books is Meaning.PAID:
        raise Wrong(f"it is called {step.state}, and is paid")
    if step.state is State.PAID and world.books is not Meaning.PAID:
        raise Wrong("it is called paid, and is not")
    seen_at = step.error_seen_at
    error_age = None if seen_at is None else min(int((_NOW - seen_at).total_seconds()), CONFIRM)
    return world._replace(state=step.state, error_age=error_age)


def _later(world: Read) -> Read:
    return _with_readers(
        world._replace(
            error_age=None if world.error_age is None else min(world.error_age + 1, CONFIRM),
            failed_for=min(world.failed_for + (world.books is Meaning.FAILED), CONFIRM),
        ),
        *(reader._replace(age=min(reader.age + 1, CONFIRM)) for reader in world.readers),
    )


def _with_readers(world: Read, *readers: Reader) -> Read:
    return world._replace(readers=tuple(sorted(readers)))


def _leading_to_truth(after: dict[Read, list[Read]]) -> set[Read]:
    """The worlds from which what we say can still become what the provider says."""
    true = {world for world in after if _ENDS.get(world.books) is world.state}
    while more := {world for world, ways in after.items() if world not in true and not true.isdisjoint(ways)}:
        true |= more
    return true
