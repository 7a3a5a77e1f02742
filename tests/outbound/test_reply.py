"""What is read as one reply, and what is none."""

import asyncio
from typing import Final

import httpx
import pytest

from payment_service.outbound.reply import is_stored
from tests.outbound.calling import HELLO, OK, Trace, calling, once
from tests.providers.test_outcomes import chunked
from tests.support.proxy import Connection, http

ONE_REPLY: Final = {
    "length": HELLO,
    "chunks": chunked(b"hello"),
    "chunks with extensions and trailers": OK
    + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "until the end": OK + b"\r\nhello",
    "HTTP/1.0 until the end": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "hints first": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX: y\r\n\r\n" + HELLO,
    "hints with a length": b"HTTP/1.1 103 Hints\r\nContent-Length: 9\r\n\r\n" + OK + b"\r\nhello",
    "closing": http(200, b"hello", "Connection: close"),
    "odd text in a header": http(200, b"hello", "X: caf\xe9"),
}


@pytest.mark.parametrize("what", ONE_REPLY)
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_reply_is_read(what: str, in_pieces: bool) -> None:
    async def says(connection: Connection) -> None:
        await connection.hear()
        for piece in (
            [ONE_REPLY[what][n : n + 1] for n in range(len(ONE_REPLY[what]))] if in_pieces else [ONE_REPLY[what]]
        ):
            await connection.say(piece)
            await asyncio.sleep(0)

    async with calling(says) as call:
        assert await call() == b"hello"


NO_REPLY: Final = {
    "two replies": HELLO * 2,
    "bytes behind the length": HELLO + b"!",
    "a NUL behind the length": HELLO + b"\0",
    "bytes behind the last chunk": chunked(b"hello") + b"!",
    "a second reply that closes": http(200, b"hello", "Connection: close") * 2,
    "length twice": http(200, b"hello", "Content-Length: 5"),
    "two lengths": http(200, b"hello", "Content-Length: 3"),
    "a list of lengths": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "length with a sign": OK + b"Content-Length: +5\r\n\r\nhello",
    "length of another base": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "no length": OK + b"Content-Length:\r\n\r\nhello",
    "length without end": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "length and chunks": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunks of chunks": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "packed for the way": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "framing nobody knows": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "chunk with a sign": OK + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
    "chunk too short": OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
    "a folded header": OK + b"X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL in a header": OK + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL in a name": OK + b"X\0: a\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL in the reason": b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello",
    "a space before the colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "a space before the name": OK + b" Content-Length: 5\r\n\r\nhello",
    "ends of line without CR": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a CR alone": OK + b"X: a\rb\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/2": b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status 099": b"HTTP/1.1 099 X\r\nContent-Length: 5\r\n\r\nhello",
    "status 2000": b"HTTP/1.1 2000 X\r\nContent-Length: 5\r\n\r\nhello",
    "another protocol": b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nhello",
    "another protocol, half told": b"HTTP/1.1 101 X\r\n\r\n" + HELLO,
    "a body of a hint": b"HTTP/1.1 103 X\r\nContent-Length: 5\r\n\r\nhello" + HELLO,
    "a body of a 204": http(204, b"hello"),
    "a request": b"GET / HTTP/1.1\r\n\r\n",
    "a head of 100 kB": OK + b"X: y\r\n" * 17_000 + b"Content-Length: 5\r\n\r\nhello",
    "a head without end": OK + b"X: " + b"x" * 2_000_000,
    "heads without end": OK + b"X: y\r\n" * 500_000,
    "hints without end": b"HTTP/1.1 103 X\r\n\r\n" * 500_000,
    "trailers without end": chunked(b"hello", b"0\r\n" + b"X: y\r\n" * 500_000),
    "an extension without end": OK + b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 3_000_000,
    "cut in the head": HELLO[:30],
    "cut in the length": HELLO[:-1],
    "cut before the last chunk": chunked(b"hello", b""),
    "cut in the last chunk": chunked(b"hello", b"0\r\n"),
    "only hints": b"HTTP/1.1 103 X\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("what", NO_REPLY)
async def test_reply_whose_end_or_meaning_is_in_doubt_is_none(what: str) -> None:
    trace = Trace()
    async with calling(once(NO_REPLY[what]), keep=5) as call:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await call(trace)
        assert (trace.begun, call.transport._idle) == (True, [])


@pytest.mark.parametrize(
    ("header", "is_so"),
    [
        ("X-Cache: Hit from cloudfront", True),
        ("X-Cache: TCP_MEM_HIT from a1", True),
        ("X-Cache-Status: UPDATING", True),
        ("X-Cache: MISS, HIT", True),
        ("X-Cache: RefreshHit from cloudfront", True),
        ("Cache-Status: origin; hit; ttl=1100, edge; fwd=stale", True),
        ("Cache-Status: edge; fwd=stale; stored", False),
        ("X-Cache: MISS from squid.example", False),
        ("CF-Cache-Status: DYNAMIC", False),
        ("Cache-Control: stale-while-revalidate=30", False),
        ("Age: 11", True),
        ("Age: 0, 11", True),
        pytest.param(f"Age: {'9' * 5000}", True, id="no age"),
        ("Age: 4", False),
        ("Age: -9", False),
    ],
)
def test_reply_to_an_earlier_request_is_known_by_what_its_cache_says(header: str, *, is_so: bool) -> None:
    name, _, value = header.partition(": ")
    assert is_stored([("Content-Type", "application/json"), (name, value)], took_s=3.0) is is_so
