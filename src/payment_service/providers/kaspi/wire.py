"""The proxy's replies, read strictly: bytes in, an outcome out, no exception ever. Pure.

Source: docs/kaspi-api.md sections 2 and 6. A reply without Content-Length that was cut arrives as a clean 200 with half
a body, so half a JSON must never be read as anything.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from payment_service.characters import one_line
from payment_service.money import Money
from payment_service.providers.interface import (
    Accepted,
    NoSuchPayment,
    Outcome,
    PaymentReceipt,
    Reading,
    RefundReceipt,
    RefusedBy,
    Rejected,
    StatusRead,
    StatusUnread,
    Unknown,
)
from payment_service.providers.kaspi.mapping import (
    CONTRADICTS_A_REFUND,
    NO_MONEY_MOVED,
    NO_SUCH_PAYMENT,
    REFUSED_BY_PROXY,
    meaning_of,
)

_EXTERNAL_ID: Final = re.compile(r"[1-9][0-9]{0,19}")  # with a zero before it, one id could be kept as two
_OPERATION_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,50}")
_STATUS: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,49}")
_LINK: Final = re.compile(r"https?://[!#-;=?-~]{1,2000}")  # ASCII: the database refuses a NUL or half a character
_NO_CODE: Final = re.compile(r"[^A-Za-z0-9_.-]")
_DIGITS_RUN: Final = re.compile(r"\d(?:\W{0,4}\d){8,}")  # a phone is often written in groups
_PHONE_LIKE: Final = re.compile(r"[0-9](?:[_.-]*[0-9]){9,}")  # in groups too; the longest code has 9 digits
_LONG_WORD: Final = re.compile(r"[A-Za-z0-9-]{20,}")
_MAX_MESSAGE: Final = 300

Receipt = TypeVar("Receipt")


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over HTTP."""

    http_status: int
    body: bytes
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Secrets of the call: words of the reply that repeat one are blanked out."""


class _UnreadableError(Exception):
    """The reply is not what the proxy's contract says; the text is a reason in snake_case."""


def read_payment(reply: Reply, *, wants_link: bool) -> Outcome[PaymentReceipt]:
    """Read the reply to create or create-link."""

    def receipt(data: Mapping[str, Any]) -> PaymentReceipt:
        link = data.get("paymentLink")
        return PaymentReceipt(
            external_id=_external_id(data.get("paymentId" if wants_link else "externalId")),
            status=_status(data.get("status"), reply.secrets),
            payment_link=link if wants_link and isinstance(link, str) and _LINK.fullmatch(link) else None,
            expire_date=_moment(data.get("expireDate")),
        )

    outcome = _read_money(reply, receipt)
    if wants_link and isinstance(outcome, Accepted) and outcome.receipt.payment_link is None:
        return Unknown("no_usable_link", external_id=outcome.receipt.external_id)
    return outcome


def read_refund(reply: Reply, *, external_id: str, amount: Money) -> Outcome[RefundReceipt]:
    """Read the reply to a refund. An empty body with 200 means success, here and nowhere else."""

    def receipt(data: Mapping[str, Any]) -> RefundReceipt:
        # A reply that names another payment or another amount is not the reply to this refund.
        if _external_id(data.get("externalId")) != external_id:
            raise _UnreadableError("crossed_reply")
        if "refundedAmount" in data and _amount(data["refundedAmount"]) != amount:
            raise _UnreadableError("crossed_reply")
        return RefundReceipt(_operation_id(data.get("returnOperationId"), reply.secrets))

    if reply.http_status == 200 and not reply.body.strip():
        return Accepted(RefundReceipt())
    outcome = _read_money(reply, receipt)
    if isinstance(outcome, Rejected) and outcome.code in CONTRADICTS_A_REFUND:
        return replace(outcome, contradicts_record=True)
    return outcome


def read_status(reply: Reply, *, external_id: str) -> Reading:
    """Read the reply to a status request."""
    if reply.http_status in REFUSED_BY_PROXY:
        return StatusUnread(f"http_{reply.http_status}", refused_by_proxy=True)
    if reply.http_status != 200:
        return StatusUnread(f"http_{reply.http_status}")
    try:
        envelope = _envelope(reply)
        if not envelope.success:
            if envelope.code in NO_SUCH_PAYMENT:
                return NoSuchPayment(envelope.code, envelope.message)
            return StatusUnread(f"provider_error_{envelope.code or 'without_code'}")
        if _external_id(envelope.data.get("externalId")) != external_id:
            return StatusUnread("crossed_reply")
        status = _status(envelope.data.get("status"), reply.secrets)
        if status is None:
            return StatusUnread("no_usable_status")
    except _UnreadableError as error:
        return StatusUnread(str(error))
    return StatusRead(status, meaning_of(status))


def _read_money(reply: Reply, receipt: Callable[[Mapping[str, Any]], Receipt]) -> Outcome[Receipt]:
    """The table of docs/kaspi-api.md section 6, for a reply that arrived."""
    if reply.http_status in REFUSED_BY_PROXY:
        return Rejected(f"http_{reply.http_status}", "The payment proxy refused the call.", RefusedBy.PROXY)
    if reply.http_status != 200:
        return Unknown(f"http_{reply.http_status}")
    try:
        envelope = _envelope(reply)
        if envelope.success:
            return Accepted(receipt(envelope.data))
    except _UnreadableError as error:
        return Unknown(str(error))
    if envelope.code in NO_MONEY_MOVED:
        return Rejected(envelope.code, envelope.message)
    return Unknown("provider_error", code=envelope.code)


@dataclass(frozen=True, slots=True)
class _Envelope:
    success: bool
    data: Mapping[str, Any]
    code: str | None = None
    message: str = ""


def _envelope(reply: Reply) -> _Envelope:
    """Take the proxy's envelope apart: ``{"status": bool, "data": {...}}``, in its older and PHP-made forms too."""
    if not reply.body.strip():
        raise _UnreadableError("empty_body")
    try:
        parsed = json.loads(
            reply.body.decode(), parse_float=str, parse_constant=_no_constant, object_pairs_hook=_names_once
        )
    except (ValueError, RecursionError) as error:
        raise _UnreadableError("not_json") from error
    if not isinstance(parsed, dict):
        raise _UnreadableError("not_an_envelope")
    flags = [parsed[word] for word in ("status", "success") if word in parsed]
    # Neither word, two that contradict each other, or one of another type.
    if not flags or not isinstance(flags[0], bool) or any(one is not flags[0] for one in flags):
        raise _UnreadableError("not_an_envelope")
    data = parsed.get("data")
    if isinstance(data, list) and not data:
        data = {}  # PHP encodes an empty map as a list
    if flags[0]:
        if not isinstance(data, dict):
            raise _UnreadableError("not_an_envelope")
        if data.get("errors") or parsed.get("error") or parsed.get("http_code") not in (None, 200, "200"):
            raise _UnreadableError("success_with_errors")
        return _Envelope(success=True, data=data)
    errors = data.get("errors") if isinstance(data, dict) else None
    if isinstance(errors, dict) and len(errors) == 1:
        [(code, message)] = errors.items()
        code, message = _code(code, reply.secrets), _sentence(message, reply.secrets)
        return _Envelope(success=False, data={}, code=code, message=message)
    # Several codes, a list without codes or a mere text: nothing that says for certain what happened.
    return _Envelope(success=False, data={}, message=_sentence(parsed.get("error"), reply.secrets))


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without duplicate names: of two values for one name it is not known which is meant."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _no_constant(_word: str) -> None:
    raise ValueError("NaN and Infinity are no JSON")


def _external_id(value: object) -> str:
    """An id of the provider: whole digits, as a number or as text."""
    text = str(value) if type(value) is int else value
    if isinstance(text, str) and _EXTERNAL_ID.fullmatch(text):
        return text
    raise _UnreadableError("no_usable_external_id")


def _operation_id(value: object, secrets: tuple[str, ...]) -> str | None:
    """The provider's id of a refund, of no stated form. It proves nothing, so an odd one does not undo the success."""
    text = str(value) if type(value) is int else value
    usable = isinstance(text, str) and _OPERATION_ID.fullmatch(text) and text == _without(text, secrets)
    return str(text) if usable else None


def _amount(value: object) -> Money | None:
    """An amount in tenge; numbers with a point arrive here as text, so that no float holds money."""
    try:
        return Money.from_tenge(value)  # type: ignore[arg-type] # it refuses what it does not take
    except (TypeError, ValueError):
        return None


def _moment(value: object) -> datetime | None:
    """A date with its offset; anything else is left out, as nothing depends on it."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        return moment.astimezone(UTC) if moment and moment.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _status(value: object, secrets: tuple[str, ...]) -> str | None:
    """A status word, known or not, in a form that can be kept."""
    usable = isinstance(value, str) and _STATUS.fullmatch(value) and value == _without(value, secrets)
    return str(value) if usable else None


def _without(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


def _code(code: str, secrets: tuple[str, ...]) -> str:
    """A code, fit to be stored. Other characters are replaced, not removed: what is left could be another code."""
    return _PHONE_LIKE.sub("_", _NO_CODE.sub("_", _without(code, secrets)))[:20]


def _sentence(value: object, secrets: tuple[str, ...]) -> str:
    """The provider's message, fit to be stored and shown: short, without what could be a phone or a token."""
    if not isinstance(value, str):
        return ""
    text = _without(one_line(value), secrets)[: _MAX_MESSAGE * 2]
    return _DIGITS_RUN.sub("…", _LONG_WORD.sub("…", text))[:_MAX_MESSAGE]
