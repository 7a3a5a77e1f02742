"""The engine of due work: bounded slots, one look after the other, told or not, and what is written together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from payment_service.scheduling import due
from payment_service.scheduling.due import FIRST_PAUSE_S, LONGEST_PAUSE_S, BatchWriter, Dispatcher, Kind
from tests.support.waiting import until

Fact = Callable[[], bool]


@dataclass
class Work:
    """Due work in memory: what is due, and what is under way until it is let go."""

    due: list[int] = field(default_factory=list)
    slots: int = 3
    planned_in_s: float | None = None
    kind: Kind = Kind.READINGS
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    looks: int = 0
    under_way: set[int] = field(default_factory=set)
    done: list[int] = field(default_factory=list)
    fails: set[int] = field(default_factory=set)
    error: Exception = field(default_factory=lambda: RuntimeError("this one"))
    tries: list[int] = field(default_factory=list)
    away: bool = False
    is_noticed: bool = False
    planned_ahead: list[int] = field(default_factory=list)

    async def claim(self, at_most: int) -> Sequence[int]:
        self.looks += 1
        if self.away:
            raise ConnectionError
        turns, self.due = self.due[:at_most], self.due[at_most:]
        return turns

    async def due_in_s(self) -> float | None:
        return self.planned_in_s

    async def perform(self, turn: int) -> None:
        self.under_way.add(turn)
        try:
            await self.let_go.wait()
            self.tries.append(turn)
            if turn in self.fails:
                raise self.error
            self.done.append(turn)
        finally:
            self.under_way.discard(turn)

    def repeated(self, turn: int) -> int | None:
        return turn if self.is_noticed else None

    async def bring_forward(self) -> int:
        brought, self.planned_ahead = self.planned_ahead, []
        self.due += brought
        return len(brought)


@contextlib.asynccontextmanager
async def at_work(work: Work) -> AsyncIterator[Dispatcher[int]]:
    dispatcher = Dispatcher(work)
    running = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        work.let_go.set()
        dispatcher.stop()
        await asyncio.wait_for(running, 10)


def true(fact: Fact) -> Callable[[], Awaitable[bool]]:
    async def ask() -> bool:
        return fact()

    return ask


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks without being told."""
    monkeypatch.setattr(due, "IDLE_S", 3600)


@pytest.mark.usefixtures("patient")
async def test_no_more_turns_are_taken_than_there_are_slots() -> None:
    work = Work([1, 2, 3, 4, 5])
    async with at_work(work):
        await until(true(lambda: work.under_way == {1, 2, 3}))
        assert work.due == [4, 5]
        work.let_go.set()
        await until(true(lambda: len(work.done) == 5))


@pytest.mark.usefixtures("patient")
async def test_work_is_looked_for_when_it_is_told_of() -> None:
    work = Work()
    async with at_work(work) as dispatcher:
        await until(true(lambda: work.looks == 1))
        work.due.append(1)
        dispatcher.wake()
        await until(true(lambda: work.under_way == {1}))


@pytest.mark.usefixtures("patient")
async def test_work_is_looked_for_when_it_was_planned() -> None:
    work = Work(planned_in_s=0.05)
    async with at_work(work):
        await until(true(lambda: work.looks == 1))
        work.due.append(1)
        await until(true(lambda: work.under_way == {1}))


@pytest.mark.usefixtures("patient")
async def test_work_that_a_clock_planned_that_was_ahead_is_taken_at_once_when_it_is_looked_for() -> None:
    work = Work(planned_ahead=[1])
    async with at_work(work) as dispatcher:
        await until(true(lambda: work.looks == 1))
        await dispatcher.bring_forward()
        await until(true(lambda: work.under_way == {1}))


async def test_work_that_nobody_told_of_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "IDLE_S", 0.05)
    work = Work()
    async with at_work(work):
        await until(true(lambda: work.looks == 1))
        work.due.append(1)
        await until(true(lambda: work.under_way == {1}))


@pytest.mark.usefixtures("patient")
async def test_turn_that_fails_stops_no_other() -> None:
    work = Work([1, 2], slots=1, fails={1})
    work.let_go.set()
    async with at_work(work):
        await until(true(lambda: work.done == [2]))


async def _again(work: Work, dispatcher: Dispatcher[int], *turns: int) -> list[int]:
    """Let these be due again, and the last of them be done; what was tried."""
    work.tries.clear()
    work.done.clear()
    work.due.extend(turns)
    dispatcher.wake()
    await until(true(lambda: turns[-1] in work.done))
    return list(work.tries)


@pytest.mark.usefixtures("patient")
async def test_turn_whose_result_is_refused_is_repeated_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook or a message came again every minute, for as long as its result could not be written."""
    now = [0.0]
    monkeypatch.setattr(due, "time", SimpleNamespace(monotonic=lambda: now[0]))
    work = Work(slots=1, fails={1}, is_noticed=True)
    work.let_go.set()
    async with at_work(work) as dispatcher:
        assert await _again(work, dispatcher, 1, 2) == [1, 2]
        assert await _again(work, dispatcher, 1, 2) == [2]
        now[0] = FIRST_PAUSE_S
        assert await _again(work, dispatcher, 1, 2) == [1, 2]
        now[0] += FIRST_PAUSE_S
        assert await _again(work, dispatcher, 1, 2) == [2]
        for _ in range(10):
            now[0] += LONGEST_PAUSE_S
            assert await _again(work, dispatcher, 1, 2) == [1, 2]
        work.fails.clear()
        now[0] += LONGEST_PAUSE_S
        assert await _again(work, dispatcher, 2, 1) == [2, 1]
        work.fails.add(1)
        assert await _again(work, dispatcher, 1, 2) == [1, 2]
        now[0] += FIRST_PAUSE_S
        assert await _again(work, dispatcher, 1, 2) == [1, 2]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("is_noticed", "error"), [(False, RuntimeError("a reading")), (True, ConnectionError("the database is away"))]
)
async def test_turn_that_nobody_notices_or_that_only_met_an_absent_database_is_repeated_at_once(
    is_noticed: bool, error: Exception
) -> None:
    work = Work(slots=1, fails={1}, is_noticed=is_noticed, error=error)
    work.let_go.set()
    async with at_work(work) as dispatcher:
        for _ in range(3):
            assert await _again(work, dispatcher, 1, 2) == [1, 2]


@pytest.mark.usefixtures("patient")
async def test_work_goes_on_when_the_database_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(due, "RETRY_S", 0.01)
    work = Work([1], away=True)
    async with at_work(work):
        await until(true(lambda: work.looks > 2))
        work.away = False
        await until(true(lambda: work.under_way == {1}))


async def test_stopping_takes_nothing_new_and_lets_what_is_in_hand_end() -> None:
    work = Work([1, 2], slots=1)
    dispatcher = Dispatcher(work)
    running = asyncio.create_task(dispatcher.run())
    await until(true(lambda: work.under_way == {1}))
    dispatcher.stop()
    work.let_go.set()
    await asyncio.wait_for(running, 10)
    assert (work.done, work.due) == ([1], [2])


async def test_what_gathers_while_a_statement_runs_is_written_together() -> None:
    written: list[list[int]] = []
    go_on = asyncio.Event()

    async def write(items: Sequence[int]) -> None:
        written.append(list(items))
        await go_on.wait()

    together = BatchWriter(write)
    writers = [asyncio.create_task(together.write(number)) for number in range(3)]
    await until(true(lambda: bool(written)))
    late = asyncio.create_task(together.write(3))
    go_on.set()
    await asyncio.gather(*writers, late)
    assert [number for items in written for number in items] == [0, 1, 2, 3]
    assert len(written) == 2


@pytest.mark.parametrize(
    ("error", "attempts"), [(RuntimeError("bad"), [[0, 1], [0], [1]]), (ConnectionError("away"), [[0, 1]])], ids=str
)
async def test_what_cannot_be_written_together_is_written_alone_unless_the_database_is_away(
    error: Exception, attempts: list[list[int]]
) -> None:
    written: list[list[int]] = []

    async def write(items: Sequence[int]) -> None:
        written.append(list(items))
        if 0 in items:
            raise error

    together = BatchWriter(write)
    results = await asyncio.gather(*(together.write(number) for number in range(2)), return_exceptions=True)
    assert written == attempts
    assert results == [error, None if len(attempts) > 1 else error]
