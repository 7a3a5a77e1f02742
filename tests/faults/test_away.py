"""A slice of those who are away: a service killed with nobody to find what it left; all of it: ``make faults``."""

import pytest

from faults import away
from faults.bench import Bench

# Most of the time it waits until a lease and a window are over. That what is asked for again is refused or answered by
# its age, and never sent again, is in tests/payments/test_in_flight.py, with the clock set.
pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.thorough]


@pytest.mark.parametrize("case", ["killed_applied", "database_away_applied"])
async def test_what_is_asked_again_while_nobody_works_is_done_once_and_ends(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await away.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
