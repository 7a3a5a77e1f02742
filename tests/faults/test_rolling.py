"""A slice of the rolling restart behind nginx, and what nginx repeats; all of it: ``make faults``."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from faults import rolling
from faults.balancer import DEFAULT, OFF, PROGRAM, Nginx
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(autouse=True)
def program() -> None:
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed")


@pytest.mark.thorough
async def test_processes_are_replaced_behind_nginx_and_nobody_is_told_of_it(bench: Bench) -> None:
    await rolling.run(bench)
    assert [row.case for row in bench.rows] == list(rolling.SLICE)


class Dying:
    """Two processes that die of every request but the question for their health, once they have read it."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.servers: list[asyncio.Server] = []

    async def start(self) -> list[int]:
        self.servers = [await asyncio.start_server(self._serve, "127.0.0.1", 0) for _ in range(2)]
        return [server.sockets[0].getsockname()[1] for server in self.servers]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET /health "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                self.read.append(head.decode())
        except asyncio.IncompleteReadError:
            pass  # whoever connected only looked whether somebody listens
        finally:
            writer.close()


@pytest.fixture
async def dying() -> AsyncIterator[Dying]:
    found = Dying()
    yield found
    for server in found.servers:
        server.close()


@pytest.mark.parametrize(
    ("method", "repeats", "times"),
    [
        ("POST", OFF, 1),
        ("POST", DEFAULT, 1),
        ("GET", DEFAULT, 2),
        pytest.param("GET", OFF, 1, marks=pytest.mark.thorough),
        ("POST", f"{DEFAULT} non_idempotent", 2),
    ],
)
async def test_documented_nginx_never_sends_a_request_again(
    tmp_path: Path, dying: Dying, method: str, repeats: str, times: int
) -> None:
    """With other words than ``off`` it sends some again: this is what docs/deploy.md says of them."""
    async with (
        Nginx(tmp_path / "nginx", await dying.start(), repeats=repeats) as nginx,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.request(
            method,
            f"{nginx.url}/payments",
            content=b"{}" if method == "POST" else None,
            headers={"Idempotency_Key": "refused by the service"},
        )
    assert answer.status_code == 502
    assert [head.partition(" ")[0] for head in dying.read] == [method] * times
    # Dropped on the way, as nginx does without a word, it would be a request without its key.
    assert all("\r\nidempotency_key: refused" in head.lower() for head in dying.read)
