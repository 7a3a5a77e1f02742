"""The second, independent model finds every bug that is planted in it, and none in the rules."""

import os

import pytest

from model import spin

QUICK = {"RETRIES", "LOST_MEANS_NOT_SENT"}
"""The bugs of `make test`; the others are planted in `make thorough`, and in the first model: test_model."""


@pytest.fixture(autouse=True)
def programs() -> None:
    if missing := spin.missing():
        reason = f"{', '.join(missing)} not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.parametrize(
    "bug", [pytest.param(bug, marks=() if bug in QUICK else pytest.mark.thorough) for bug in spin.BUGS]
)
def test_planted_bug_is_found(bug: str) -> None:
    assert spin.explore({bug: 1}, optimise=0).violated is not None


def test_nothing_is_found_in_the_rules() -> None:
    explored = spin.explore({"KEYED": 1}, optimise=1)
    assert explored.violated is None
    assert explored.states > 100_000


@pytest.mark.thorough
@pytest.mark.parametrize("rules", spin.RULES)
def test_nothing_is_found_whatever_the_window(rules: dict[str, int]) -> None:
    explored = spin.explore(rules)
    assert (explored.violated, explored.states > 100_000) == (None, True)
