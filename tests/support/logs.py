"""What is told to the logs, as production writes it, down to DEBUG."""

import contextlib
import io
import logging
from collections.abc import Iterator

import structlog

from payment_service.observability.logs import configure

QUIET = ("httpx", "httpcore", "uvicorn.access", "uvicorn", "uvicorn.error", "alembic")


@contextlib.contextmanager
def production_logs(*, readable: bool = False, level: str = "DEBUG") -> Iterator[io.StringIO]:
    """Configure logging as production does, write into the text given, and put all back at the end."""
    loggers = [logging.getLogger(name) for name in QUIET]
    before = [(one, one.level, one.handlers, one.propagate) for one in (logging.root, *loggers)]
    structured = structlog.get_config()
    configure(readable=readable, level=level)
    (handler,) = logging.root.handlers
    assert isinstance(handler, logging.StreamHandler)
    lines = io.StringIO()
    handler.setStream(lines)
    try:
        yield lines
    finally:
        for logger, its_level, handlers, propagate in before:
            logger.setLevel(its_level)
            logger.handlers, logger.propagate = handlers, propagate
        structlog.configure(**structured)
