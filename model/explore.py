"""Every world that can be reached, breadth first, so that the way to a broken promise is the shortest one.

Once the last ask was decided, no row looks at another one any more: what is left of a world falls apart into its rows,
and each goes its own way. So ``apart`` explores a row's rest once instead of beside every rest of every other row; two
rows that may each still take effect may both do so. ``apart`` finds the same promises broken, and names no steps.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from model.world import PAID, Ask, Decisions, Model, Verb, World, Wrong


@dataclass(frozen=True)
class Explored:
    """What came of an exploration."""

    asks: tuple[Ask, ...]
    states: int
    depth: int
    """The most steps that it takes to reach a world; rests that were explored apart do not count."""
    seconds: float
    wrong: str | None = None
    """The promise that is broken."""
    trace: Sequence[str] = ()
    """The steps that lead there."""


class TooManyError(Exception):
    """The bound was reached before the end: nothing can be said."""


def explore(
    verb: Verb, decisions: Decisions, asks: Iterable[Ask], *, apart: bool = False, at_most: int = 3_000_000
) -> Explored:
    """Explore everything that can come of these asks.

    Raises:
        TooManyError: when there are more worlds than ``at_most``.
    """
    started = time.monotonic()
    model = Model(verb, decisions)
    first = World(asks=tuple(sorted(asks)))
    rests = _Rests(model)
    came_from: dict[World, tuple[World, str] | None] = {first: None}
    depth_of = {first: 0}
    waiting = deque([first])
    depth = 0

    def ended(wrong: str | None = None, trace: Sequence[str] = ()) -> Explored:
        states = len(came_from) + len(rests.after)
        return Explored(first.asks, states, depth, time.monotonic() - started, wrong, trace)

    while waiting:
        world = waiting.popleft()
        depth = depth_of.pop(world)
        try:
            model.check_end(world)
            if apart and not world.asks and all(process.at != "looked" for process in world.processes):
                rests.add(world)
                continue
            for words, after in model.steps(world):
                if after not in came_from:
                    came_from[after] = (world, words)
                    depth_of[after] = depth + 1
                    waiting.append(after)
        except Wrong as wrong:
            return ended(str(wrong), () if apart else [*_way(came_from, world), f"then: {wrong}"])
        if len(came_from) > at_most:
            raise TooManyError(f"{len(came_from)} worlds for {first.asks}")
    try:
        rests.check()
    except Wrong as wrong:
        return ended(str(wrong))
    return ended()


@dataclass
class _Rests:
    """What can still come of rows that no ask will see, each by itself."""

    model: Model
    after: dict[World, list[World]] = field(default_factory=dict)
    """Every world of one row, and what can follow."""
    beside: set[tuple[tuple[World, frozenset[int]], ...]] = field(default_factory=set)
    """Which rests there are beside each other, each with its rivals."""

    def add(self, world: World) -> None:
        """Explore what is left of a world.

        Raises:
            Wrong: when a row breaks a promise by itself.
        """
        rests = tuple((self._rest(world, number), row.rivals) for number, row in enumerate(world.rows))
        if rests not in self.beside:
            self.beside.add(rests)
            for rest, _rivals in rests:
                self._explore(rest)

    @staticmethod
    def _rest(world: World, number: int) -> World:
        row = world.rows[number]._replace(rivals=frozenset())
        own = tuple(process._replace(row=0) for process in world.processes if process.row == number)
        return World(rows=(row,), processes=own)

    def _explore(self, rest: World) -> None:
        waiting = [rest]
        while waiting:
            world = waiting.pop()
            if world not in self.after:
                self.model.check_end(world)
                self.after[world] = [following for _words, following in self.model.steps(world)]
                waiting += self.after[world]

    def check(self) -> None:
        """Hold the promises that are about several rows, and that each row ends.

        Raises:
            Wrong: when one is broken.
        """
        if len(self.leading_to(_is_at_rest)) < len(self.after):
            raise Wrong("a row can come to where it never ends, and nobody is told")
        takes_effect = self.leading_to(lambda rest: bool(rest.rows[0].effects))
        for rests in self.beside:
            amounts = sum(rest.rows[0].amount for rest, _rivals in rests if rest in takes_effect)
            if amounts > PAID:
                raise Wrong("more was paid back than was paid")
            for number, (rest, rivals) in enumerate(rests):
                for rival in rivals:
                    if rest in takes_effect and rests[rival][0] in takes_effect:
                        raise Wrong(f"rows {rival} and {number} are one request, and both took effect")

    def leading_to(self, is_goal: Callable[[World], bool]) -> set[World]:
        """The rests from which a world can be reached that is one of those."""
        before = defaultdict(list)
        for world, all_after in self.after.items():
            for after in all_after:
                before[after].append(world)
        waiting = [world for world in self.after if is_goal(world)]
        leading = set(waiting)
        while waiting:
            for world in before[waiting.pop()]:
                if world not in leading:
                    leading.add(world)
                    waiting.append(world)
        return leading


def _is_at_rest(rest: World) -> bool:
    """A row that has ended, or is unknown and so a task of people; and its process has ended too."""
    return not rest.processes and rest.rows[0].state != "sending"


def _way(came_from: dict[World, tuple[World, str] | None], world: World) -> list[str]:
    steps = []
    while (step := came_from[world]) is not None:
        world, words = step
        steps.append(words)
    return steps[::-1]
