"""Commands of ``payment-service`` as processes of their own that need not import everything each time.

A fork server imports the program once; each command is a fork of it, with its own environment, folder, arguments and
standard streams. Two tests start the program in the ordinary way, and so does every server of the rig.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

from payment_service.cli.commands import COMMANDS

PATIENCE_S = 60

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([f"payment_service.cli.{name.replace('-', '_')}" for name in COMMANDS] + ["pytest"])


def run(words: Sequence[str], *, environment: Mapping[str, str], folder: Path, text: str) -> "CompletedProcess[str]":
    """Run a command to its end."""
    with TemporaryDirectory(prefix="command-") as streams:
        files = [Path(streams) / name for name in ("in", "out", "err")]
        for file in files:
            file.write_text(text if file.name == "in" else "", encoding="utf-8")
        process: BaseProcess = _context.Process(
            target=_command, args=(list(words), dict(environment), str(folder), [str(file) for file in files])
        )
        process.start()
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()
            raise AssertionError(f"{words} did not end in {PATIENCE_S} s")
        out, err = (file.read_text("utf-8") for file in files[1:])
        return CompletedProcess(list(words), process.exitcode, out, err)


def _command(words: list[str], environment: dict[str, str], folder: str, files: list[str]) -> None:
    for number, (file, flags) in enumerate(zip(files, (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY), strict=True)):
        os.dup2(os.open(file, flags), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - a descriptor, open to the end
        for number, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["payment-service", *words]

    from payment_service.cli import main  # noqa: PLC0415 - imported by the fork server already

    main()
