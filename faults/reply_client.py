"""Odd replies to the real client, over real sockets: what it makes of each is held against ``reply_oracle``."""

import asyncio
import contextlib
import itertools
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from faults.reply_maker import BY_HAND, ReplyMaker, cuts
from faults.reply_oracle import NOTHING, REFUSED, UNKNOWN, Asked, Operation, Sent, Verdict, verdict_on
from payment_service.characters import checked_text
from payment_service.providers.interface import (
    Accepted,
    LinkPayment,
    Meaning,
    NoSuchPayment,
    NotSent,
    PaymentReceipt,
    PhonePayment,
    Reading,
    RefundOfPayment,
    RefundReceipt,
    RefusedBy,
    Rejected,
    StatusRead,
    StatusUnread,
    Unknown,
)
from payment_service.providers.kaspi.client import KaspiClient
from payment_service.providers.kaspi.settings import KaspiSettings
from tests.support.logs import production_logs
from tests.support.verbs import (
    ACCESS_TOKEN,
    ACCOUNT,
    AMOUNT,
    DEVICE_TOKEN,
    ID,
    MESSAGE,
    PHONE,
    AnyOutcome,
)

AT_ONCE: Final = 6
_SPACING: Final = re.compile(r"[\s().\u2010-\u2015-]+")
TENGE: Final = AMOUNT.tenge


# --- the proxy


class _Connection(asyncio.Protocol):
    """Answers whatever asks with the reply that is due."""

    def __init__(self, proxy: "OddProxy") -> None:
        self._proxy = proxy
        self._heard = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._proxy.connections.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._proxy.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if not self._heard.endswith(b"\r\n\r\n"):
            return
        head, self._heard = bytes(self._heard), bytearray()
        self._proxy.heard += 1
        sent = self._proxy.answer(head)
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.write(sent.raw)
        if not sent.stays_open:
            self._transport.close()


@dataclass(slots=True)
class OddProxy:
    """Listens on 127.0.0.1 and says what it is told to, whole or not."""

    answer: Callable[[bytes], Sent] = lambda _head: Sent(b"")
    """The reply to a request, of which it is given the head."""
    heard: int = 0
    url: str = ""
    connections: set[asyncio.BaseTransport] = field(default_factory=set)

    def say(self, sent: Sent) -> None:
        """Answer whatever comes next with this reply, and count anew what comes."""
        self.answer, self.heard = lambda _head: sent, 0


@contextlib.asynccontextmanager
async def odd_proxy() -> AsyncIterator[OddProxy]:
    """A proxy that listens until the block ends."""
    proxy = OddProxy()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(proxy), "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for transport in list(proxy.connections):
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
        await server.wait_closed()


# --- the client


def asked_for(operation: Operation, external_id: str = ID) -> Asked:
    """The call that the client makes."""
    return Asked(operation, external_id, TENGE)


async def call(client: KaspiClient, asked: Asked) -> AnyOutcome | Reading:
    """Make it."""
    match asked.operation:
        case Operation.CREATE:
            return await client.create(PhonePayment(ACCOUNT, AMOUNT, PHONE, MESSAGE))
        case Operation.LINK:
            return await client.create_link(LinkPayment(ACCOUNT, AMOUNT, MESSAGE))
        case Operation.REFUND:
            return await client.refund(RefundOfPayment(ACCOUNT, AMOUNT, asked.external_id))
        case Operation.STATUS:
            return await client.read_status(asked.external_id)


def verdict_of(outcome: AnyOutcome | Reading) -> Verdict:
    """What the service made of a reply, in the oracle's words."""
    match outcome:
        case Accepted(PaymentReceipt(external_id=external_id)):
            return Verdict("accepted", external_id)
        case Accepted():
            return Verdict("accepted")
        case Rejected(by=RefusedBy.PROXY) | StatusUnread(refused_by_proxy=True):
            return REFUSED
        case Rejected(code=code):
            return Verdict("rejected", code)
        case Unknown():
            return UNKNOWN
        case NoSuchPayment(code=code):
            return Verdict("missing", code)
        case StatusRead(meaning=Meaning.UNHEARD_OF) | StatusUnread():
            return NOTHING
        case StatusRead(meaning=meaning):
            return Verdict("read", meaning)
        case NotSent():
            return Verdict("not sent")
        case _:
            return Verdict(f"no outcome at all: {outcome!r}")


def told_by(outcome: AnyOutcome | Reading) -> list[str]:
    """Every text that goes from an outcome into a row, a log or an answer."""
    match outcome:
        case Accepted(PaymentReceipt(_, status, _, _)):
            texts = [status]
        case Accepted(RefundReceipt(provider_refund_id)):
            # An id of 11 digits may look like any phone; a refund does not know the buyer's.
            texts = [provider_refund_id if provider_refund_id and not provider_refund_id.isdigit() else None]
        case Rejected(code, message) | NoSuchPayment(code, message):
            texts = [code, message]
        case Unknown(reason, code):
            texts = [reason, code]
        case StatusUnread(reason):
            texts = [reason]
        case StatusRead(status):
            texts = [status]
        case _:
            texts = []
    return [text for text in texts if text]


def secrets_in(texts: Iterable[str]) -> list[str]:
    """Texts that hold a token or a phone, however it is spelled."""
    return [
        text for text in texts if ACCESS_TOKEN in text or DEVICE_TOKEN in text or PHONE[1:] in _SPACING.sub("", text)
    ]


def can_be_kept(text: str) -> bool:
    """Whether a text holds nothing that no row may hold."""
    try:
        return bool(checked_text(text)) or not text
    except ValueError:
        return False


def objections(asked: Asked, sent: Sent, outcome: AnyOutcome | Reading, *, heard: int) -> list[str]:
    """What is wrong with what the client made of a reply."""
    found = []
    expected, made = verdict_on(asked, sent), verdict_of(outcome)
    if made != expected:
        found.append(f"read as {made}, and it says {expected}")
    if heard != 1:
        found.append(f"the proxy was asked {heard} times")
    if secrets := secrets_in(told_by(outcome)):
        found.append(f"tells a secret: {secrets}")
    if any(len(text) > 300 or not can_be_kept(text) for text in told_by(outcome)):
        found.append(f"no row can hold {told_by(outcome)}")
    return [f"{asked.operation}: {one}; {outcome!r} of {sent!r}"[:1500] for one in found]


@dataclass(slots=True)
class Tried:
    """What came of many replies."""

    verdicts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    slowest_s: float = 0

    @property
    def runs(self) -> int:
        return self.verdicts.total()


async def try_client(asked: Asked, replies: Iterator[Sent], *, at_once: int = AT_ONCE) -> Tried:
    """Give the real client these replies over real sockets, several at a time. No log may hold a secret."""
    tried = Tried()
    with production_logs(level="INFO") as lines:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(_one_after_another(asked, replies, tried))
        written = lines.getvalue()
    if secrets := secrets_in(written.splitlines()):
        tried.violations.append(f"{asked.operation}: a log tells a secret: {secrets[0][:500]}")
    return tried


async def _one_after_another(asked: Asked, replies: Iterator[Sent], tried: Tried) -> None:
    async with odd_proxy() as proxy:
        settings = KaspiSettings(proxy.url, ACCESS_TOKEN, deadline_s=10, connect_timeout_s=10, breaker_failures=0)
        client = KaspiClient(settings)
        for sent in replies:
            proxy.say(sent)
            started = time.perf_counter()
            try:
                outcome = await call(client, asked)
            except Exception as error:  # noqa: BLE001 - that is what must never be
                tried.violations.append(f"{asked.operation}: raised {error!r} at {sent!r}"[:1500])
                continue
            tried.slowest_s = max(tried.slowest_s, time.perf_counter() - started)
            tried.verdicts[verdict_of(outcome).word] += 1
            tried.violations += objections(asked, sent, outcome, heard=proxy.heard)
        await client.close()


def by_chance(asked: Asked, count: int, chance: random.Random) -> Iterator[Sent]:
    """So many replies made by chance."""
    maker = ReplyMaker(chance)
    return (maker.reply(asked) for _ in range(count))


def by_hand(asked: Asked, *, every: int = 1) -> Iterator[Sent]:
    """All that were made by hand, and the honest reply cut after each of its bytes, or after every so many."""
    return itertools.chain((one.sent(asked) for one in BY_HAND), itertools.islice(cuts(asked), 0, None, every))
