"""Who acts, and for which request: carried beside the call, written into every audit entry and log line."""

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Origin:
    """The actor (a key's name, ``worker``, or a person at the command line) and the request's id."""

    actor: str
    request_id: str | None = None


origin: ContextVar[Origin] = ContextVar("origin", default=Origin("service"))
