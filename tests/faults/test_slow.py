"""A slice of the slow proxy; all of it: ``make faults``."""

import pytest

from faults import slow
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("no_window", marks=pytest.mark.thorough),
        pytest.param("least_window_unknown", marks=pytest.mark.thorough),
        pytest.param("window_shorter_than_a_call", marks=pytest.mark.thorough),
    ],
)
async def test_call_that_takes_long_blocks_its_like_whatever_the_window(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await slow.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
