"""Every world that can be reached, breadth first, so that the way to a broken promise is the shortest one."""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.model.world import Ask, Decisions, Model, Verb, World, Wrong


@dataclass(frozen=True)
class Explored:
    """What came of an exploration."""

    asks: tuple[Ask, ...]
    states: int
    depth: int
    seconds: float
    wrong: str | None = None
    """The promise that is broken."""
    trace: Sequence[str] = ()
    """The steps that lead there."""


class TooManyError(Exception):
    """The bound was reached before the end: nothing can be said."""


def explore(verb: Verb, decisions: Decisions, asks: Iterable[Ask], *, at_most: int = 3_000_000) -> Explored:
    """Explore everything that can come of these asks.

    Raises:
        TooManyError: when there are more worlds than ``at_most``.
    """
    started = time.monotonic()
    model = Model(verb, decisions)
    first = World(asks=tuple(sorted(asks)))
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    depth_of = {first: 0}
    waiting = deque([first])
    depth = 0

    def ended(world: World, wrong: str | None, *last: str) -> Explored:
        trace = [*_way(came_from, world), *last]
        return Explored(first.asks, len(came_from), depth, time.monotonic() - started, wrong, trace if wrong else ())

    while waiting:
        world = waiting.popleft()
        depth = depth_of.pop(world)
        words = ""
        try:
            model.check_end(world)
            for words, after in model.steps(world):
                if after not in came_from:
                    came_from[after] = (world, words)
                    depth_of[after] = depth + 1
                    waiting.append(after)
        except Wrong as wrong:
            return ended(world, str(wrong), f"then: {wrong}")
        if len(came_from) > at_most:
            raise TooManyError(f"{len(came_from)} worlds for {first.asks}")
    return ended(first, None)


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    steps = []
    while (step := came_from[world]) is not None:
        world, words = step
        steps.append(words)
    return steps[::-1]
