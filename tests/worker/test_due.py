"""The engine of due work: bounded slots, one look after the other, told or not, and what is written together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from payment_service.scheduling import due
from payment_service.scheduling.due import BatchWriter, Dispatcher, Kind
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
    away: bool = False
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
            if turn in self.fails:
                raise RuntimeError("this one")
            self.done.append(turn)
        finally:
            self.under_way.discard(turn)

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
