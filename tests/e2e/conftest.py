"""One rig serves the tests of the group ``e2e``; what a test does to a process, it does to one that it started."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Server
from tests.e2e.rig import Rig, whole


@pytest.fixture(scope="package")
async def rig(server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    database_url = await server.make(f"rig_{worker_id}")
    async with whole(tmp_path_factory.mktemp("rig"), database_url) as rig:
        yield rig
