"""Replies to try the service with: by hand, one for each way of being wrong that came to mind, and made by chance.

What is made by chance begins as an honest reply, which is then changed in its structure, in its bytes, and in the way
in which it comes over HTTP. The same generator makes the same replies.
"""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from faults.reply_oracle import NO_MONEY, PROXY_SAYS_NO, WORDS, Asked, Framing, Operation, Sent
from tests.support.verbs import ACCESS_TOKEN, DEVICE_TOKEN, PHONE

LINK: Final = "https://pay.kaspi.kz/pay/abc123"
OTHER_ID: Final = "12900000001"

# --- JSON as PHP might write it by mistake, too


class Raw(str):
    """Written as it stands: what no honest JSON could hold."""

    __slots__ = ()


class Pairs(list[tuple[str, Any]]):
    """An object whose names need not differ."""

    def set(self, name: str, value: Any) -> None:
        """Give a name a value, in its place or at the end."""
        at = next((at for at, (known, _) in enumerate(self) if known == name), None)
        if at is None:
            self.append((name, value))
        else:
            self[at] = (name, value)

    def without(self, name: str) -> "Pairs":
        return Pairs(pair for pair in self if pair[0] != name)


def written(value: Any, *, ascii_only: bool = True) -> str:
    """The value as JSON."""
    match value:
        case Raw():
            return str(value)
        case Pairs():
            inner = (
                f"{json.dumps(name, ensure_ascii=ascii_only)}:{written(one, ascii_only=ascii_only)}"
                for name, one in value
            )
            return "{" + ",".join(inner) + "}"
        case list():
            return "[" + ",".join(written(one, ascii_only=ascii_only) for one in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=ascii_only)


def pairs_of(value: Any) -> Any:
    """A tree of dicts as a tree of pairs."""
    if isinstance(value, dict):
        return Pairs((name, pairs_of(one)) for name, one in value.items())
    return [pairs_of(one) for one in value] if isinstance(value, list) else value


# --- honest replies


def honest(asked: Asked) -> dict[str, Any]:
    """The ``data`` of an honest reply."""
    external_id = int(asked.external_id)
    match asked.operation:
        case Operation.CREATE:
            return {"externalId": external_id, "status": "Wait"}
        case Operation.LINK:
            return {"paymentLink": LINK, "paymentId": str(external_id), "expireDate": "2030-10-22T15:00:00.500+05:00"}
        case Operation.REFUND:
            return {"externalId": external_id, "returnOperationId": 15, "refundedAmount": Raw(f"{asked.tenge:f}")}
        case Operation.STATUS:
            return {"externalId": external_id, "status": "Processed"}


def id_name(operation: Operation) -> str:
    """The name under which a reply gives the payment's id."""
    return "paymentId" if operation is Operation.LINK else "externalId"


def success(asked: Asked, **changes: Any) -> bytes:
    """An honest reply with changed data; ``id`` stands for the operation's name of it, an Ellipsis leaves it out."""
    data = honest(asked)
    for name, value in changes.items():
        data[id_name(asked.operation) if name == "id" else name] = value
    tree = pairs_of({"status": True, "data": {k: v for k, v in data.items() if v is not ...}, "http_code": 200})
    return written(tree).encode()


def failure(code: object, message: object = "Kaspi says no") -> bytes:
    """An honest refusal with a code."""
    return written(pairs_of({"status": False, "data": {"errors": {str(code): message}}, "http_code": 200})).encode()


# --- by hand

Body: TypeAlias = Callable[[Asked], bytes]
A, U, R = "accepted", "unknown", "rejected"


@dataclass(frozen=True, slots=True)
class Odd:
    """A reply made by hand, and what it makes of a money call."""

    name: str
    sent: Callable[[Asked], Sent]
    money: str = U
    status: str = "nothing"
    refund: str | None = None
    """Where a refund reads differently."""

    def word(self, operation: Operation) -> str:
        """The word of the verdict, as a person decided it."""
        if operation is Operation.STATUS:
            return self.status
        return self.refund if self.refund and operation is Operation.REFUND else self.money


def odd(name: str, body: bytes | str | Body, money: str = U, status: str = "nothing", refund: str | None = None) -> Odd:
    """One with an ordinary head."""

    def sent(asked: Asked) -> Sent:
        made = body(asked) if callable(body) else body
        return Sent(made.encode() if isinstance(made, str) else made)

    return Odd(name, sent, money, status, refund)


def over_http(name: str, money: str = U, status: str = "nothing", refund: str | None = None, **how: Any) -> Odd:
    """One whose body is honest, and whose way over HTTP is not."""
    return Odd(name, lambda asked: replace(Sent(success(asked)), **how), money, status, refund)


def changed(name: str, money: str = U, reads: str = "nothing", refund: str | None = None, **changes: Any) -> Odd:
    """One whose data are changed."""
    return odd(name, lambda asked: success(asked, **changes), money, reads, refund)


def edited(name: str, edit: Callable[[bytes], bytes], money: str = U, status: str = "nothing") -> Odd:
    """An honest one whose bytes are changed."""
    return odd(name, lambda asked: edit(success(asked)), money, status)


def _envelope(text: str) -> Callable[[Asked], bytes]:
    """DATA stands for honest data."""
    return lambda asked: text.replace("DATA", written(pairs_of(honest(asked)))).encode()


DEEP: Final = 200
BY_HAND: Final = (
    changed("honest", A, "read"),
    changed("id as a float", id=Raw("12800627774.0")),
    changed("id as a bool", id=True),
    changed("id negative", id=-12800627774),
    changed("id zero", id=0),
    changed("id too long", id="1" * 21),
    changed("id without end", id=Raw("9" * 5000)),
    changed("id with a space", id=" 12800627774"),
    changed("id with a line end", id="12800627774\n"),
    changed("id with zeros before it", id="0012800627774"),
    changed("id in Arabic digits", id="١٢٨٠٠٦٢٧٧٧٤"),
    changed("id with an exponent", id=Raw("1.2800627774e10")),
    changed("id in a list", id=[12800627774]),
    changed("id null", id=None),
    changed("id missing", id=...),
    changed("id of another payment", A, refund=U, id=int(OTHER_ID)),
    changed("amount of another refund", A, "read", U, refundedAmount=Raw("99.99")),
    changed("amount as a text with a sign", A, "read", U, refundedAmount="+100.50"),
    changed("amount null", A, "read", U, refundedAmount=None),
    changed("odd id of the refund", A, "read", returnOperationId={"a": [1]}),
    changed("the refund's id is a sentence", A, "read", returnOperationId="refund; drop table"),
    changed("status of a kind that nobody knows", A, status="RemotePaymentUnderReview"),
    changed("status nearly known", A, status="error"),
    changed("status with a space", A, status="Error "),
    changed("status is a number", A, status=7),
    changed("errors beside success", errors={"-1502": "no"}),
    odd("status is the text true", _envelope('{"status":"true","data":DATA}')),
    odd("status is 1", _envelope('{"status":1,"data":DATA}')),
    odd("status is null", _envelope('{"status":null,"data":DATA}')),
    odd("status is null, success is true", _envelope('{"status":null,"success":true,"data":DATA}')),
    odd("status and success at odds", _envelope('{"status":true,"success":false,"data":DATA}')),
    odd("success is a text, status is false", '{"status":false,"success":"true","data":{"errors":{"-1502":"no"}}}'),
    odd("status twice, at odds", _envelope('{"status":false,"status":true,"data":DATA}')),
    odd("data twice", _envelope('{"status":true,"data":DATA,"data":DATA}')),
    odd("errors twice", '{"status":false,"data":{"errors":{"-999":"a"},"errors":{"-1502":"b"}}}'),
    odd("success, but http_code 502", _envelope('{"status":true,"data":DATA,"http_code":502}')),
    odd("data in a list", _envelope('{"status":true,"data":[DATA]}')),
    odd("data as a text", _envelope('{"status":true,"data":"ok"}')),
    odd("all in a list", _envelope('[{"status":true,"data":DATA}]')),
    odd("errors as a list", '{"status":false,"data":{"errors":["-1502"]}}'),
    odd("errors as an empty list", '{"status":false,"data":{"errors":[]}}'),
    odd("errors with two codes", '{"status":false,"data":{"errors":{"-1502":"no","-999":"perhaps"}}}'),
    odd("a text for an error", '{"status":false,"error":"Service error -1502"}'),
    odd("a code of no money", failure(-99000011), R),
    odd("a code with the other sign", failure("-990000028"), R),
    odd("a code without its sign", failure("1502")),
    odd("a code with a plus", failure("+990000028")),
    odd("a code with a space", failure(" -1502")),
    odd("technical error", failure(-999)),
    odd("refund error", failure(-99000006)),
    odd("no such purchase", failure(-1601, "Purchase not found"), R, "missing"),
    odd("an unknown code that is a phone", failure(PHONE, f"phone {PHONE}")),
    odd("a refusal that tells the tokens", failure(-1502, f"access_token={ACCESS_TOKEN}, {DEVICE_TOKEN} is old"), R),
    odd("a refusal that tells the phone", failure(-1502, "abonent +7 (701) 020-30-40"), R),
    odd("empty", b"", U, "nothing", A),
    odd("white space", b" \r\n\t \n", U, "nothing", A),
    odd("HTML", b"<!doctype html><html><body>502 Bad Gateway</body></html>"),
    edited("a warning of PHP first", lambda body: b"<br />\n<b>Warning</b>: exec() in x.php on line 7<br />\n" + body),
    edited("a warning of PHP last", lambda body: body + b"\nDeprecated: strlen()"),
    edited("two documents", lambda body: body + body),
    edited("a byte order mark", lambda body: b"\xef\xbb\xbf" + body),
    edited("UTF-16", lambda body: body.decode().encode("utf-16")),
    edited("UTF-16 without a mark", lambda body: body.decode().encode("utf-16-le")),
    edited("bytes that are no text", lambda body: body[:-1] + b',"message":"\xc3\x28"}'),
    edited("a comma too much", lambda body: body[:-1] + b",}"),
    edited("single quotes", lambda body: body.replace(b'"', b"'")),
    edited("NaN", lambda body: body[:-1] + b',"x":NaN}'),
    edited("Infinity", lambda body: body[:-1] + b',"x":-Infinity}'),
    edited("nested deep, yet honest", lambda body: body[:-1] + b',"x":' + b"[" * DEEP + b"]" * DEEP + b"}", A, "read"),
    edited("nested without end", lambda body: body[:-1] + b',"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"),
    edited("a NUL at its end", lambda body: body + b"\0"),
    edited("in white space", lambda body: b"\r\n " + body + b"\n\n", A, "read"),
    edited("longer than anybody writes", lambda body: body[:-1] + b',"x":"' + b"y" * 70_000 + b'"}'),
    over_http("packed, unasked", headers=("Content-Encoding: gzip",)),
    over_http("kept by a cache", headers=("X-Cache: HIT",)),
    over_http("not kept by a cache", A, "read", headers=("X-Cache: MISS", "Age: 0")),
    over_http("two lengths at odds", headers=("Content-Length: 3",)),
    over_http("cut, length told", framing=Framing.PROMISES_MORE),
    over_http("length of a half", framing=Framing.PROMISES_LESS),
    over_http("last chunk missing", framing=Framing.CHUNK_MISSING),
    over_http("in chunks", A, "read", framing=Framing.CHUNKED),
    over_http("length not told", A, "read", framing=Framing.CLOSE),
    over_http("another kind of text", A, "read", headers=("Content-Type: text/html; charset=windows-1251",)),
    over_http("sets a cookie", A, "read", headers=("Set-Cookie: PHPSESSID=1; Path=/",)),
    Odd("empty, length not told", lambda _: Sent(b"", framing=Framing.CLOSE)),
    Odd("white space, length not told", lambda _: Sent(b"\n", framing=Framing.CLOSE)),
    *(over_http(f"HTTP {status}", "refused", "refused", http_status=status) for status in PROXY_SAYS_NO),
    *(over_http(f"HTTP {status}", http_status=status) for status in (201, 204, 301, 302, 304, 400, 408, 409, 500, 502)),
    over_http("HTTP 302 elsewhere", http_status=302, headers=("Location: http://192.0.2.1/login",)),
    over_http("HTTP 101", http_status=101, framing=Framing.CLOSE),
)  # fmt: skip
"""Ninety, for each of the four operations."""


def cuts(asked: Asked) -> Iterator[Sent]:
    """An honest reply that ends after each of its bytes, its length told and not told; one without end is not in it."""
    for framing in (Framing.LENGTH, Framing.CLOSE):
        whole = Sent(success(asked), framing=framing)
        for cut in range(whole.whole_length):
            yield replace(whole, cut=cut)


# --- by chance

ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 7, "", " ", "0", "true", "false", "null", "ok", [], Pairs(), [[]], [None],
    2**31, 2**63, -(2**63), 10**30, Raw("1.0"), Raw("1e2"), Raw("1E400"), Raw("-0"), Raw("NaN"), Raw("Infinity"),
    Raw("012"), Raw("9" * 4400), Raw("'x'"), Raw("undefined"), Raw("\\"), "\0", "\ud800", "\u202e", "Обработан",
    "Wait", "Error", "Processed", "Expired", "error", "PROCESSED", "Error\u200b", "-1502", -1502, "12800627774\r\n",
    OTHER_ID, int(OTHER_ID), "\uff11\uff12\uff18", ACCESS_TOKEN, DEVICE_TOKEN, PHONE, "https://a b", "javascript:x",
    LINK, "100.5", "100.50", "100,50", Raw("100.500"), Raw("100.51"), Raw("-100.5"), "+100.50", "x" * 3000,
)  # fmt: skip
NAMES: Final = (
    "status", "success", "data", "error", "errors", "http_code", "externalId", "paymentId", "paymentLink",
    "expireDate", "returnOperationId", "refundedAmount", "Status", "ExternalId", "message", "x", "", "-1502",
)  # fmt: skip
CODES: Final = (
    *sorted(NO_MONEY), "-999", "-99000006", "-424242", "1502", "+1502", " -1502", "-1502 ", "--1502", "-01502",
    "99000003", "-150 2", "\uff0d1502", "0", "", "null", "E_FAIL", PHONE, ACCESS_TOKEN, "-1502\0",
    "-9900000300000000000000",
)  # fmt: skip
ECHOES: Final = (
    "Kaspi says no",
    "",
    f"Wrong access_token={ACCESS_TOKEN}",
    f"GET /create/?access_token={ACCESS_TOKEN}&phone={PHONE}&deviceToken={DEVICE_TOKEN} HTTP/1.1",
    f"Device {DEVICE_TOKEN} not found",
    f"token:{ACCESS_TOKEN}.{ACCESS_TOKEN}",
    f"Абонент {PHONE}",
    f"Call +{PHONE}, 8{PHONE[1:]} or {PHONE[1:]}",
    "Call +7 (701) 020-30-40",
    "Call 8 701 020 30 40 / 8.701.020.30.40",
)
NOISE: Final = (
    b"", b"\0", b"\xff", b"\xc3", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"e", b".", b"\n", b" ",
    b"true", b"false", b"null", b"\xef\xbb\xbf", b"\r\n\r\n", b"<br />", b"/*x*/", b"'", b"1", b"\xd9\xa1",
)  # fmt: skip
PREFIXES: Final = (
    b"\xef\xbb\xbf",
    b"\n\n",
    b"<br />\n<b>Notice</b>: x\n",
    b"Warning: y in z.php\n",
    b")]}',\n",
    b"1",
    b"\0",
)
HEADERS: Final = (
    "Content-Type: application/json",
    "Content-Type: text/html; charset=utf-8",
    "Set-Cookie: PHPSESSID=abc; Path=/; HttpOnly",
    "X-Powered-By: PHP/7.4",
    "Location: http://192.0.2.1/",
    "Retry-After: 1",
    "Cache-Control: max-age=99999",
    "Age: 500",
    "X-Cache: HIT",
    "X-Cache-Status: STALE",
    "X-Cache: MISS",
    "Cache-Status: edge; hit; ttl=5",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Length: 3",
    "X-Caf\xe9: \xff\xfe",
    "X-Long: " + "y" * 3000,
)
STATUSES: Final = (
    200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 422, 425, 429, 451,
    499, 500, 501, 502, 503, 504, 520, 599, 600, 999,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplyMaker:
    """Makes replies by chance."""

    random: random.Random

    def reply(self, asked: Asked) -> Sent:
        """A reply to the call, more or less honest."""
        chance = self.random
        tree = self._refusal() if chance.random() < 0.3 else self._success(asked)
        for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 3))):
            tree = self._bent(tree)
        body = written(tree, ascii_only=chance.random() < 0.7).encode("utf-8", "surrogatepass")
        if chance.random() < 0.03:
            body = chance.choice((b"", b" \n", b"null", b"<html></html>", b"0"))
        for _ in range(chance.choice((0, 0, 0, 0, 1, 2))):
            body = self._noisy(body)
        return self._on_its_way(body)

    def _success(self, asked: Asked) -> Any:
        chance = self.random
        data = honest(asked)
        if chance.random() < 0.3:
            name = id_name(asked.operation)
            data[name] = str(data[name])
        if asked.operation in {Operation.STATUS, Operation.CREATE} and chance.random() < 0.7:
            data["status"] = chance.choice((*WORDS, "error", "Under review", "Processed2", "FAILED"))
        if asked.operation is Operation.REFUND and chance.random() < 0.3:
            data["refundedAmount"] = chance.choice((f"{asked.tenge:f}", Raw("100.50"), Raw("100.5"), "100.50", 100))
        tree = pairs_of({chance.choice(("status", "success")): True, "data": data})
        if chance.random() < 0.5:
            tree.append(("http_code", 200))
        return tree

    def _refusal(self) -> Any:
        chance = self.random
        codes = {chance.choice(CODES): chance.choice(ECHOES) for _ in range(chance.choice((1, 1, 1, 1, 2)))}
        tree = pairs_of({chance.choice(("status", "success")): False, "data": {"errors": codes}, "http_code": 200})
        if chance.random() < 0.2:
            tree.set("error", chance.choice(ECHOES))
        return tree.without("data") if chance.random() < 0.05 else tree

    def _bent(self, tree: Any) -> Any:
        """Change one place of the tree: a value, a name, or what holds them."""
        chance = self.random
        if not isinstance(tree, Pairs) or not tree:
            return chance.choice(ODD_VALUES)
        at = chance.randrange(len(tree))
        name, value = tree[at]
        if isinstance(value, Pairs) and value and chance.random() < 0.7:
            return Pairs((*tree[:at], (name, self._bent(value)), *tree[at + 1 :]))
        bent = Pairs(tree)
        match chance.randrange(9):
            case 0 | 1 | 2:
                bent[at] = (name, chance.choice(ODD_VALUES))
            case 3:
                bent[at] = (chance.choice(NAMES), value)
            case 4:
                del bent[at]
            case 5:
                bent.insert(chance.randrange(len(tree) + 1), (name, chance.choice((value, *ODD_VALUES))))
            case 6:
                bent.append((chance.choice(NAMES), chance.choice(ODD_VALUES)))
            case 7:
                bent[at] = (name, [value])
            case _:
                chance.shuffle(bent)
        return bent

    def _noisy(self, body: bytes) -> bytes:
        """Change some bytes."""
        chance = self.random
        at = chance.randrange(len(body) + 1)
        match chance.randrange(8):
            case 0:
                return body[:at]
            case 1:
                return body[at:]
            case 2:
                return body[:at] + body[at + chance.randint(1, 4) :]
            case 3:
                return body[:at] + chance.choice(NOISE) + body[at:]
            case 4:
                return body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :]
            case 5:
                return chance.choice(PREFIXES) + body
            case 6:
                return body + chance.choice((body, b"\n", b"\0", b"</html>", b"{}", b" "))
            case _:
                return body[:at] + body[at : at + 9] + body[at:]

    def _on_its_way(self, body: bytes) -> Sent:
        chance = self.random
        sent = Sent(body)
        if chance.random() < 0.12:
            sent = replace(sent, http_status=chance.choice(STATUSES))
        if chance.random() < 0.2:
            sent = replace(sent, headers=tuple(chance.sample(HEADERS, chance.randint(1, 2))))
        if chance.random() < 0.2:
            sent = replace(sent, framing=chance.choice(list(Framing)))
        if chance.random() < 0.04 and sent.framing in {Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE}:
            sent = replace(sent, cut=chance.randrange(sent.whole_length))
        return sent
