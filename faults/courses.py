"""What may befall one call on the wire, as courses of the fault proxy. Bytes only: nothing here knows the service.

``applied(course)`` lets the stand-in have the call first and then takes the course.
"""

import asyncio
import functools
import gzip
import itertools
import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from faults.proxy import PATIENCE_S, Call, Course, Reply
from tests.support.proxy import http

HUGE_BODY_BYTES: Final = 50_000_000
_BOMB_BYTES: Final = 500_000_000
_JSON: Final = "Content-Type: application/json"
_UNPROMISED: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
_CHUNKED: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
_NOISE: Final = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"

_operation_ids: Final = itertools.count(70_000_000_000)

Remake = Callable[[bytes], bytes]
"""Makes what is sent of the body that the stand-in answered."""


# --- without a reply


async def close(_call: Call) -> None:
    """The connection ends in order, without a byte."""


async def reset(call: Call) -> None:
    """The connection is reset."""
    call.line.reset()


async def hang(call: Call) -> None:
    """Nothing comes until the caller gives up."""
    await call.gone()


async def apply_late(call: Call) -> None:
    """The call reaches the stand-in only when its caller has given up."""
    await call.gone()
    await call.apply()


async def resend(call: Call) -> None:
    """What nginx does by default: the first upstream's reply is lost, and the GET is sent again."""
    await call.apply()
    await call.say((await call.apply()).whole)


def applied(course: Course) -> Course:
    """The stand-in has the call, its reply is lost, and then this happens."""

    async def after(call: Call) -> bool | None:
        await call.apply()
        return await course(call)

    return after


# --- with a reply that somebody made up


def says(*pieces: bytes) -> Course:
    """These bytes come in place of a reply, and the connection ends."""

    async def course(call: Call) -> None:
        await call.say(*pieces)

    return course


def redirects(status: int, address: str) -> Course:
    """The caller is sent elsewhere; its own query goes along, as a careless proxy would do it."""

    async def course(call: Call) -> None:
        target = call.request.split(b" ", 2)[1].decode()
        await call.say(http(status, b"", f"Location: {address}{target}"))

    return course


async def redirects_to_itself(call: Call) -> None:
    """Applied, and the caller is sent to the very same address."""
    await call.apply()
    await redirects(307, call.proxy.url)(call)


def garbage(seed: int) -> Course:
    """Bytes that are nothing."""
    return says(random.Random(seed).randbytes(2000))


# --- with the stand-in's reply, remade


def _body(call: Call, reply: Reply) -> bytes:
    """The reply's body; for a refund that is answered with nothing, what could have been said as well.

    Half of nothing would be the whole.
    """
    if reply.body:
        return reply.body
    data = {
        "externalId": call.query["externalId"],
        "returnOperationId": next(_operation_ids),
        "refundedAmount": float(Decimal(call.query["amount"])),
    }
    return json.dumps({"status": True, "data": data}).encode()


def remade(make: Remake) -> Course:
    """Applied, and this is made of the reply's body; then the connection ends."""

    async def course(call: Call) -> None:
        await call.say(make(_body(call, await call.apply())))

    return course


def half_status_line(_body: bytes) -> bytes:
    return b"HTTP/1.1 2"


def half_headers(body: bytes) -> bytes:
    return http(200, body, _JSON)[:40]


def half_promised(body: bytes) -> bytes:
    """Half of what Content-Length says."""
    return http(200, body, _JSON)[: -len(body) // 2]


def half_unpromised(body: bytes) -> bytes:
    """Half of a body that ends where the connection does."""
    return _UNPROMISED + body[: len(body) // 2]


def half_chunk(body: bytes) -> bytes:
    """Half of a chunk."""
    return _CHUNKED + f"{len(body):x}\r\n".encode() + body[: len(body) // 2]


def chunk_without_end(body: bytes) -> bytes:
    """Every byte of the body, and not the chunk of length 0 that says so."""
    return _CHUNKED + f"{len(body):x}\r\n".encode() + body + b"\r\n"


def two_documents(body: bytes) -> bytes:
    return http(200, body + body, _JSON)


def bad_json(body: bytes) -> bytes:
    return http(200, body.replace(b":", b"=", 1), _JSON)


def two_lengths(body: bytes) -> bytes:
    """Two Content-Lengths that contradict each other: where the reply ends is anybody's guess."""
    return http(200, body, _JSON, f"Content-Length: {len(body) - 2}")


def too_short_a_length(body: bytes) -> bytes:
    """Content-Length says less than what comes."""
    return http(200, body[:-3], _JSON) + body[-3:]


def after_noise(body: bytes) -> bytes:
    """1xx replies before the reply."""
    return _NOISE * 3 + http(200, body, _JSON)


def answers_twice(body: bytes) -> bytes:
    """Two replies at once to one call: which of them is its own is anybody's guess."""
    return http(200, body, _JSON) * 2


def zipped(body: bytes) -> bytes:
    """Compressed, though nobody asked for it."""
    return http(200, gzip.compress(body), _JSON, "Content-Encoding: gzip")


def huge_header(body: bytes) -> bytes:
    return http(200, body, _JSON, "X-Padding: " + "x" * 2_000_000)


@functools.cache
def bomb() -> bytes:
    """A reply of half a megabyte that unfolds to half a gigabyte."""
    packer = zlib.compressobj(level=1, wbits=31)
    spaces = b" " * 1_000_000
    packed = b"".join(packer.compress(spaces) for _ in range(_BOMB_BYTES // len(spaces))) + packer.flush()
    return http(200, packed, _JSON, "Content-Encoding: gzip")


# --- in time


async def drips(call: Call) -> None:
    """The reply comes at a byte a second."""
    for byte in http(200, _body(call, await call.apply()), _JSON):
        await call.say(bytes([byte]))
        if await call.gone(within_s=1):
            return


async def stops_halfway(call: Call) -> None:
    """Half of the body, and then nothing until the caller gives up."""
    await call.say(half_promised(_body(call, await call.apply())))
    await call.gone()


async def noise_without_end(call: Call) -> None:
    """1xx replies, and never the reply."""
    await call.apply()
    while not await call.gone(within_s=0.05):
        await call.say(_NOISE)


async def huge_body(call: Call) -> None:
    """The reply, with blanks behind it, as JSON allows."""
    body = _body(call, await call.apply())
    await call.say(f"HTTP/1.1 200 OK\r\nContent-Length: {HUGE_BODY_BYTES}\r\n\r\n".encode(), body)
    blanks = b" " * 1_000_000
    for sent in range(len(body), HUGE_BODY_BYTES, len(blanks)):
        await call.say(blanks[: HUGE_BODY_BYTES - sent])


async def endless_body(call: Call) -> None:
    """Chunk after chunk, until the caller hangs up."""
    await call.say(_CHUNKED)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await call.say(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


# --- on a connection that lives on


async def _keeps(call: Call) -> bool:
    await call.say(http(200, _body(call, await call.apply()), _JSON))
    return True


async def dies_after(call: Call) -> None:
    """The reply promises that the connection lives on; it ends."""
    await _keeps(call)


async def dies_under_the_next(call: Call) -> bool:
    """The first call of a connection is answered; the next one is read and not answered."""
    if call.number == 0:
        return await _keeps(call)
    call.line.reset()
    return False


async def answers_again(call: Call) -> bool:
    """The reply comes once more, a little later: the second lies in wait for the next call of the connection."""
    reply = http(200, _body(call, await call.apply()), _JSON)
    await call.say(reply)
    if not await call.gone(within_s=0.05):
        await call.say(reply)
    return True


# --- between calls


@dataclass(slots=True)
class Swap:
    """Two calls at once get each other's reply; one that stays alone gets its own."""

    within_s: float = 1
    _waiting: tuple[bytes, asyncio.Future[bytes]] | None = field(default=None, init=False)

    async def __call__(self, call: Call) -> None:
        mine = http(200, _body(call, await call.apply()), _JSON)
        if self._waiting is not None:
            theirs, other = self._waiting
            self._waiting = None
            other.set_result(mine)
        else:
            other = asyncio.get_running_loop().create_future()
            self._waiting = (mine, other)
            try:
                async with asyncio.timeout(self.within_s):
                    theirs = await other
            except TimeoutError:
                theirs, self._waiting = mine, None
        await call.say(theirs)


@dataclass(slots=True)
class Cache:
    """The first call is made; whoever calls after it gets the first one's reply, and reaches nobody."""

    _kept: bytes | None = field(default=None, init=False)

    async def __call__(self, call: Call) -> None:
        if self._kept is None:
            self._kept = http(200, _body(call, await call.apply()), _JSON)
        await call.say(self._kept)
