"""Until when a money call may leave this machine: set around the call, checked as its first byte is written.

A process may be suspended at any moment: by a signal, swapped out, its machine asleep. A timer of the event loop fires
when the loop runs again, which may be after the byte.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_until: ContextVar[float | None] = ContextVar("send_until", default=None)


def clock() -> float:
    """Seconds of a clock that goes on while the process is suspended and, on Linux, while the machine is asleep."""
    return time.clock_gettime(_CLOCK)


@contextmanager
def sending_until(moment: float) -> Iterator[None]:
    """Within this block a call may leave until this moment of the clock."""
    token = _until.set(moment)
    try:
        yield
    finally:
        _until.reset(token)


def is_over() -> bool:
    """Whether a call may not leave any more. Without a moment, as for readings, it always may."""
    until = _until.get()
    return until is not None and clock() > until
