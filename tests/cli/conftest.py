"""Commands run as processes, over a database that each test finds empty; and one rig, beside which commands run."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.database import Server, connect_for_emptying, empty_tables
from tests.support.rig import Rig


@pytest.fixture(scope="session")
async def shell_url(server: Server, worker_id: str) -> str:
    return await server.make(f"cli_{worker_id}")


@pytest.fixture(scope="session")
async def emptying_shell(shell_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect_for_emptying(shell_url)
    yield connection
    await connection.close()


@pytest.fixture
async def shell(shell_url: str, emptying_shell: asyncpg.Connection, tmp_path: Path) -> Rig:
    """Where commands run: settings and an empty database at head, nothing else running."""
    await empty_tables(emptying_shell)
    return Rig(tmp_path, shell_url)


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
