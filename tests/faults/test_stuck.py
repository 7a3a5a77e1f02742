"""A slice of what stands still: a process that is stopped, a row that cannot be settled; all of it: ``make faults``."""

import pytest

from faults import stuck
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize(
    "case",
    [
        "create/after-tx1, settled meanwhile",
        pytest.param("refund/connected", marks=pytest.mark.thorough),
        pytest.param("row_breaks_a_law", marks=pytest.mark.thorough),
    ],
)
async def test_what_stands_still_sends_nothing_late_and_keeps_no_other_back(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await stuck.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
