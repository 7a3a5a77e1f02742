"""nginx before the services, as docs/deploy.md says: that very text, with other addresses and without TLS.

It runs on 127.0.0.1, keeps everything that it writes in a folder of its own, and ends with the rig.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGHUP, SIGTERM, Signals
from types import TracebackType
from typing import Final, Self

import httpx

from tests.support.processes import foreign, free_port
from tests.support.waiting import until

DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "deploy.md"
PROGRAM: Final = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
"""None where it is not installed."""
OFF: Final = "off"
DEFAULT: Final = "error timeout"
"""What ``proxy_next_upstream`` is when the configuration does not name it."""
_FRAME: Final = """
worker_processes 2;
pid nginx.pid;
error_log error.log error;
events {{ worker_connections 512; }}
http {{
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format attempts '$request_method $uri|$status|$upstream_addr|$upstream_bytes_sent|$upstream_bytes_received';
    access_log access.log attempts;
{documented}
}}
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One upstream that nginx asked for a request. Bytes as nginx counts them."""

    address: str
    sent: int
    received: int


@dataclass(frozen=True, slots=True)
class Passed:
    """A request as nginx's log has it."""

    what: str
    status: int
    attempts: tuple[Attempt, ...]

    @property
    def repeated_after_sending(self) -> bool:
        """Whether another process was asked for what one may have read."""
        return any(attempt.sent for attempt in self.attempts[:-1])


class Nginx:
    """One nginx. Use as an asynchronous context."""

    name = "nginx"

    def __init__(self, folder: Path, ports: Sequence[int], *, repeats: str = OFF) -> None:
        """``repeats``: after what nginx asks another process, by its own words (``proxy_next_upstream``)."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder, self._repeats = folder, repeats
        self._passed = 0
        folder.mkdir()
        self._configure(ports)

    async def __aenter__(self) -> Self:
        self._process = self._started()
        try:
            await self._ready()
        except BaseException:
            self._signal(SIGTERM)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal(SIGTERM)

        async def ended() -> bool:
            return self._process.poll() is not None

        await until(ended, "nginx ends", within_s=30)

    async def reload(self, ports: Sequence[int]) -> None:
        """Ask other services from now on, and wait until the workers that knew the earlier ones have ended."""
        before = self._workers()
        self._configure(ports)
        self._signal(SIGHUP)

        async def replaced() -> bool:
            now = self._workers()
            return bool(now) and not before & now

        await until(replaced, "the workers of nginx are replaced", within_s=60)

    def taken(self) -> list[Passed]:
        """What it passed on since this was last asked."""
        lines = (self._folder / "access.log").read_text().splitlines()
        fresh, self._passed = lines[self._passed :], len(lines)
        return [_read(line) for line in fresh]

    def _started(self) -> subprocess.Popen[bytes]:
        assert PROGRAM, "nginx is not installed"
        command = [PROGRAM, "-p", f"{self._folder}/", "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]
        return foreign(command, self._folder / "output.log")

    async def _ready(self) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:

            async def answers() -> bool:
                if self._process.poll() is not None:
                    raise RuntimeError(f"nginx ended at its start:\n{(self._folder / 'output.log').read_text()}")
                try:
                    return (await client.get(f"{self.url}/health")).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(answers, "nginx is ready", within_s=30)

    def _configure(self, ports: Sequence[int]) -> None:
        text = documented(self.port, ports, self._repeats)
        (self._folder / "nginx.conf").write_text(_FRAME.format(documented=text))

    def _signal(self, sign: Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(sign)

    def _workers(self) -> set[str]:
        pid = self._process.pid
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def documented(port: int, upstreams: Sequence[int], repeats: str) -> str:
    """The configuration of docs/deploy.md, listening on a port of 127.0.0.1, without TLS, before other services."""
    never = f"proxy_next_upstream {OFF};"
    found = re.search(r"^```nginx\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    text = found[1]
    assert never in text
    servers = re.findall(r"^ *server 10\.[\d.]+:8000(.*)\n", text, re.MULTILINE)
    ours = "".join(f"    server 127.0.0.1:{upstream}{servers[0]}\n" for upstream in upstreams)
    text = re.sub(r"(^ *server 10\..*\n)+", ours, text, flags=re.MULTILINE)
    text = re.sub(r"^ *ssl_.*\n", "", text, flags=re.MULTILINE)
    text = text.replace(never, f"proxy_next_upstream {repeats};")
    return text.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")


def _read(line: str) -> Passed:
    what, status, *lists = line.split("|")
    addresses, sent, received = (re.split(r", | : ", one) for one in lists)
    attempts = zip(addresses, sent, received, strict=True)
    return Passed(what, int(status), tuple(Attempt(one, _count(out), _count(back)) for one, out, back in attempts))


def _count(text: str) -> int:
    return int(text) if text.isdigit() else 0
