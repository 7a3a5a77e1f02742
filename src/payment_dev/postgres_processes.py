"""What the launcher of PostgreSQL asks of the operating system: processes, locks, ports, files.

The one error is `PostgresError`: a sentence that says what to do.
"""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_LOCK_SECONDS = 120


class PostgresError(Exception):
    """The embedded PostgreSQL cannot do what was asked; the message is a sentence that says what to do."""


class Account(NamedTuple):
    """The user the server runs as when we are root: PostgreSQL refuses to run as root."""

    uid: int
    gid: int


class Postmaster(NamedTuple):
    """A living server, as its postmaster.pid names it."""

    pid: int
    port: int
    status: str  # PostgreSQL's own words: starting, ready, stopping


def postmaster(cluster: Path) -> Postmaster | None:
    """The living server of this folder, by its postmaster.pid; None for no file and for a stale one."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, NotADirectoryError, IndexError, ValueError):
        return None
    # The number alone proves nothing: after a crash it may be anybody's, in a container even another
    # PostgreSQL's. Only the first process of a server keeps its command line, which names its folder.
    if f"postgres -D {cluster} " not in _command_line(pid):
        return None
    return Postmaster(pid, port, lines[7].strip() if len(lines) > 7 else "")


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    return run(["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)])[1]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_port(port: int) -> None:
    """Refuse a port that is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does: TIME_WAIT is no obstacle
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise PostgresError(
                f"Port {port} on 127.0.0.1 cannot be used ({reason(error)}): "
                "stop the program that holds it, or choose another port."
            ) from error


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the file lock; it falls with the process, however that ends."""
    with path.open("a") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise PostgresError(
                        f"Another process has held {path} for {_LOCK_SECONDS} seconds: end it and try again."
                    ) from None
                time.sleep(0.02)
        yield


@contextmanager
def as_sentences(data_dir: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a sentence."""
    try:
        yield
    except OSError as error:
        where = error.filename or data_dir
        raise PostgresError(
            f"The embedded PostgreSQL cannot use {where} ({reason(error)}): "
            "make it accessible to this user, free the disk, or choose another data folder."
        ) from error


def run(
    command: Sequence[str | Path],
    *,
    account: Account | None = None,
    extra_env: Mapping[str, str] | None = None,
    seconds: float = 60,
) -> tuple[int, str]:
    """Run to the end; the exit code and everything it said."""
    # The caller's PG* would steer initdb and psql; LC_ALL=C keeps messages in the words we look for.
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
    env |= {"LC_ALL": "C", **(extra_env or {})}
    # A file and no pipe: the server inherits the output and would keep a pipe open, and us waiting, for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 -- our own binaries, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",  # `nobody` may not be allowed to be where we are
            env=env,
            start_new_session=True,  # Ctrl-C in the terminal is for us; we stop the server in order
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        try:
            code = process.wait(seconds)
        except BaseException as error:
            _kill(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise PostgresError(
                    f"{Path(command[0]).name} did not finish in {seconds:.0f} seconds: try again."
                ) from None
            raise
        output.seek(0)
        return code, output.read().decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_private(path: Path, text: str, account: Account | None = None) -> None:
    """Replace a file by one that only its owner reads, whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    give(Path(name), account)
    Path(name).replace(path)


def delete(path: Path) -> None:
    """Remove a file or a folder; what an orphaned initdb still writes is left for the next run."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def give(path: Path, account: Account | None) -> None:
    """Make an account own a file."""
    if account is not None:
        os.chown(path, account.uid, account.gid)


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def reason(error: Exception) -> str:
    """What the operating system says."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def last_complaint(output: str) -> str:
    """The line that says why: the last complaint, or simply the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    complaints = [line for line in lines if re.search(r"\b(FATAL|PANIC|ERROR|error):", line)]
    said = (complaints or lines or ["it said nothing"])[-1]
    return re.sub(r"^.*?\b(FATAL|PANIC|ERROR|error):\s+", "", said).rstrip(".")
