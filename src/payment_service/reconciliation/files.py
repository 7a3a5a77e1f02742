"""Files that are written whole or not at all."""

import os
from pathlib import Path


class CannotWriteError(Exception):
    """A file cannot be written; the text says why."""


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that a reader finds the one before or the whole new one.

    Raises:
        CannotWriteError: when it cannot be written.
    """
    draft = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        with draft.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CannotWriteError(f"{file} cannot be written: {error.strerror}.") from error
