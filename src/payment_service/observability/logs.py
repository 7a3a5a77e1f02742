"""Logs: one line per fact, JSON in production, readable in development, secrets in neither.

Owns the configuration of structlog and of the standard library's loggers. Request id, payment id and shop travel in
structlog's context variables.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_PHONE = re.compile(r"(?<![0-9A-Za-z])(\+?[78])7\d{5}(\d{4})(?![0-9A-Za-z])")
_QUERY_SECRET = re.compile(r"(?i)\b(access_?token|device_?token|api_?key|phone|password)=[^&\s\"']+")
_BOT_TOKEN = re.compile(r"/bot\d+:[A-Za-z0-9_-]+")
_URL_PASSWORD = re.compile(r"(://[^/\s:@]+:)[^@\s/]+@")


def scrub(text: str) -> str:
    """Blank out what looks like a phone number, a secret in a query or a password in an address."""
    text = _QUERY_SECRET.sub(r"\1=[hidden]", text)
    text = _BOT_TOKEN.sub("/bot[hidden]", text)
    text = _URL_PASSWORD.sub(r"\1[hidden]@", text)
    return _PHONE.sub(r"•••\2", text)


def _scrub_all(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last guard, not the first: nothing secret should be handed to a log at all."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = scrub(value)
    return event


def configure(*, readable: bool, level: str = "INFO") -> None:
    """Set up logging for this process: ``readable`` lines for people, else JSON, to standard error."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.format_exc_info,
        _scrub_all,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if readable
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.root.handlers = [handler]
    logging.root.setLevel(level)
    for name in ("httpx", "httpcore", "uvicorn.access"):  # these log whole addresses, queries included
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    logging.getLogger("alembic").setLevel(logging.WARNING)


def bind(**facts: object) -> None:
    """Put facts into every later line of this request."""
    structlog.contextvars.bind_contextvars(**facts)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger for one module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
