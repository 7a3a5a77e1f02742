"""In which form a body may come: JSON that is announced as JSON, not compressed."""

from email.message import Message

from fastapi import Request
from starlette.exceptions import HTTPException


async def check(request: Request) -> None:
    """Refuse a body that would have to be guessed at (RFC 9110, section 15.5.16).

    Raises:
        HTTPException: 415, with the header field that says what to send instead.
    """
    if not await request.body():
        return
    coding = request.headers.get("Content-Encoding", "")
    if coding.lower() not in {"", "identity"}:
        sentence = "The body must not be compressed: send it without Content-Encoding."
        raise HTTPException(415, sentence, headers={"Accept-Encoding": "identity"})
    if not _is_json(request.headers.get("Content-Type", "")):
        sentence = "The body must be JSON and be announced as such: send the header Content-Type: application/json."
        raise HTTPException(415, sentence, headers={"Accept": "application/json"})


def _is_json(content_type: str) -> bool:
    message = Message()
    message["Content-Type"] = content_type
    subtype = message.get_content_subtype()
    return message.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
