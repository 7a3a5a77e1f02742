"""A service or a worker that may be told to die or to err: ``payment_service`` itself, changed from outside.

What is to happen stands in the environment: ``FAULTS_CRASH=point:nth`` lets the process kill itself when it comes to a
crash point for the nth time (``FAULTS_PAUSE=point:nth``: stop there until it is told to go on), ``FAULTS_PLANT=name``
plants a bug, ``FAULTS_CLOCK=seconds`` shortens the lease of a worker's reading, which has no setting;
``FAULTS_INSIST=seconds`` sets for how long a refused outcome is written down again; ``FAULTS_TASKS=name`` writes the
number of tasks into the file ``name.PID`` at each SIGUSR2. Nothing of this is in the package:
it is wrapped around it before the command line is called.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def run(words: Sequence[str]) -> None:
    """Call the command line, with whatever the environment asks for."""
    from faults import planted, points  # noqa: PLC0415 - the fork server has imported all of the service already
    from payment_service.cli import main  # noqa: PLC0415 - as above
    from payment_service.payments import polling  # noqa: PLC0415 - as above
    from payment_service.postgres import database  # noqa: PLC0415 - as above

    if clock := os.environ.get("FAULTS_CLOCK"):
        polling.READING_LEASE_S = int(clock)
    if insist_s := os.environ.get("FAULTS_INSIST"):
        database.RETRY_S = int(insist_s)
    for what, sign in (("FAULTS_CRASH", signal.SIGKILL), ("FAULTS_PAUSE", signal.SIGSTOP)):
        if point := os.environ.get(what):
            name, _, nth = point.rpartition(":")
            points.install(name, int(nth), Path(os.environ["FAULTS_MARK"]), sign)
    if tasks := os.environ.get("FAULTS_TASKS"):
        signal.signal(signal.SIGUSR2, lambda *_: _count_tasks(Path(f"{tasks}.{os.getpid()}")))
    if plant := os.environ.get("FAULTS_PLANT"):
        planted.install(plant)
    sys.argv = ["payment-service", *words]
    main()


def _count_tasks(file: Path) -> None:
    file.write_text(f"{len(asyncio.all_tasks())}\n")


if __name__ == "__main__":
    run(sys.argv[1:])
