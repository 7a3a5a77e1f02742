import threading
import time
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest

from kaspi_sandbox.app import create_app
from kaspi_sandbox.server import build_server

from .calls import Caller, client_of, config


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    async with client_of(config()) as client:
        yield Caller(client)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A stand-in on a real socket, whose long times are short."""
    quick = config(port=0, deadline_s=0.2, hang_s=0.2)
    server = build_server(create_app(quick), quick.host, quick.port)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
async def real(address: str) -> AsyncIterator[Caller]:
    async with httpx.AsyncClient(base_url=address, timeout=10) as client:
        await client.post("/_reset")
        yield Caller(client)
