"""What a reply of the proxy means: docs/kaspi-api.md sections 2, 3, 4 and 6, read a second time and for tests only.

Nothing here may be taken from the service: it is the second opinion that the service's own reading is held against.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple


class Operation(StrEnum):
    """The four calls to the proxy."""

    CREATE = "create"
    LINK = "create-link"
    REFUND = "refund"
    STATUS = "status"


class Framing(StrEnum):
    """How a reply tells where it ends."""

    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"
    """It ends where the connection does, so that it may have been cut."""
    PROMISES_MORE = "promises more"
    """Content-Length is more than what comes."""
    PROMISES_LESS = "promises less"
    """Content-Length ends the body after half of it."""
    CHUNK_MISSING = "chunk missing"


@dataclass(frozen=True, slots=True)
class Sent:
    """A reply as the proxy puts it on the wire."""

    body: bytes
    http_status: int = 200
    headers: tuple[str, ...] = ()
    framing: Framing = Framing.LENGTH
    cut: int | None = None
    """Only so many bytes of the whole reply leave; then the connection ends."""

    @property
    def head(self) -> bytes:
        length = {
            Framing.LENGTH: (f"Content-Length: {len(self.body)}",),
            Framing.PROMISES_MORE: (f"Content-Length: {len(self.body) + 7}",),
            Framing.PROMISES_LESS: (f"Content-Length: {len(self.body) // 2}",),
            Framing.CLOSE: (),
        }.get(self.framing, ("Transfer-Encoding: chunked",))
        ending = () if self.stays_open else ("Connection: close",)
        lines = (f"HTTP/1.1 {self.http_status} Whatever", *length, *self.headers, *ending, "", "")
        return "\r\n".join(lines).encode("latin-1")

    @property
    def stays_open(self) -> bool:
        """Whether another reply may follow on the same connection."""
        bodiless = self.http_status < 200 or self.http_status in {204, 304}
        return self.framing in {Framing.LENGTH, Framing.CHUNKED} and self.cut is None and not bodiless

    @property
    def raw(self) -> bytes:
        return self._whole[: self.cut]

    @property
    def whole_length(self) -> int:
        """How many bytes there would be without the cut."""
        return len(self._whole)

    @property
    def _whole(self) -> bytes:
        if self.framing not in {Framing.CHUNKED, Framing.CHUNK_MISSING}:
            return self.head + self.body
        chunk = b"%x\r\n%s\r\n" % (len(self.body), self.body) if self.body else b""
        return self.head + chunk + (b"0\r\n\r\n" if self.framing is Framing.CHUNKED else b"")


@dataclass(frozen=True, slots=True)
class Asked:
    """The call that a reply is the answer to."""

    operation: Operation
    external_id: str
    """Of the payment that a refund or a status is about; an honest reply to a create gives it."""
    tenge: Decimal


class Verdict(NamedTuple):
    """What a reply makes of a call: a word, and the id, the code or the meaning that goes with it."""

    word: str
    about: str | None = None


UNKNOWN: Final = Verdict("unknown")
REFUSED: Final = Verdict("refused")
"""By the proxy itself."""
NOTHING: Final = Verdict("nothing")
"""A status that was not read, or that holds no word that anybody knows."""

PROXY_SAYS_NO: Final = (401, 403, 404, 405, 429)
NO_MONEY: Final = frozenset(
    {"-10000", "-1501", "-1502", "-1503", "-1601", "-14000002", "-99000001", "-99000002", "-99000003", "-99000005"}
    | {"-99000011", "-99000020"}
    | {sign + code for sign in ("", "-") for code in ("990000018", "990000026", "990000028", "990000033")}
)
PAID: Final = ("Processed", "Paid", "RemotePaymentPaid")
WAITING: Final = (
    "Wait",
    "QrTokenCreated",
    "RemotePaymentCreated",
    "QrTokenScanned",
    "PaymentConfirmation",
    "RemotePaymentProcessing",
)
FAILED: Final = (
    "Error",
    "Expired",
    "QrTokenDiscarded",
    "RemotePaymentExpired",
    "RemotePaymentRejected",
    "NotConfirmedByUser",
    "ProcessingFailed",
    "Rejected",
    "InsufficientFunds",
)
CANCELLED: Final = ("RemotePaymentCanceled", "CancelledByUser", "CancelledByExternalSource")
WORDS: Final = {
    **dict.fromkeys(PAID, "paid"),
    **dict.fromkeys(WAITING, "waiting"),
    **dict.fromkeys(FAILED, "failed"),
    **dict.fromkeys(CANCELLED, "cancelled"),
}
LONGEST_BODY: Final = 65536


def verdict_on(asked: Asked, sent: Sent) -> Verdict:
    """What the reply means for the call; where in doubt, nobody knows."""
    nobody_knows = NOTHING if asked.operation is Operation.STATUS else UNKNOWN
    body = _arrived(sent)
    if body is None or len(body) > LONGEST_BODY:
        return nobody_knows
    if sent.http_status in PROXY_SAYS_NO:
        return REFUSED
    if sent.http_status != 200:
        return nobody_knows
    if not body.strip():
        told_empty = asked.operation is Operation.REFUND and _tells_its_end(sent)
        return Verdict("accepted") if told_empty else nobody_knows
    try:
        envelope = _strictly(body)
    except (ValueError, RecursionError):
        return nobody_knows
    match _said(envelope):
        case True:
            return _success(asked, envelope) or nobody_knows
        case False:
            return _failure(asked, envelope) or nobody_knows
        case _:
            return nobody_knows


def _tells_its_end(sent: Sent) -> bool:
    return sent.framing is not Framing.CLOSE or _length_in_headers(sent) is not None


def _length_in_headers(sent: Sent) -> int | None:
    told = (line.partition(":") for line in sent.headers)
    return next((int(value) for name, _, value in told if name.strip().lower() == "content-length"), None)


_OF_A_CACHE: Final = {"age: 500", "x-cache: hit", "x-cache-status: stale", "cache-status: edge; hit; ttl=5"}


def _arrived(sent: Sent) -> bytes | None:
    """The body as the caller gets it; none when it is certain that something is missing or cannot be read."""
    names = [line.partition(":")[0].strip().lower() for line in sent.headers]
    if "content-encoding" in names or sent.http_status < 200 or not all(name.isascii() for name in names):
        return None  # packed though nobody asked, no final reply, or no HTTP
    if {line.lower() for line in sent.headers} & _OF_A_CACHE:
        return None  # the answer to an earlier request, perhaps to another payment
    length = _length_in_headers(sent)
    if length is not None and sent.framing is Framing.CLOSE:
        behind = sent.raw[len(sent.head) :]  # the only length that is told, so it counts
        return behind[:length] if len(sent.raw) >= len(sent.head) and _ends_at(length, behind) else None
    if length is not None:
        return None  # two lengths at odds, or a length beside chunks
    if sent.cut is not None and sent.cut < sent.whole_length:
        came = sent.cut - len(sent.head)
        return sent.body[:came] if sent.framing is Framing.CLOSE and came >= 0 else None
    if sent.framing is Framing.PROMISES_LESS:
        half = len(sent.body) // 2
        return sent.body[:half] if _ends_at(half, sent.body) else None
    return None if sent.framing in {Framing.PROMISES_MORE, Framing.CHUNK_MISSING} else sent.body


def _ends_at(length: int, came: bytes) -> bool:
    """Whether a reply of this length is all that came. Ends of line between replies say nothing."""
    return len(came) >= length and not came[length:].strip(b"\r\n")


def _strictly(body: bytes) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in found}) < len(found):
            raise ValueError("a name twice")
        return dict(found)

    def constant(word: str) -> Any:
        raise ValueError(word)

    return json.loads(
        body.decode("utf-8"),
        object_pairs_hook=pairs,
        parse_constant=constant,
        parse_float=lambda text: ("number", text),
    )


def _said(envelope: Any) -> bool | None:
    if not isinstance(envelope, dict):
        return None
    said = [envelope[word] for word in ("status", "success") if word in envelope]
    return said[0] if said and all(one is said[0] for one in said) and isinstance(said[0], bool) else None


def _success(asked: Asked, envelope: dict[str, Any]) -> Verdict | None:
    data = envelope.get("data")
    if not isinstance(data, dict) or data.get("errors") or envelope.get("error"):
        return None
    if not any(envelope.get("http_code") == fine for fine in (None, 200, "200")):
        return None
    external_id = _id(data.get("paymentId" if asked.operation is Operation.LINK else "externalId"))
    if external_id is None:
        return None
    match asked.operation:
        case Operation.CREATE:
            return Verdict("accepted", external_id)
        case Operation.LINK:
            return Verdict("accepted", external_id) if _is_link(data.get("paymentLink")) else None
        case Operation.REFUND:
            same = external_id == asked.external_id
            if "refundedAmount" in data:
                same = same and _tenge(data["refundedAmount"]) == asked.tenge
            return Verdict("accepted") if same else None
        case Operation.STATUS:
            word = data.get("status")
            if external_id != asked.external_id or not isinstance(word, str) or word not in WORDS:
                return None
            return Verdict("read", WORDS[word])


def _failure(asked: Asked, envelope: dict[str, Any]) -> Verdict | None:
    data = envelope.get("data")
    errors = data.get("errors") if isinstance(data, dict) else None
    if not isinstance(errors, dict) or len(errors) != 1:
        return None
    (code,) = errors
    if asked.operation is Operation.STATUS:
        return Verdict("missing", code) if code in {"-1601", "-99000001"} else None
    return Verdict("rejected", code) if code in NO_MONEY else None


def _id(value: object) -> str | None:
    text = str(value) if type(value) is int else value
    return text if isinstance(text, str) and re.fullmatch(r"[1-9][0-9]{0,19}", text, re.ASCII) else None


def _is_link(value: object) -> bool:
    """An address of the web, in visible ASCII without quotes and angle brackets, that a column can hold."""
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        return False
    rest = value.partition("://")[2]
    return 0 < len(rest) <= 2000 and all("!" <= char <= "~" and char not in '"<>' for char in rest)


def _tenge(value: object) -> Decimal | None:
    """Tenge in plain digits; a number with a point comes as its text."""
    text = value[1] if isinstance(value, tuple) else str(value) if type(value) is int else value
    plain = isinstance(text, str) and re.fullmatch(r"[0-9]{1,30}(\.[0-9]{1,30})?", text, re.ASCII)
    return Decimal(text) if plain and isinstance(text, str) else None
