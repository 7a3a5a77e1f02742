"""A slice of the races: most of them once, with fewer runners; all of them: ``make faults``."""

import pytest

from faults import races
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")

QUICK = 6
"""So many races in `make test`; the others in `make thorough`."""


@pytest.mark.parametrize(
    "race",
    [
        pytest.param(race, marks=() if number < QUICK else pytest.mark.thorough)
        for number, race in enumerate(races.SLICE)
    ],
)
async def test_race_makes_nothing_twice_and_nothing_in_the_wrong_place(bench: Bench, race: str) -> None:
    bench.only = race
    try:
        await races.run(bench)
    finally:
        bench.only = None
    assert [row.case for row in bench.rows] == [race]
