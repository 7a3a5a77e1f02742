"""Which bodies are accepted: JSON that is declared as JSON, not compressed."""

from collections.abc import Mapping
from email.message import Message
from functools import lru_cache

from starlette.exceptions import HTTPException


def check(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a body that would have to be guessed at (RFC 9110, section 15.5.16).

    Raises:
        HTTPException: 415, with the header field that says what to send instead.
    """
    if headers.get(b"content-encoding", b"").lower() not in {b"", b"identity"}:
        sentence = "The body must not be compressed: send it without Content-Encoding."
        raise HTTPException(415, sentence, headers={"Accept-Encoding": "identity"})
    if not _is_json(headers.get(b"content-type", b"").decode("latin-1")):
        sentence = "The body must be JSON and be announced as such: send the header Content-Type: application/json."
        raise HTTPException(415, sentence, headers={"Accept": "application/json"})


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    message = Message()
    message["Content-Type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
