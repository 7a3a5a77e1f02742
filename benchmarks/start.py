"""How long programs take to start, in processor time, beside the libraries that each cannot do without.

    python benchmarks/start.py [--against COMMIT] [--rounds N]

A command runs to its end; ``serve`` is read when it has answered ``/health/ready``, which is asked every 20 ms.
``cpu`` is the processor time of the process, user and system, the median of the rounds; ``wall`` is what somebody
waits. Rounds take turns. Floors are the bare imports, in an interpreter of their own.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import httpx
from stage import Database, Stage, cpu_s, free_port, stage

COMMANDS = ("--help", "keys list", "shops list", "payments tasks", "webhooks list", "doctor")
_OF_A_COMMAND = "typer, rich.table, structlog, prometheus_client, pydantic_settings, asyncpg, sqlalchemy.ext.asyncio"
_QUIETLY = "import gc; gc.disable()\nimport "
FLOORS = {  # without searching for garbage, as our own programs import
    "nothing": "",
    "floor of a command": f"{_QUIETLY}{_OF_A_COMMAND}",
    "floor of serve": f"{_QUIETLY}{_OF_A_COMMAND}, uvloop, uvicorn, fastapi",
}
ASK_EVERY_S = 0.02


@dataclass(frozen=True)
class Taken:
    """What one start took, in seconds."""

    cpu: float
    wall: float


def to_its_end(here: Stage, database: Database, words: list[str]) -> Taken:
    """Run a program to its end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=here.folder,
        env=here.environment_of(database),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, code, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    return Taken(used.ru_utime + used.ru_stime, time.monotonic() - began)


def to_its_first_answer(here: Stage, database: Database) -> Taken:
    """Start ``serve`` and wait until it is ready."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "payment_service", "serve", "--port", str(port)],
        cwd=here.folder,
        env=here.environment_of(database),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).is_success:
                    return Taken(cpu_s(process.pid), time.monotonic() - began)
            except httpx.TransportError:
                pass
            if process.poll() is not None:
                raise RuntimeError("serve ended at its start")
            time.sleep(ASK_EVERY_S)
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", help="a commit to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="a part of the name of what is measured")
    wanted = parser.parse_args()
    with stage(pinned=False) as here:
        trees = [here.tree(), *([here.commit(wanted.against)] if wanted.against else [])]
        databases = [here.database(tree) for tree in trees]
        starts: dict[str, list[Callable[[], Taken]]] = {
            name: [lambda code=code: to_its_end(here, databases[0], ["-c", code])] for name, code in FLOORS.items()
        }
        for command in COMMANDS:
            words = ["-m", "payment_service", *command.split()]
            starts[command] = [lambda each=each, words=words: to_its_end(here, each, words) for each in databases]
        starts["serve"] = [lambda each=each: to_its_first_answer(here, each) for each in databases]
        starts = {name: runs for name, runs in starts.items() if wanted.only in name}
        taken: dict[str, list[list[Taken]]] = {name: [[] for _ in runs] for name, runs in starts.items()}
        for _ in range(wanted.rounds + 1):
            for name, runs in starts.items():
                for run, into in zip(runs, taken[name], strict=True):
                    into.append(run())
        print(f"{'':<22}" + "".join(f"{tree.name + ': cpu':>18}{'wall':>8}" for tree in trees))
        for name, each in taken.items():
            columns = [runs[1:] for runs in each]  # the first may have had to compile
            print(
                f"{name:<22}"
                + "".join(
                    f"{median(one.cpu for one in runs):18.2f}{median(one.wall for one in runs):8.2f}"
                    for runs in columns
                )
            )


if __name__ == "__main__":
    main()
