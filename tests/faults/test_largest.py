"""A slice of the largest: every field at its limit; what the other side may answer: ``make faults``."""

import pytest

from faults import largest
from faults.bench import Bench

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.thorough]


@pytest.mark.parametrize(
    "case",
    [
        largest.LARGEST,
        largest.TOO_LARGE,
        "returnOperationId",
    ],
)
async def test_largest_values_are_written_down_and_told(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await largest.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
