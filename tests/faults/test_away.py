"""A slice of those who are away: a service killed with nobody to find what it left; all of it: ``make faults``."""

import pytest

from faults import away
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize("case", ["killed_applied", pytest.param("database_away_applied", marks=pytest.mark.thorough)])
async def test_what_is_asked_again_while_nobody_works_is_done_once_and_ends(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await away.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
