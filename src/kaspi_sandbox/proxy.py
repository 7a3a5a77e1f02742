"""The proxy's contract: four operations by GET. Owns the checks, the choice of the course and the reply to each call.

A call is refused on its own merits before its course makes it fail in some other way; only a course that is not
applied at all comes before these checks.
"""

import hmac
import logging
import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, assert_never
from urllib.parse import parse_qsl

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kaspi_sandbox import faults, rules, wire
from kaspi_sandbox.config import SandboxConfig
from kaspi_sandbox.ledger import Ledger
from kaspi_sandbox.merchants import Merchants
from kaspi_sandbox.records import Call, Payment, Refund, Refusal
from kaspi_sandbox.rules import Course, ReplyForm

log = logging.getLogger(__name__)

_AMOUNT = re.compile(r"(\d{1,10})(?:\.(\d{1,2}))?", re.ASCII)
_NO_DIGIT = re.compile(r"\D", re.ASCII)
_PHONE = re.compile(r"77\d{9}", re.ASCII)

#: What each operation cannot do without; organizationBin is not among them, as in the real proxy.
_REQUIRED = {
    "create": ("phone", "amount", "message"),
    "create-link": ("amount", "message"),
    "status": ("externalId",),
    "refund": ("externalId", "amount"),
}
_NEEDS_TOKEN = frozenset({"create-link", "refund"})

#: Beyond the caller's deadline, as multiples of it.
_LATE = 1.25
_DRIP = 1.5


class Proxy:
    """An ASGI application that answers every path as the production proxy would."""

    def __init__(self, config: SandboxConfig, ledger: Ledger, merchants: Merchants) -> None:
        self._config = config
        self._ledger = ledger
        self._merchants = merchants
        self._queued: defaultdict[str, deque[Course]] = defaultdict(deque)
        self._turns: Counter[str] = Counter()

    def queue(self, op: str, course: Course, times: int) -> int:
        """Let the next calls of an operation take a course; returns how many are queued now."""
        self._queued[op].extend([course] * times)
        return len(self._queued[op])

    def reset(self) -> None:
        """Forget the queued courses and begin the variants of the envelope anew."""
        self._queued.clear()
        self._turns.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._reply(scope)(scope, receive, send)

    def _reply(self, scope: Scope) -> ASGIApp:
        path: str = scope["path"]
        if path[1:] in rules.OPS:
            query = scope["query_string"].decode("ascii", "replace")
            return _page(301, {"Location": f"{path}/" + (f"?{query}" if query else "")})
        op = path[1:-1]
        if op not in rules.OPS or not path.endswith("/"):
            return _page(404)
        if scope["method"] != "GET":
            return _page(405, {"Allow": "GET"})
        # PHP takes the last of several values of one name, and so does dict().
        query = dict(parse_qsl(scope["query_string"].decode("utf-8", "replace"), keep_blank_values=True))
        call = self._call(op, query)
        if not hmac.compare_digest(query.get("access_token", "").encode(), self._config.access_token.encode()):
            self._ledger.note(call, rules.NORMAL, refusal="http_403")
            return _page(403)
        return self._answer(call, query)

    def _call(self, op: str, query: Mapping[str, str]) -> Call:
        organization_bin = query.get("organizationBin") or None
        default_merchant_used = organization_bin is None and op != "status"
        return Call(
            op=op,
            organization_bin=self._config.default_merchant if default_merchant_used else organization_bin,
            device_token=query.get("deviceToken") or None,
            amount=_tiyn(query.get("amount", "")),
            phone=query.get("phone"),
            message=query.get("message"),
            external_id=query.get("externalId"),
            default_merchant_used=default_merchant_used,
        )

    def _course(self, call: Call) -> Course:
        queued = self._queued[call.op]
        return queued.popleft() if queued else rules.course_for(call.phone, call.amount)

    def _answer(self, call: Call, query: Mapping[str, str]) -> ASGIApp:
        course = self._course(call)
        if not course.applies:
            self._ledger.note(call, course, refusal=None if course.code is None else str(course.code))
            reply = self._scripted(course, lambda: b"")
            _log(call, course, "not applied")
            return reply
        problem = _problem(call, query)
        if problem is not None:
            self._ledger.note(call, course, refusal="invalid")
            _log(call, course, "invalid")
            return _json(wire.error_text(problem, self._turn("error_text")))
        result = self._apply(call, course)
        if isinstance(result, Refusal):
            _log(call, course, f"refused {result.code}")
            return _json(wire.refusal(result.code, self._turn("refusal")))
        _log(call, course, f"id {result.external_id}")
        return self._scripted(course, lambda: self._success(call.op, course, result))

    def _apply(self, call: Call, course: Course) -> Payment | Refund | Refusal:
        if call.op == "status":
            return self._ledger.read(call, course)
        refusal = self._refusal(call)
        if refusal is not None:
            return self._ledger.refuse(call, course, refusal)
        return self._ledger.refund(call, course) if call.op == "refund" else self._ledger.create(call, course)

    def _refusal(self, call: Call) -> int | None:
        """Whether merchant, token and amount are in order, in this order."""
        if call.op in _NEEDS_TOKEN and call.device_token is None:
            return -1501
        if not call.default_merchant_used:
            refusal = self._merchants.refusal(call.organization_bin or "", call.device_token)
            if refusal is not None:
                return refusal
        return None if call.amount else 990000028

    def _success(self, op: str, course: Course, result: Payment | Refund) -> bytes:
        turn = self._turn(op)
        if course.reply is ReplyForm.LIST:
            return wire.success([], turn)
        data = self._data(op, result, turn)
        for name in {"externalId", "paymentId"} & data.keys():
            if course.reply is ReplyForm.NO_ID:
                del data[name]
            elif course.reply is ReplyForm.OTHER_ID:
                data[name] = wire.external_id(self._ledger.before(result.external_id), turn)
        # A refund that went well now and then says nothing at all; a scripted one says what its course says.
        says_nothing = op == "refund" and turn % 4 == 2 and course.reply is ReplyForm.ANSWER
        return b"" if says_nothing else wire.success(data, turn)

    def _data(self, op: str, result: Payment | Refund, turn: int) -> dict[str, Any]:
        if isinstance(result, Refund):
            return wire.refunded(result, turn)
        if op == "status":
            return wire.read(result, turn, now=self._ledger.clock())
        link = f"http://{self._config.host}:{self._config.port}/#{result.external_id}"
        return wire.created(result, turn, link=link)

    def _scripted(self, course: Course, success: Callable[[], bytes]) -> ASGIApp:
        """The reply of a course; `success` makes the body that an honest reply would have."""
        deadline_s = self._config.deadline_s
        reply: ASGIApp
        match course.reply:
            case ReplyForm.ANSWER | ReplyForm.NO_ID | ReplyForm.OTHER_ID | ReplyForm.LIST:
                reply = _json(success())
            case ReplyForm.HANG:
                reply = faults.Hang(self._config.hang_s)
            case ReplyForm.LATE:
                reply = faults.Late(success(), deadline_s * _LATE)
            case ReplyForm.DROP | ReplyForm.RESET:
                reply = faults.Drop(reset=course.reply is ReplyForm.RESET)
            case ReplyForm.CUT | ReplyForm.SHORT:
                reply = faults.Cut(success(), promised=course.reply is ReplyForm.SHORT)
            case ReplyForm.DRIP:
                reply = faults.Drip(success(), deadline_s * _DRIP)
            case ReplyForm.HTTP:
                reply = _page(course.http or 500, {"Location": "/login/"} if course.http == 302 else {})
            case ReplyForm.HTML:
                reply = _page(200)
            case ReplyForm.CODE:
                reply = _json(wire.refusal(course.code or 0, self._turn("refusal")))
            case ReplyForm.ERROR_TEXT:
                reply = _json(wire.error_text("Service error", self._turn("error_text")))
            case ReplyForm.EMPTY:
                reply = _json(b"")
            case _:
                assert_never(course.reply)
        return reply

    def _turn(self, kind: str) -> int:
        turn = self._turns[kind]
        self._turns[kind] += 1
        return turn


def _tiyn(text: str) -> int | None:
    """Fixed-point tenge with at most two decimals, as tiyn; None for anything else."""
    match = _AMOUNT.fullmatch(text)
    return None if match is None else int(match[1]) * 100 + int((match[2] or "").ljust(2, "0"))


def _problem(call: Call, query: Mapping[str, str]) -> str | None:
    """What the proxy itself objects to, before Kaspi is asked."""
    missing = [name for name in _REQUIRED[call.op] if name not in query]
    if missing:
        return f"Missing parameter: {missing[0]}"
    if call.op == "create" and not _PHONE.fullmatch(call.phone or ""):
        return "Wrong phone number"
    return None


def _page(status: int, headers: Mapping[str, str] | None = None) -> Response:
    phrase = HTTPStatus(status).phrase
    title = "Technical works" if status == 200 else f"{status} {phrase}"
    return Response(wire.html(title), status, headers, media_type="text/html")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _log(call: Call, course: Course, outcome: str) -> None:
    """One short line: no token, and of the phone its last four digits."""
    # Both come from outside: whatever is no digit could be a line break.
    phone = f" phone …{_NO_DIGIT.sub('?', call.phone[-4:])}" if call.phone else ""
    organization_bin = _NO_DIGIT.sub("?", (call.organization_bin or "")[:12])
    level = logging.DEBUG if call.op == "status" else logging.INFO
    log.log(level, "%s bin %s%s course %s: %s", call.op, organization_bin or "-", phone, course.name, outcome)
