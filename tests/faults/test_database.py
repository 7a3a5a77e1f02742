"""A slice of the database's faults: killed at each statement, one crash of the server; all of them: ``make faults``."""

import pytest

from faults import database
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize("case", ["killed_after", pytest.param("restarted", marks=pytest.mark.thorough)])
async def test_fault_of_the_database_loses_nothing_and_repeats_nothing(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await database.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
