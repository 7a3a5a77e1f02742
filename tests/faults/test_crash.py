"""A slice of the crash points; all of them twenty times: ``make faults``."""

import pytest

from faults import crash
from faults.bench import Bench
from faults.points import POINTS

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize(
    "point",
    [
        "create/after-tx1",
        "refund/tx2-commit-sent",
        "worker/claimed",
        pytest.param("link/tx1-commit-sent", marks=pytest.mark.thorough),
        pytest.param("sweep/settle-commit-sent", marks=pytest.mark.thorough),
    ],
)
async def test_a_process_that_dies_at_a_point_loses_nothing_and_repeats_nothing(bench: Bench, point: str) -> None:
    bench.only = point
    try:
        await crash.run(bench)
    finally:
        bench.only = None
    assert [row.case for row in bench.rows] == [point]


def test_there_are_at_least_thirty_crash_points_and_each_is_named_once() -> None:
    assert len(POINTS) >= 30
    assert len(set(POINTS)) == len(POINTS)
