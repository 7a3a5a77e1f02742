"""Whatever happens in the model, the decisions of the service break no promise; each planted mistake breaks one."""

import pytest

from model.explore import explore
from model.mutations import HARMLESS, LAW, MUTATIONS, NO_WINDOW, SERVICE, SHORT_WINDOW, SLICE
from model.reading import MISTAKES, Decide, explore_readings, service
from model.world import PAYMENTS, Ask, Decisions, Verb


@pytest.mark.parametrize(
    "decisions",
    [SERVICE, *(pytest.param(other, marks=pytest.mark.thorough) for other in (NO_WINDOW, SHORT_WINDOW, LAW))],
)
@pytest.mark.parametrize(("verb", "asks"), SLICE)
def test_no_promise_is_broken_whatever_happens(verb: Verb, asks: tuple[Ask, ...], decisions: Decisions) -> None:
    explored = explore(verb, decisions, asks, apart=True)
    assert explored.wrong is None
    assert explored.states > 500


@pytest.mark.thorough
@pytest.mark.parametrize(("verb", "asks"), SLICE)
def test_exploring_the_rests_of_rows_apart_leaves_nothing_out(verb: Verb, asks: tuple[Ask, ...]) -> None:
    explored = explore(verb, SERVICE, asks)
    assert explored.wrong is None, explored.trace


@pytest.mark.parametrize("name", MUTATIONS)
def test_planted_mistake_is_found_by_the_shortest_way(name: str) -> None:
    mutation = MUTATIONS[name]
    explored = explore(mutation.verb, mutation.decisions, mutation.asks)
    assert explored.wrong is not None
    assert mutation.breaks in explored.wrong
    assert len(explored.trace) - 1 <= 12


@pytest.mark.thorough
@pytest.mark.parametrize("name", MUTATIONS)
def test_planted_mistake_is_found_too_when_rests_are_explored_apart(name: str) -> None:
    mutation = MUTATIONS[name]
    assert explore(mutation.verb, mutation.decisions, mutation.asks, apart=True).wrong is not None


@pytest.mark.thorough
@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_a_mistake_breaks_nothing(name: str) -> None:
    decisions, asks = HARMLESS[name]
    assert explore(PAYMENTS, decisions, asks).wrong is None


@pytest.mark.thorough
def test_exploration_is_the_same_every_time() -> None:
    once, twice = (explore(PAYMENTS, SERVICE, SLICE[1][1]) for _ in range(2))
    assert (once.states, once.depth) == (twice.states, twice.depth)


def test_failure_is_believed_only_after_readings_that_were_made_far_enough_apart() -> None:
    explored = explore_readings(service)
    assert explored.wrong is None, explored.trace


@pytest.mark.parametrize(("decide", "breaks"), MISTAKES.values(), ids=MISTAKES)
def test_planted_mistake_in_reading_is_found(decide: Decide, breaks: str) -> None:
    explored = explore_readings(decide)
    assert explored.wrong is not None
    assert breaks in explored.wrong
