"""A short slice of ``make events``: real processes, a receiver that fails half of its calls and is killed twice."""

from pathlib import Path

import pytest

from faults.flood import flood
from tests.support.database import Server


@pytest.mark.timeout(300)  # as long as it takes where others work, too
@pytest.mark.thorough
async def test_flood_to_a_failing_receiver_loses_nothing(server: Server, worker_id: str, tmp_path: Path) -> None:
    report = await flood(tmp_path, await server.make(f"flood_{worker_id}"), 30, workers=1)
    assert report.events == 30
    assert not report.problems, report
