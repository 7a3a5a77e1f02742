"""Whatever happens in the model, the decisions of the service break no promise; each planted mistake breaks one."""

import pytest

from tests.model.explore import explore
from tests.model.mutations import MUTATIONS, NO_WINDOW, SERVICE, SHORT_WINDOW, SLICE
from tests.model.world import PAYMENTS, Ask, Decisions, Verb

QUICK = SLICE[:-1]
"""All but the longest one."""


@pytest.mark.parametrize(("verb", "asks"), QUICK)
def test_no_promise_is_broken_whatever_happens(verb: Verb, asks: tuple[Ask, ...]) -> None:
    explored = explore(verb, SERVICE, asks)
    assert explored.wrong is None, explored.trace
    assert explored.states > 3_000


@pytest.mark.thorough
@pytest.mark.parametrize("decisions", [NO_WINDOW, SHORT_WINDOW])
@pytest.mark.parametrize(("verb", "asks"), SLICE)
def test_no_promise_is_broken_whatever_the_window(verb: Verb, asks: tuple[Ask, ...], decisions: Decisions) -> None:
    explored = explore(verb, decisions, asks)
    assert explored.wrong is None, explored.trace


@pytest.mark.parametrize("name", MUTATIONS)
def test_planted_mistake_is_found_by_the_shortest_way(name: str) -> None:
    mutation = MUTATIONS[name]
    explored = explore(mutation.verb, mutation.decisions, mutation.asks)
    assert explored.wrong is not None
    assert mutation.breaks in explored.wrong
    assert len(explored.trace) - 1 <= 20


def test_exploration_is_the_same_every_time() -> None:
    once, twice = (explore(PAYMENTS, SERVICE, SLICE[1][1]) for _ in range(2))
    assert (once.states, once.depth) == (twice.states, twice.depth)
