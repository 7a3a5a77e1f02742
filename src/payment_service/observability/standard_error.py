"""Standard error, written to without waiting for whoever reads it.

A pipe that nobody reads fills up, a log collector hangs, a terminal is stopped: a write that waits for them would block
every payment of the process. What cannot be written at once is kept for the next line; lines that would exceed
``BUFFER_BYTES`` are lost and counted.
"""

import contextlib
import os
import select
import sys
from threading import Lock
from typing import Final

BUFFER_BYTES: Final = 1 << 20
"""Some 3,000 lines: those of several seconds under full load."""
_DESCRIPTOR: Final = 2


class StandardError:
    """What loggers write to. No method raises, and none waits."""

    def __init__(self, descriptor: int | None = None) -> None:
        """``descriptor``: by default that of standard error."""
        if descriptor is None and sys.__stderr__ is not None:
            descriptor = _DESCRIPTOR  # else it was closed from the start, and may be anything by now
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._lock = Lock()

    def write(self, text: str) -> int:
        """Write a text of whole lines; returns the number of characters, as any stream does."""
        data = text.encode("utf-8", "backslashreplace")
        if self._buffer:
            self.flush()
        if self._descriptor is None or len(self._buffer) + len(data) > BUFFER_BYTES:
            _count_lost()
        else:
            self._buffer += data
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, as much of it as is taken without waiting."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            # What is ready takes PIPE_BUF bytes without waiting. Whole lines, where other processes write here too.
            while self._buffer and self._descriptor is not None and select.select((), (self._descriptor,), (), 0)[1]:
                end = self._buffer.rfind(b"\n", 0, select.PIPE_BUF) + 1 or select.PIPE_BUF
                del self._buffer[: os.write(self._descriptor, self._buffer[:end])]


def _count_lost() -> None:
    from payment_service.observability.metrics import LOG_LINES_LOST  # noqa: PLC0415 - commands start faster without

    LOG_LINES_LOST.inc()
