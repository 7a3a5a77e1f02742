"""One bench for the slices of all families: a stand-in, two services and two workers of its own."""

from collections.abc import AsyncIterator

import pytest

from faults.bench import Bench
from tests.support.database import Server


@pytest.fixture(scope="package")  # its workers would go on asking while other tests look at what runs
async def shared_bench(server: Server) -> AsyncIterator[Bench]:
    # Five sweeps a second, by two workers, would take a quarter of a processor.
    settings = {"SWEEP_EVERY_S": "1"}
    async with Bench("slice", seed=1, runs=1, short=True, server=server, settings=settings) as bench:
        yield bench
        assert not bench.violations


@pytest.fixture
async def bench(shared_bench: Bench, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """The bench, for one family's slice: it ends without a violation."""
    shared_bench.family = request.module.__name__.rpartition("test_")[2]
    shared_bench.rows.clear()
    shared_bench.clients.taken()
    yield shared_bench
    assert not shared_bench.violations
