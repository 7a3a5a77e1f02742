"""The address of a mail server, as a setting writes it."""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

_HERE: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_PORTS: Final = {"smtp": 587, "smtps": 465}


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """How to reach the mail server: ``smtps`` speaks TLS from the start, ``smtp`` changes to it (STARTTLS)."""

    host: str
    port: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool
    start_tls: bool

    @classmethod
    def of(cls, url: str) -> "SmtpServer":
        """Read ``smtps://user:password@host:port``. A server on this machine (``127.0.0.1``) may do without TLS.

        Raises:
            ValueError: for anything else. Its text quotes nothing of the URL.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("must be smtps://USER:PASSWORD@HOST:PORT, percent-encoded where it is special") from None
        if parts.scheme not in _PORTS or not parts.hostname or port == 0 or parts.path.strip("/") or parts.query:
            raise ValueError("must be smtps://USER:PASSWORD@HOST:PORT or smtp://USER:PASSWORD@HOST:PORT")
        return cls(
            host=parts.hostname,
            port=port or _PORTS[parts.scheme],
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=parts.scheme == "smtps",
            start_tls=parts.scheme == "smtp" and parts.hostname not in _HERE,
        )
