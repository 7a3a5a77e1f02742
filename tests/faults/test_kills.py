"""A few kills at random moments; five hundred: ``make faults``."""

import pytest

from faults import kills
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


async def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(bench: Bench) -> None:
    await kills.run(bench)
    assert [row.runs for row in bench.rows] == [kills.SLICE_KILLS]
