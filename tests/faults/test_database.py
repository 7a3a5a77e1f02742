"""A slice of the database's faults: killed at each statement, one crash of the server; all of them: ``make faults``."""

import pytest

from faults import database
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


async def _plays(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await database.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}


async def test_connection_that_is_killed_loses_nothing_and_repeats_nothing(bench: Bench) -> None:
    await _plays(bench, "killed_after")


@pytest.mark.thorough
async def test_server_that_crashes_loses_nothing_and_repeats_nothing() -> None:
    async with Bench("database", seed=1, runs=1, short=True) as bench:
        await _plays(bench, "restarted")
    assert not bench.violations
