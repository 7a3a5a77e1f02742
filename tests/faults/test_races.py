"""A slice of the races: most of them once, with fewer runners; all of them: ``make faults``."""

import pytest

from tests.faults import races
from tests.faults.bench import Bench


@pytest.mark.parametrize("race", races.SLICE)
async def test_race_makes_nothing_twice_and_nothing_in_the_wrong_place(bench: Bench, race: str) -> None:
    bench.only = race
    try:
        await races.run(bench)
    finally:
        bench.only = None
    assert [row.case for row in bench.rows] == [race]
