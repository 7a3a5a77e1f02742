"""A service or a worker that may be told to die or to err: ``payment_service`` itself, changed from outside.

What is to happen stands in the environment: ``FAULTS_CRASH=point:nth`` lets the process kill itself when it comes to a
crash point for the nth time (``FAULTS_PAUSE=point:nth``: stop there until it is told to go on), ``FAULTS_PLANT=name``
plants a bug, ``FAULTS_CLOCK=seconds`` shortens the lease of a worker's reading, which has no setting;
``FAULTS_INSIST=seconds`` sets for how long a refused outcome is written down again. Nothing of this is in the package:
it is wrapped around it before the command line is called.
"""

import ctypes
import os
import random
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
STAND_IN = "kaspi_sandbox"
"""The first word of a process that is the stand-in."""


def run(words: Sequence[str]) -> None:
    """Call the command line, with whatever the environment asks for."""
    from faults import planted, points  # noqa: PLC0415 - as above
    from payment_service.cli import main  # noqa: PLC0415 - as above
    from payment_service.payments import polling  # noqa: PLC0415 - as above
    from payment_service.postgres import database  # noqa: PLC0415 - the fork server has imported it already

    if clock := os.environ.get("FAULTS_CLOCK"):
        polling.READING_LEASE_S = int(clock)
    if insist_s := os.environ.get("FAULTS_INSIST"):
        database.RETRY_S = int(insist_s)
    for what, sign in (("FAULTS_CRASH", signal.SIGKILL), ("FAULTS_PAUSE", signal.SIGSTOP)):
        if point := os.environ.get(what):
            name, _, nth = point.rpartition(":")
            points.install(name, int(nth), Path(os.environ["FAULTS_MARK"]), sign)
    if plant := os.environ.get("FAULTS_PLANT"):
        planted.install(plant)
    sys.argv = ["payment-service", *words]
    main()


def run_stand_in(words: Sequence[str]) -> None:
    """Call the stand-in's command line."""
    from kaspi_sandbox.__main__ import main  # noqa: PLC0415 - as above

    sys.argv = ["kaspi_sandbox", *words]
    main()


def child(words: Sequence[str], environment: Mapping[str, str], folder: str, log: str) -> None:
    """The body of a process that the fork server made: a program with its own environment, session and log."""
    os.setsid()  # a Ctrl-C is for the rig alone, which then ends its processes
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # and should the rig be killed, so are they
    random.seed()  # a fork begins with the numbers of its parent
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number, descriptor in enumerate((os.open(os.devnull, os.O_RDONLY), written, written)):
        os.dup2(descriptor, number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, 1, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, open to the end
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    run_stand_in(words[1:]) if words[0] == STAND_IN else run(words)


if __name__ == "__main__":
    run(sys.argv[1:])
