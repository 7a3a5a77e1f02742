"""``payment.pml`` under Spin: whatever the rules allow is explored, and each planted bug must be found.

Spin writes a program in C that walks over every state; so it needs ``spin`` and a C compiler.
"""

import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MODEL = Path(__file__).with_name("payment.pml")
PROGRAMS = ("spin", "cc")
BUGS = (
    "SENDING_DOES_NOT_BLOCK",
    "RETRIES",
    "DEAD_MEANS_FAILED",
    "SETTLES_AT_ONCE",
    "SENDS_LATE",
    "LOST_MEANS_NOT_SENT",
)
RULES: Sequence[Mapping[str, int]] = (
    {"KEYED": 0},
    {"KEYED": 0, "WINDOW": 0},
    {"KEYED": 0, "WINDOW": 2},
    {"KEYED": 1},
)
"""With and without a key; the window as it is set, none at all, and one that is shorter than the lease."""
THREE_ASKS: Sequence[Mapping[str, int]] = ({"KEYED": 1, "ASKS": 3},)


@dataclass(frozen=True)
class Explored:
    """What came of one exploration, breadth first."""

    states: int
    depth: int
    violated: str | None
    """The assertion that does not hold; the shortest way to it is ``depth`` steps long."""
    seconds: float


def missing() -> list[str]:
    """The programs that are not there."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def explore(defines: Mapping[str, int], *, optimise: int = 2) -> Explored:
    """Explore the model under these definitions. Compiled without optimising, a short exploration is over sooner.

    Raises:
        RuntimeError: when the exploration was not complete, and so says nothing.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="payment-model-") as folder:
        words = [f"-D{name}={value}" for name, value in defines.items()]
        _run(folder, "spin", *words, "-a", str(MODEL))
        _run(folder, "cc", f"-O{optimise}", "-w", "-DSAFETY", "-DBFS", "-DMEMLIM=4000", "-o", "pan", "pan.c")
        said = _run(folder, f"{folder}/pan", "-m1000000")
    states, depth = _number(r"(\d+) states, stored", said), _number(r"depth reached (\d+)", said)
    violated = re.search(r"assertion violated (.*?) \(at depth", said)
    if not violated and not re.search(r"errors: 0\b", said):
        raise RuntimeError(said[-2000:])
    if "Search not completed" in said and not violated:
        raise RuntimeError(f"not every state was explored: {said[-2000:]}")
    return Explored(states, depth, violated[1] if violated else None, time.monotonic() - started)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
