"""Commands run as processes, each test over a new database; and one whole rig for commands beside a running service."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.database import Server
from tests.support.rig import Rig


@pytest.fixture
async def shell(server: Server, worker_id: str, tmp_path: Path) -> Rig:
    """Where commands run: settings and a database at head, nothing else running."""
    return Rig(tmp_path, await server.make(f"cli_{worker_id}"))


@pytest.fixture
async def empty_shell(server: Server, worker_id: str, tmp_path: Path) -> Rig:
    """The same over a database that was never migrated."""
    return Rig(tmp_path, await server.make(f"cli_empty_{worker_id}", empty=True))


@pytest.fixture(scope="package")
async def serving(server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A running service to use commands beside."""
    async with Rig(tmp_path_factory.mktemp("cli"), await server.make(f"cli_serving_{worker_id}")) as rig:
        await rig.serve_all(services=1)
        yield rig
