"""Programs as processes of their own: started, asked whether they are ready, stopped by process id, read.

A process is a fork of a server that has imported everything, with its own environment, folder, arguments, standard
streams and session: it is there within half a second. ``fork=False`` starts a new interpreter, for tests of just that.
"""

import contextlib
import ctypes
import multiprocessing
import os
import random
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Self

import httpx

from payment_service.cli.commands import COMMANDS
from tests.support.waiting import until

COMMAND_ENDS_WITHIN_S = 60
_PR_SET_PDEATHSIG = 1

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "kaspi_sandbox.server",
        *(f"payment_service.cli.{name.replace('-', '_')}" for name in COMMANDS),
        "httpcore",
        "uvicorn.loops.uvloop",
        "uvicorn.protocols.http.httptools_impl",
        "pytest",
        __name__,
    ]
)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment that holds nothing of the one that the tests run in."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", **more}


def foreign(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program that is not ours, which writes to ``log``. Should this process be killed, the kernel ends it."""
    with log.open("wb") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class Process:
    """One process of ``python -m``, and what it writes to ``FOLDER/NAME.log``."""

    def __init__(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        name: str,
        port: int = 0,
        fork: bool = True,
    ) -> None:
        self.name, self.port, self.url = name, port, f"http://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        self._process: BaseProcess | subprocess.Popen[bytes]
        if fork:
            streams = [os.devnull, str(self.log), str(self.log)]
            self._process = _forked(words, environment, folder, streams)
        else:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    env=dict(environment),
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a signal is for it alone
                )

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; minus the signal that killed it."""
        return self._process.poll() if isinstance(self._process, subprocess.Popen) else self._process.exitcode

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    @property
    def written(self) -> str:
        """Everything it wrote so far."""
        return self.log.read_text("utf-8") if self.log.exists() else ""

    async def ready(self, path: str = "/health/ready", *, within_s: float = 30) -> Self:
        """Wait until it answers that it is ready.

        Raises:
            RuntimeError: when it ended.
            TimeoutError: when it is not ready after so many seconds.
        """
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=within_s) as client:

            async def answers() -> bool:
                if not self.alive:
                    raise RuntimeError(f"{self.name} ended at its start:\n{self.written[-3000:]}")
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(self.url + path)).status_code == 200
                return False

            await until(answers, f"{self.name} is ready", within_s=within_s)
        return self

    def signal(self, sign: Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    async def ended(self, within_s: float = 20) -> int:
        """Wait for its end; returns its exit code.

        Raises:
            TimeoutError: when it lives after so many seconds.
        """

        async def code() -> tuple[int] | None:
            return None if (found := self.exit_code) is None else (found,)

        return (await until(code, f"{self.name} ends", within_s=within_s))[0]

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(SIGKILL)
        await self.ended()

    async def stop(self, sign: Signals = SIGTERM) -> int:
        """Send it a signal and wait for its end; returns its exit code.

        Raises:
            TimeoutError: when the signal did not end it; it is killed then.
        """
        self.signal(sign)
        try:
            return await self.ended()
        except TimeoutError:
            await self.kill()
            raise


def run(
    words: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    text: str = "",
    program: str = "payment_service",
) -> CompletedProcess[str]:
    """Run a command of a program, of ``payment-service`` by default, to its end, with this text as its input."""
    with TemporaryDirectory(prefix="command-") as streams:
        files = [Path(streams) / name for name in ("in", "out", "err")]
        files[0].write_text(text, encoding="utf-8")
        process = _forked((program, *words), environment, folder, [str(file) for file in files])
        process.join(COMMAND_ENDS_WITHIN_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{words} did not end in {COMMAND_ENDS_WITHIN_S} s")
        out, err = (file.read_text("utf-8") for file in files[1:])
        return CompletedProcess(list(words), process.exitcode, out, err)


def _forked(words: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[str]) -> BaseProcess:
    words, environment = list(words), dict(environment)
    process: BaseProcess = _forks.Process(target=_child, args=(words, environment, str(folder), streams), daemon=True)
    process.start()
    return process


def _child(words: Sequence[str], environment: Mapping[str, str], folder: str, streams: Sequence[str]) -> None:
    """The body of a forked process: what ``python -m`` does."""
    os.setsid()  # a signal to the group of the tests, such as Ctrl-C, is not for it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, SIGKILL)  # should the tests be killed, so is it
    random.seed()  # a fork begins with the numbers of its parent
    for number, stream in enumerate(streams):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
        os.dup2(os.open(stream, flags, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, 1, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, open to the end
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
