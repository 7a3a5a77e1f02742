"""Standard error, written to without waiting for whoever reads it.

A pipe that nobody reads is full after a while, a collector of logs hangs, a terminal is stopped. Whoever waited for
them would stand still in the middle of a payment, with all others. What cannot be written at once is lost and counted.
"""

import contextlib
import os
import select
import sys
from typing import Final

_DESCRIPTOR: Final = 2


class StandardError:
    """What loggers write to. No method raises, and none waits."""

    def __init__(self, descriptor: int | None = None) -> None:
        """``descriptor`` is standard error's unless it is given."""
        if descriptor is None and sys.__stderr__ is not None:
            descriptor = _DESCRIPTOR  # else it was closed from the start, and may be anything by now
        self._descriptor = descriptor
        self._is_within_line = False
        """Whether a line was cut off: the next one begins below it."""

    def write(self, text: str) -> int:
        """Write a text that is as many whole lines as it is; the number of characters taken, as of any stream."""
        data = ("\n" if self._is_within_line else "").encode() + text.encode("utf-8", "backslashreplace")
        for start in range(0, len(data), select.PIPE_BUF):
            if not self._take(data[start : start + select.PIPE_BUF]):
                self._is_within_line = self._is_within_line or start > 0
                _count_lost()
                break
        else:
            self._is_within_line = False
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def _take(self, piece: bytes) -> bool:
        with contextlib.suppress(OSError, ValueError):
            # What is ready takes PIPE_BUF bytes without waiting.
            if self._descriptor is not None and select.select((), (self._descriptor,), (), 0)[1]:
                return os.write(self._descriptor, piece) == len(piece)
        return False


def _count_lost() -> None:
    from payment_service.observability.metrics import LOG_LINES_LOST  # noqa: PLC0415 - commands start faster without

    LOG_LINES_LOST.inc()
