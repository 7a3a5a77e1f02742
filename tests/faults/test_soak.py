"""Half a minute of the soak; twenty: ``make soak``."""

from pathlib import Path

import pytest

from faults.soak import Stayer, soak
from tests.support.processes import Process


@pytest.mark.thorough
@pytest.mark.xdist_group("faults")
async def test_half_a_minute_of_faults_at_random_leaves_the_records_equal_and_nothing_open() -> None:
    one = await soak(0.5, seed=1)
    assert not one.bench.violations
    assert one.webhooks
    assert one.done


@pytest.mark.parametrize(
    ("memory", "at_rest", "law"),
    [
        ([100, 110, 112], [(30, 9), (32, 10)], None),
        ([100, 110, 118], [(30, 9), (30, 9)], "memory_is_flat"),
        ([100, 110, 110], [(30, 9), (34, 9)], "nothing_is_left_open"),
        ([100, 110, 110], [(30, 9), (30, 13)], "no_task_is_left"),
    ],
)
def test_growth_is_found(memory: list[float], at_rest: list[tuple[int, int]], law: str | None) -> None:
    stayer = Stayer("serve", Process.__new__(Process), Path())  # neither is looked at
    stayer.samples = [(moment, mb, 0) for moment, mb in enumerate(mb for third in memory for mb in [third] * 10)]
    stayer.at_rest = at_rest
    assert [problem.partition(":")[0] for problem in stayer.problems(20)] == ([law] if law else [])
