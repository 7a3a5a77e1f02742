"""A reply as httptools parses it, read strictly: whatever leaves its end or its meaning in doubt is an error."""

import re
from collections.abc import Iterable
from typing import Final

import httptools
import httpx

_MAX_HEAD_BYTES: Final = 64 * 1024
_STORED: Final = re.compile(r"(?:tcp_(?:\w+_)?|refresh)?(?:hit|stale|updating|revalidated)(?:[ (].*)?", re.IGNORECASE)
"""What caches say in a header of their own, such as ``X-Cache``: nginx's, Squid's, Varnish's and those of networks.
Or in ``Cache-Status`` (RFC 9211), as a parameter."""
_PARTS: Final = re.compile("[,;]")


class Reply:
    """A reply as httptools parses it. Whatever leaves its end or its meaning in doubt is an error."""

    def __init__(self, *, lenient: bool = False) -> None:
        """``lenient`` accepts faults that are common and that most clients accept.

        Those are lines that end without CR, a length beside chunks, chunk sizes with spaces, and data after the reply,
        which is ignored. So it is only for the last call of a connection, and never for a reply that money depends on.
        """
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        self.is_whole = False
        self.keeps_connection = False
        self._ends_with_connection = False
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._lenient = lenient
        self._parser = httptools.HttpResponseParser(self)
        if lenient:
            self._parser.set_dangerous_leniencies(
                lenient_optional_cr_before_lf=True, lenient_chunked_length=True, lenient_spaces_after_chunk_size=True
            )

    def feed(self, data: bytes) -> None:
        """Take what was received; nothing means that the connection ended.

        Raises:
            httpx.RemoteProtocolError: when this is not one whole reply, with nothing behind it.
        """
        if not data:
            if not self._ends_with_connection:
                raise httpx.RemoteProtocolError("The connection ended before the reply was whole.")
            self.is_whole = True
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self._lenient and self.is_whole:
                return
            raise httpx.RemoteProtocolError("The reply is not HTTP/1.1, or more than one.") from None
        self._head_bytes += 0 if self.has_head else len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            raise httpx.RemoteProtocolError("The head of the reply is too long.")

    def body(self) -> bytes:
        """The part of the body that came since the last call of this."""
        came, self._body = b"".join(self._body), []
        return came

    # --- called by the parser; what is raised here ends as HttpParserError

    def on_message_begin(self) -> None:
        """Refuse what comes behind the reply."""
        if self.has_head:
            raise ValueError("a second reply")

    def on_status(self, reason: bytes) -> None:
        """Refuse what is no text."""
        if b"\0" in reason:
            raise ValueError("no text")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what comes behind the body is none."""
        if not self.has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Go on if this is a reply of a supported kind, or an interim one (1xx)."""
        self.status = self._parser.get_status_code()
        if 100 <= self.status < 200 and self.status != 101:
            self.headers.clear()
            return
        framing = [value.lower() for name, value in self.headers if name.lower() == b"transfer-encoding"]
        has_length = any(name.lower() == b"content-length" for name, _ in self.headers)
        is_known = self._parser.get_http_version() in {"1.0", "1.1"} and framing in ([], [b"chunked"])
        if self.status < 200 or not is_known:
            raise ValueError("another protocol")
        self.has_head = True
        self._ends_with_connection = not framing and not has_length

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the reply."""
        self.is_whole = self.has_head
        self.keeps_connection = self.is_whole and self._parser.should_keep_alive()


def is_stored(headers: Iterable[tuple[str, str]], took_s: float) -> bool:
    """Whether a cache says that it gave the reply to an earlier request, by the headers of a call that took so long.

    ``Age`` alone is no sign: some caches always send it. A reply that is older than its call is one.
    """
    # Each cache on the way adds a header, or a value behind a comma; a parameter follows a semicolon.
    told = ((name.lower(), part.strip()) for name, value in headers for part in _PARTS.split(value))
    return any(
        (name == "age" and part.isdecimal() and float(part) > took_s + 1)
        or ("cache" in name and _STORED.fullmatch(part) is not None)
        for name, part in told
    )
