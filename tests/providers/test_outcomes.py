"""Every row of docs/kaspi-api.md section 6, for create, create-link and refund. Read TABLE beside the document.

Rows with a reply are read twice: by ``wire`` alone, and from a real socket through the client. The other rows are
about what happens on the wire, and need the socket.
"""

import asyncio
import contextlib
import dataclasses
import gzip
import itertools
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from io import StringIO
from typing import Final, TypeAlias
from unittest.mock import patch

import pytest

from payment_service.observability import logs
from payment_service.providers.interface import (
    Accepted,
    Account,
    NotSent,
    PhonePayment,
    RefundReceipt,
    RefusedBy,
    Rejected,
    Unknown,
)
from payment_service.providers.kaspi.client import KaspiClient
from payment_service.providers.kaspi.wire import Reply
from tests.support.proxy import Connection, Course, RawProxy, answers, http
from tests.support.verbs import (
    ACCESS_TOKEN,
    AMOUNT,
    CREATE,
    ID,
    LINK,
    MESSAGE,
    PHONE,
    REFUND,
    SECRETS,
    VERBS,
    AnyOutcome,
    Verb,
    client_of,
)

MEGABYTE: Final = b" " * 2**20
OK: Final = b"HTTP/1.1 200 OK\r\n"
EMPTY_IN_CHUNKS: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"

# --- how a row comes about


@dataclass(frozen=True, slots=True)
class Says:
    """A whole reply; its body may differ by verb."""

    status: int
    body: bytes | Callable[[Verb], bytes]

    def reply(self, verb: Verb) -> Reply:
        return Reply(self.status, self.body if isinstance(self.body, bytes) else self.body(verb))


@dataclass(frozen=True, slots=True)
class Does:
    """Something else that the proxy does on a connection; ``late`` where it would never come to an end."""

    course: Callable[[Verb, Connection], object]
    late: bool = False

    def of(self, verb: Verb) -> Course:
        async def course(connection: Connection) -> None:
            await self.course(verb, connection)  # type: ignore[misc] # all courses are coroutines

        return course


Stage: TypeAlias = Callable[[RawProxy], AbstractAsyncContextManager[KaspiClient]]


async def resets_unread(_verb: Verb, connection: Connection) -> None:
    connection.reset()


async def resets(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    connection.reset()


async def hangs(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    await connection.hang()


async def drips_its_body(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    await connection.say(OK, b"\r\n")
    for _ in range(10_000):
        await connection.say(b" ")
        await asyncio.sleep(0.01)


async def drips_its_head(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    await connection.say(OK)
    for number in range(10_000):
        await connection.say(b"X-%d: y\r\n" % number)
        await asyncio.sleep(0.01)


async def tells_to_wait(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    for _ in range(10_000):
        await connection.say(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.01)


async def sends_50_megabytes(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    await connection.say(OK, b"\r\n", *itertools.repeat(MEGABYTE, 50))
    raise AssertionError("the client read it all")


async def sends_50_promised_megabytes(_verb: Verb, connection: Connection) -> None:
    await connection.hear()
    await connection.say(OK, b"Content-Length: 52428800\r\n\r\n", *itertools.repeat(MEGABYTE, 50))
    raise AssertionError("the client read it all")


def says(raw: bytes | Callable[[bytes], bytes]) -> Does:
    """Say these bytes, or what is made of the reply to a call that was done, and close."""

    async def course(verb: Verb, connection: Connection) -> None:
        await connection.hear()
        await connection.say(raw if isinstance(raw, bytes) else raw(verb.success()))

    return Does(course)


@contextlib.asynccontextmanager
async def elsewhere(url: str, *, connect_timeout_s: float = 5, deadline_s: float = 10) -> AsyncIterator[KaspiClient]:
    kaspi = client_of(url, connect_timeout_s=connect_timeout_s, deadline_s=deadline_s)
    try:
        yield kaspi
    finally:
        await kaspi.close()


@contextlib.asynccontextmanager
async def no_such_host(_proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    nobody = patch.object(socket, "getaddrinfo", side_effect=socket.gaierror(-2, "Name or service not known"))
    async with elsewhere("https://proxy.invalid") as kaspi:
        with nobody:
            yield kaspi


@contextlib.asynccontextmanager
async def nobody_listens(_proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with elsewhere(f"http://127.0.0.1:{bound.getsockname()[1]}") as kaspi:
            yield kaspi


@contextlib.asynccontextmanager
async def no_tls_there(proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    async def plain(connection: Connection) -> None:
        await connection.reader.read(1)
        await connection.say(http(400, b"This is plain HTTP"))

    proxy.begin(plain)
    async with elsewhere(proxy.url.replace("http:", "https:")) as kaspi:
        yield kaspi


@contextlib.asynccontextmanager
async def tls_hangs(proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    proxy.begin(Connection.hang)
    async with elsewhere(proxy.url.replace("http:", "https:"), connect_timeout_s=0.2) as kaspi:
        yield kaspi


@contextlib.asynccontextmanager
async def full(deadline_s: float, connect_timeout_s: float) -> AsyncIterator[KaspiClient]:
    """A listener that accepts nobody, and whose queue is full: connections to it are never made."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with elsewhere(url, deadline_s=deadline_s, connect_timeout_s=connect_timeout_s) as kaspi:
            yield kaspi


def accepts_nobody(_proxy: RawProxy) -> AbstractAsyncContextManager[KaspiClient]:
    return full(deadline_s=5, connect_timeout_s=0.2)


def accepts_nobody_before_the_deadline(_proxy: RawProxy) -> AbstractAsyncContextManager[KaspiClient]:
    return full(deadline_s=0.2, connect_timeout_s=5)


@contextlib.asynccontextmanager
async def all_connections_taken(proxy: RawProxy) -> AsyncIterator[KaspiClient]:
    """The one connection that is allowed is busy with a call that hangs."""
    patient = client_of(proxy.url, max_calls=1)
    proxy.begin(Does(hangs).of(CREATE))
    of_another = PhonePayment(Account("960514451575"), AMOUNT, PHONE, MESSAGE)
    first = asyncio.ensure_future(patient.create(of_another))
    await proxy.heard.wait()
    patient._settings = dataclasses.replace(patient._settings, deadline_s=0.2)
    yield patient
    assert not first.done()
    first.cancel()
    await asyncio.wait([first])
    await patient.close()
    assert len(proxy.requests) == 1
    proxy.begin(answers(b""))  # the first call's request is not the one that is looked for


# --- the table


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    how: Says | Does | Stage
    outcome: AnyOutcome | None
    """None stands for the outcome of a call that was done."""
    refund: AnyOutcome | None = None
    """Where a refund reads differently."""
    verbs: tuple[Verb, ...] = VERBS

    def expected(self, verb: Verb) -> AnyOutcome:
        return (self.refund if verb is REFUND else None) or self.outcome or verb.accepted


def data(**changes: object) -> Says:
    return Says(200, lambda verb: verb.success(**changes))


def text(body: str | bytes) -> Says:
    return Says(200, body.encode() if isinstance(body, str) else body)


def made_of_success(change: Callable[[bytes], bytes]) -> Says:
    return Says(200, lambda verb: change(verb.success()))


def failed(code: str) -> Says:
    return text(f'{{"status": false, "data": {{"errors": {{"{code}": "Kaspi says no"}}}}, "http_code": 200}}')


def success(verb: Verb) -> bytes:
    return verb.success()


def chunked(body: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (len(body), body) + end


SERVER_ERRORS: Final = (500, 501, 502, 503, 504, 520, 599)
REDIRECTS: Final = (300, 301, 302, 303, 307, 308)
UNLISTED: Final = (201, 202, 203, 206, 299, 400, 402, 406, 410, 413, 414, 415, 418, 421, 422, 431, 451, 499, 600, 999)
NO_IDS: Final = (..., None, "", " ", "abc", 0, "0", -5, "-5", True, 1.5, 12800627774.0, "1e9", [1], {"id": 1})
NO_IDS_EITHER: Final = (ID + "\n", " " + ID, "0" + ID, "\u0661\u0662\u0663", "1" * 21, 10**30)
NO_LINKS: Final = (None, 7, "", "javascript:alert(1)", "ftp://pay.kaspi.kz/", "https://", "https://a b")
NO_LINKS_FOR_A_ROW: Final = ("https://a\0", "https://a\ud800", "https://a\n")
NO_LINK: Final = Unknown("no_usable_link", external_id=ID)
REFUNDED: Final = Accepted(RefundReceipt())
BY_PROXY: Final = "The payment proxy refused the call."

TABLE: Final = (
    # DNS, connection refused, TLS failure, connect timeout, no free connection: NOT SENT
    Row("DNS", no_such_host, NotSent("connect_failed")),
    Row("connection refused", nobody_listens, NotSent("connect_failed")),
    Row("TLS failure", no_tls_there, NotSent("connect_failed")),
    Row("TLS handshake that hangs", tls_hangs, NotSent("connect_timeout")),
    Row("connect timeout", accepts_nobody, NotSent("connect_timeout")),
    Row("deadline while connecting", accepts_nobody_before_the_deadline, NotSent("timeout")),
    Row("no free connection", all_connections_taken, NotSent("timeout")),
    # read timeout, reset, cut or undecodable reply, total deadline, any other exception: AMBIGUOUS
    Row("read timeout", Does(hangs, late=True), Unknown("timeout")),
    Row("reset before the request was read", Does(resets_unread), Unknown("connection_broken")),
    Row("reset after the request was read", Does(resets), Unknown("connection_broken")),
    Row("closed without a byte", says(b""), Unknown("connection_broken")),
    Row("cut within the first line", says(b"HTTP/1.1 20"), Unknown("connection_broken")),
    Row("cut within the headers", says(OK + b"Content-Le"), Unknown("connection_broken")),
    Row("cut after the headers, length told", says(OK + b"Content-Length: 99\r\n\r\n"), Unknown("connection_broken")),
    Row("cut after the headers, length not told", says(OK + b"\r\n"), Unknown("cut_reply")),
    Row("cut in half, length told", says(lambda body: http(200, body)[:-9]), Unknown("connection_broken")),
    Row("cut in half, length not told", says(lambda body: OK + b"\r\n" + body[:-9]), Unknown("not_json")),
    Row("cut by one byte, length not told", says(lambda body: OK + b"\r\n" + body[:-1]), Unknown("not_json")),
    Row("cut between chunks", says(lambda body: chunked(body, end=b"")), Unknown("connection_broken")),
    Row("chunks of garbage", says(chunked(b"{", end=b"zz\r\nnonsense\r\n")), Unknown("connection_broken")),
    Row("no HTTP at all", says(b"SSH-2.0-OpenSSH_9.2\r\n"), Unknown("connection_broken")),
    Row("total deadline, dripping body", Does(drips_its_body, late=True), Unknown("timeout")),
    Row("total deadline, dripping headers", Does(drips_its_head, late=True), Unknown("timeout")),
    Row("total deadline, told to wait", Does(tells_to_wait, late=True), Unknown("timeout")),
    Row("undecodable: gzip unasked", says(lambda body: http(200, gzip.compress(body))), Unknown("not_json")),
    Row(
        "undecodable: gzip, declared",
        says(lambda body: http(200, gzip.compress(body), "Content-Encoding: gzip")),
        Unknown("encoded_reply"),
    ),
    Row(
        "undecodable: gzip bomb",
        says(http(200, gzip.compress(MEGABYTE * 9), "Content-Encoding: gzip")),
        Unknown("encoded_reply"),
    ),
    Row("kept by nginx", says(lambda body: http(200, body, "X-Cache-Status: HIT")), Unknown("stored_reply")),
    Row("kept by any cache", says(lambda body: http(200, body, "Age: 31")), Unknown("stored_reply")),
    Row("50 MB without a length", Does(sends_50_megabytes), Unknown("reply_too_long")),
    Row("50 MB with a length", Does(sends_50_promised_megabytes), Unknown("reply_too_long")),
    # HTTP 5xx, 3xx, 408, 409, 425, anything unlisted: AMBIGUOUS, whatever the body says
    *(
        Row(f"HTTP {status}", Says(status, success), Unknown(f"http_{status}"))
        for status in (*SERVER_ERRORS, *REDIRECTS, 408, 409, 425, *UNLISTED)
    ),
    *(Row(f"HTTP {status}", Says(status, b""), Unknown(f"http_{status}")) for status in (204, 304)),
    Row("HTTP 500, empty", Says(500, b""), Unknown("http_500")),
    Row("HTTP 101", says(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n"), Unknown("connection_broken")),
    # 401, 403, 404, 405, 429 from the proxy: REJECTED
    *(
        Row(f"HTTP {status}", Says(status, b"<h1>No</h1>"), Rejected(f"http_{status}", BY_PROXY, RefusedBy.PROXY))
        for status in (401, 403, 404, 405, 429)
    ),
    # 200, status false, a code whose row says that money was not moved: REJECTED (every code: test_mapping.py)
    Row("200, false, -1502", failed("-1502"), Rejected("-1502", "Kaspi says no")),
    Row(
        "200, false, -1502, older word",
        text('{"success": false, "data": {"errors": {"-1502": null}}}'),
        Rejected("-1502", ""),
    ),
    # 200, status false, -999, -99000006, an unknown code or none: AMBIGUOUS
    Row("200, false, -999", failed("-999"), Unknown("provider_error", "-999")),
    Row("200, false, -99000006", failed("-99000006"), Unknown("provider_error", "-99000006")),
    Row("200, false, unknown code", failed("-424242"), Unknown("provider_error", "-424242")),
    Row("200, false, a code nearly known", failed(" -1502"), Unknown("provider_error", "_-1502")),
    Row("200, false, a code that no row can hold", failed("\\u0000\\ud800ы"), Unknown("provider_error", "___")),
    *(
        Row(f"200, false, no code: {body}", text(f'{{"status": false{body}}}'), Unknown("provider_error"))
        for body in (
            "",
            ', "error": "Something broke"',
            ', "data": []',
            ', "data": {}',
            ', "data": null',
            ', "data": {"errors": []}',
            ', "data": {"errors": {}}',
            ', "data": {"errors": ["-1502"]}',
            ', "data": {"errors": "-1502"}',
            ', "data": ["-1502"]',
            ', "data": {"errors": {"-1502": "no", "-999": "perhaps"}}',
        )
    ),
    # 200 and empty, HTML, bad or cut JSON, wrong types: AMBIGUOUS (refund with an empty body: success)
    Row("200, empty", text(""), Unknown("empty_body"), refund=REFUNDED),
    Row("200, empty in chunks", says(EMPTY_IN_CHUNKS), Unknown("empty_body"), refund=REFUNDED),
    Row("200, a line end", text("\r\n"), Unknown("empty_body"), refund=REFUNDED),
    Row("200, HTML", text("<html><body>Welcome to nginx!</body></html>"), Unknown("not_json")),
    Row("200, a PHP warning first", made_of_success(lambda body: b"Warning: x\n" + body), Unknown("not_json")),
    Row("200, two envelopes", made_of_success(lambda body: body * 2), Unknown("not_json")),
    Row("200, cut JSON", made_of_success(lambda body: body[: len(body) // 2]), Unknown("not_json")),
    Row("200, UTF-16", made_of_success(lambda body: body.decode().encode("utf-16")), Unknown("not_json")),
    Row("200, bytes that are no text", text(b'{"status": true, "data": "\xff"}'), Unknown("not_json")),
    Row("200, nested without end", text("[" * 60_000), Unknown("not_json")),
    Row("200, NaN", data(amount=float("nan")), Unknown("not_json")),
    Row("200, a number without end", text('{"status": true, "data": ' + "1" * 9000), Unknown("not_json")),
    *(
        Row(f"200, wrong type: {body}", text(body), Unknown("not_an_envelope"))
        for body in (
            "null",
            "true",
            "[]",
            '"ok"',
            "12800627774",
            "{}",
            '{"status": "true", "data": {"externalId": 1}}',
            '{"status": 1, "data": {"externalId": 1}}',
            '{"status": null, "data": {"externalId": 1}}',
            '{"data": {"externalId": 1}}',
            '{"status": true}',
            '{"status": true, "data": null}',
            '{"status": true, "data": "12800627774"}',
            '{"status": true, "data": [{"externalId": 1, "paymentId": 1}]}',
            '{"status": true, "success": false, "data": {"externalId": 1, "paymentId": 1}}',
        )
    ),
    Row("200, true, yet an error", data(errors={"-1502": "no"}), Unknown("success_with_errors")),
    Row("200, true, error too", made_of_success(lambda b: b[:-1] + b', "error": 1}'), Unknown("success_with_errors")),
    Row("200, true, HTTP 5", made_of_success(lambda b: b[:-1] + b', "http_code": 5}'), Unknown("success_with_errors")),
    Row("200, true, said twice", made_of_success(lambda b: b[:-1] + b', "status": true}'), Unknown("not_json")),
    # 200, status true, no usable externalId: AMBIGUOUS
    *(
        Row(f"200, true, id {value!r}", data(id=value), Unknown("no_usable_external_id"))
        for value in (*NO_IDS, *NO_IDS_EITHER)
    ),
    Row("200, true, an empty map from PHP", text('{"status": true, "data": []}'), Unknown("no_usable_external_id")),
    # 200, status true, an externalId that another payment already has: AMBIGUOUS (what is known here: the refund's)
    Row("200, true, another payment", data(id=12800627775), Unknown("crossed_reply"), verbs=(REFUND,)),
    Row("200, true, another amount", data(refundedAmount=100.51), Unknown("crossed_reply"), verbs=(REFUND,)),
    Row("200, true, no amount at all", data(refundedAmount="a lot"), Unknown("crossed_reply"), verbs=(REFUND,)),
    Row("200, true, no link", data(paymentLink=...), NO_LINK, verbs=(LINK,)),
    *(
        Row(f"200, true, link {link!r}", data(paymentLink=link), NO_LINK, verbs=(LINK,))
        for link in (*NO_LINKS, *NO_LINKS_FOR_A_ROW)
    ),
    # what was done is known to be done
    Row("200, true", Says(200, success), None),
    Row("200, true, older word", made_of_success(lambda b: b.replace(b'"status": t', b'"success": t')), None),
    Row("200, true, id as a number", data(id=int(ID)), None),
    Row("200, true, id as text", data(id=ID), None),
    Row("200, true, in chunks", says(chunked), None),
    Row("200, true, length not told", says(lambda body: OK + b"\r\n" + body), None),
    Row("200, true, told to wait first", says(lambda body: b"HTTP/1.1 102 Wait\r\n\r\n" + http(200, body)), None),
)  # fmt: skip
REPLIES: Final = tuple(row for row in TABLE if isinstance(row.how, Says))


def cases(rows: tuple[Row, ...], *, wire: bool = False) -> list[object]:
    """Every row for every verb. Over the wire it is one verb after the other; the rest is in `make thorough`."""
    found: list[object] = []
    for number, row in enumerate(rows):
        for verb in row.verbs:
            is_wide = wire and verb is not row.verbs[number % len(row.verbs)]
            marks = (pytest.mark.thorough,) if is_wide else ()
            found.append(pytest.param(row, verb, marks=marks, id=f"{verb}: {ascii(row.what)[1:-1][:60]}"))
    return found


@pytest.mark.parametrize(("row", "verb"), cases(REPLIES))
def test_reply_is_read_as_the_table_says(row: Row, verb: Verb) -> None:
    assert isinstance(row.how, Says)
    assert verb.read(row.how.reply(verb)) == row.expected(verb)


@pytest.mark.parametrize(("row", "verb"), cases(TABLE, wire=True))
async def test_call_ends_as_the_table_says_and_is_made_once(
    row: Row, verb: Verb, proxy: RawProxy, kaspi: KaspiClient, hasty: KaspiClient, told: StringIO
) -> None:
    match row.how:
        case Says(status):
            proxy.begin(answers(http(status, row.how.reply(verb).body)))
            outcome = await verb.call(kaspi)
        case Does(late=late):
            proxy.begin(row.how.of(verb))
            outcome = await verb.call(hasty if late else kaspi)
        case stage:
            async with stage(proxy) as elsewhere:
                outcome = await verb.call(elsewhere)
    await proxy.settle()
    assert outcome == row.expected(verb)
    heard = 0 if isinstance(outcome, NotSent) or row.what == "reset before the request was read" else 1
    assert len(proxy.requests) == heard
    assert proxy.connections <= 1
    for request in proxy.requests:
        assert (request.method, request.path) == ("GET", f"/{verb.operation}/")
        assert request.query == list({"access_token": ACCESS_TOKEN, **verb.query}.items())
    assert [secret for secret in SECRETS if secret in repr(outcome)] == []
    logs.get_logger("tests.outcomes").info("provider called")  # with what the client bound
    assert f'"operation":"{verb.operation}"' in told.getvalue()
