"""The one HTTP call to the proxy: GET, once, within a total deadline; without a reply, whether a byte left decides.

Never raises, never retries, never redirects, never logs an address: the query holds the access token, the phone and
the device token (docs/kaspi-api.md section 2).
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlencode

import httpx

from payment_service.observability.logs import bind
from payment_service.observability.metrics import CIRCUIT_OPEN, PROVIDER_SECONDS, SHOPS_PAUSED, labelled
from payment_service.observability.tracing import record_span
from payment_service.outbound.reply import is_stored
from payment_service.outbound.tls import trusted_authorities
from payment_service.outbound.transport import Transport
from payment_service.providers import deadline
from payment_service.providers.breaker import Breaker, ShopBreakers
from payment_service.providers.interface import (
    LinkPayment,
    Meaning,
    NotSent,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    Reading,
    RefundOfPayment,
    RefundReceipt,
    StatusUnread,
    Unknown,
)
from payment_service.providers.kaspi import wire
from payment_service.providers.kaspi.mapping import meaning_of
from payment_service.providers.kaspi.settings import KaspiSettings

MAX_REPLY_BYTES: Final = 64 * 1024
# Without one of these a reply ends where its connection does, so that an empty one may be one that was cut.
_LENGTH_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})
_SECRET: Final = ("deviceToken", "phone")
_HEADERS: Final = httpx.Headers(
    {
        "Accept": "application/json",
        # A compressed reply could unfold without end; identity is asked for and nothing else is read.
        "Accept-Encoding": "identity",
        # Never "close": Apache then leaves the chunks out, and nothing tells a cut reply from a whole one.
        "Connection": "keep-alive",
        # Two refunds of one amount have the same address, and so have all readings of one payment.
        "Cache-Control": "no-cache, no-store",
        "User-Agent": "payment-service",
    }
)
_SHARES: Final = 4
"""One shop may hold a quarter of the slots of the money lane."""
_SHARE_WAIT_S: Final = 1.0
"""How long a call waits for a slot in its shop's share: a burst passes, and hanging calls do not pile up."""


@dataclass(slots=True)
class _SendTracker:
    """Whether the request began to leave, as the transport itself reports it."""

    begun: bool = False

    async def __call__(self, event: str, _info: dict[str, Any]) -> None:
        if event.endswith("send_request_headers.started"):
            if deadline.is_over():
                raise _NotAdmittedError("too_late_to_send")
            self.begun = True


@dataclass(frozen=True, slots=True)
class _NoReply:
    """No whole reply came."""

    reason: str
    sent: bool


class _NotAdmittedError(Exception):
    """The call was not made, and that says nothing about the proxy; the text is a reason in snake_case."""


class _Lane:
    """One kind of calls, with connections and a breaker of its own: a flood of one never blocks the other."""

    def __init__(self, name: str, transport: httpx.AsyncBaseTransport, *, at_once: int) -> None:
        self.name = name
        self.transport = transport
        self._calls = asyncio.Semaphore(at_once)

    @contextlib.asynccontextmanager
    async def slot(self, shop: str) -> AsyncIterator[None]:
        """Hold a slot for one call of the shop.

        Raises:
            _NotAdmittedError: when it is not to be made now.
        """
        self.admit(shop)
        async with self._calls:
            yield

    def admit(self, shop: str) -> None:
        """Check the breaker.

        Raises:
            _NotAdmittedError: when it lets no call pass now.
        """
        raise NotImplementedError

    def observe(self, shop: str, *, failed: bool) -> None:
        """A call that was admitted has ended."""
        raise NotImplementedError


class _ReadingCalls(_Lane):
    """Status readings. They name no shop, so they share one breaker."""

    def __init__(self, settings: KaspiSettings) -> None:
        transport = Transport(httpx.URL(settings.url), trusted_authorities(), keep=settings.max_readings)
        super().__init__("readings", transport, at_once=settings.max_readings)
        self.breaker = Breaker(settings.breaker_failures, settings.breaker_pause_s)
        CIRCUIT_OPEN.labels(provider="kaspi", lane=self.name).set_function(lambda: self.breaker.is_open)

    def admit(self, shop: str) -> None:  # noqa: ARG002 - none is named
        if not self.breaker.allows():
            raise _NotAdmittedError("circuit_open")

    def observe(self, shop: str, *, failed: bool) -> None:  # noqa: ARG002 - none is named
        self.breaker.observe(failed=failed)


class _MoneyCalls(_Lane):
    """Money calls. No shop takes the slots of the others, or stops them by its failures."""

    def __init__(self, settings: KaspiSettings) -> None:
        # A connection for each: a kept one may die just as the request leaves, and that would turn a call which
        # could have been made into one of unknown outcome. Readings may share.
        transport = Transport(httpx.URL(settings.url), trusted_authorities(), ahead=settings.connections_ahead)
        super().__init__("money", transport, at_once=settings.max_calls)
        self.breaker = ShopBreakers(settings.breaker_failures, settings.breaker_pause_s)
        CIRCUIT_OPEN.labels(provider="kaspi", lane=self.name).set_function(lambda: self.breaker.is_open)
        SHOPS_PAUSED.labels(provider="kaspi").set_function(lambda: self.breaker.paused)
        share = max(settings.max_calls // _SHARES, 1)
        self._shares: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(share))

    @contextlib.asynccontextmanager
    async def slot(self, shop: str) -> AsyncIterator[None]:
        share = self._shares[shop]
        try:
            async with asyncio.timeout(_SHARE_WAIT_S if share.locked() else None):
                await share.acquire()
        except TimeoutError:
            raise _NotAdmittedError("shop_busy") from None
        try:
            async with super().slot(shop):
                yield
        finally:
            share.release()

    def admit(self, shop: str) -> None:
        if not self.breaker.allows(shop):
            raise _NotAdmittedError("circuit_open" if self.breaker.is_open else "shop_paused")

    def observe(self, shop: str, *, failed: bool) -> None:
        self.breaker.observe(shop, failed=failed)


class KaspiClient:
    """Kaspi Pay as a provider."""

    def __init__(self, settings: KaspiSettings) -> None:
        self._settings = settings
        self._url = httpx.URL(settings.url)
        self._timeouts = httpx.Timeout(settings.deadline_s, connect=settings.connect_timeout_s).as_dict()
        self._money = _MoneyCalls(settings)
        self._readings = _ReadingCalls(settings)

    async def create(self, payment: PhonePayment) -> Outcome[PaymentReceipt]:
        """Invoice a phone, at most once."""
        query = {
            "phone": payment.phone,
            "amount": str(payment.amount),
            "message": payment.message,
            "organizationBin": payment.account.organization_bin,
        }
        if payment.account.device_token:
            query["deviceToken"] = payment.account.device_token
        reply = await self._call(self._money, "create", query)
        return _without_reply(reply) if isinstance(reply, _NoReply) else wire.read_payment(reply, wants_link=False)

    async def create_link(self, payment: LinkPayment) -> Outcome[PaymentReceipt]:
        """Make a payment link, at most once."""
        query = {
            "amount": str(payment.amount),
            "message": payment.message,
            "organizationBin": payment.account.organization_bin,
            "deviceToken": payment.account.device_token or "",
        }
        reply = await self._call(self._money, "create-link", query)
        return _without_reply(reply) if isinstance(reply, _NoReply) else wire.read_payment(reply, wants_link=True)

    async def refund(self, refund: RefundOfPayment) -> Outcome[RefundReceipt]:
        """Pay back, at most once."""
        query = {
            "externalId": refund.external_id,
            "amount": str(refund.amount),
            "organizationBin": refund.account.organization_bin,
            "deviceToken": refund.account.device_token or "",
        }
        reply = await self._call(self._money, "refund", query)
        if isinstance(reply, _NoReply):
            return _without_reply(reply)
        return wire.read_refund(reply, external_id=refund.external_id, amount=refund.amount)

    async def read_status(self, external_id: str) -> Reading:
        """Read the status of a payment. Safe to repeat."""
        reply = await self._call(self._readings, "status", {"externalId": external_id})
        if isinstance(reply, _NoReply):
            return StatusUnread(reply.reason)
        return wire.read_status(reply, external_id=external_id)

    def meaning_of(self, status: str | None) -> Meaning:
        """What a status word means; UNHEARD_OF for an unknown one."""
        return meaning_of(status)

    async def close(self) -> None:
        """Close the connections."""
        await self._money.transport.aclose()
        await self._readings.transport.aclose()

    async def _call(self, lane: _Lane, operation: str, query: dict[str, str]) -> wire.Reply | _NoReply:
        """Make one call and return its result. The deadline covers all of it."""
        shop = query.get("organizationBin", "")
        tracker = _SendTracker()
        started = time.perf_counter()
        reply: wire.Reply | _NoReply
        try:
            async with asyncio.timeout(self._settings.deadline_s), lane.slot(shop):
                reply = await self._fetch(lane.transport, operation, query, tracker)
        except _NotAdmittedError as refused:
            labelled(PROVIDER_SECONDS, "kaspi", operation, str(refused)).observe(0)
            bind(operation=operation, result=str(refused), sent=False)
            return _NoReply(str(refused), sent=False)
        except Exception as error:  # noqa: BLE001 - any way of failing is an outcome here, not only those we foresaw
            reply = _NoReply(_reason(error), sent=tracker.begun)
        # A proxy that answers has not failed, whatever it answers, unless that is 429 or 5xx.
        failed = isinstance(reply, _NoReply) or reply.http_status == 429 or reply.http_status >= 500
        lane.observe(shop, failed=failed)
        seconds = time.perf_counter() - started
        result = reply.reason if isinstance(reply, _NoReply) else f"http_{reply.http_status}"
        labelled(PROVIDER_SECONDS, "kaspi", operation, result).observe(seconds)
        # No log line here: these facts are bound to the line that the caller logs.
        bind(operation=operation, result=result, sent=tracker.begun, provider_seconds=round(seconds, 4))
        record_span(f"kaspi {operation}", seconds, kind="CLIENT", failed=failed)
        return reply

    async def _fetch(
        self, transport: httpx.AsyncBaseTransport, operation: str, query: dict[str, str], tracker: _SendTracker
    ) -> wire.Reply | _NoReply:
        settings, path = self._settings, self._url.path.rstrip("/")
        target = f"{path}/{operation}/?{urlencode({'access_token': settings.access_token, **query})}"
        request = httpx.Request(
            "GET",
            self._url,
            headers=_HEADERS,
            extensions={
                # Not in the URL, which libraries log; nor need it be parsed again.
                "target": target.encode("ascii"),
                "timeout": self._timeouts,
                "trace": tracker,
            },
        )
        # The bare transport: a client would add redirects, cookies and logs, and half of a call's cost.
        began = time.perf_counter()
        response = await transport.handle_async_request(request)
        async with contextlib.aclosing(response):
            if response.headers.get("content-encoding", "identity") != "identity":
                return _NoReply("encoded_reply", sent=True)
            if is_stored(response.headers.items(), time.perf_counter() - began):
                return _NoReply("stored_reply", sent=True)
            body = bytearray()
            async for chunk in cast(httpx.AsyncByteStream, response.stream):
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    return _NoReply("reply_too_long", sent=True)
            if not body.strip() and response.status_code == 200 and not _LENGTH_HEADERS & response.headers.keys():
                return _NoReply("cut_reply", sent=True)
            secrets = (settings.access_token, *(query[name] for name in _SECRET if query.get(name)))
            return wire.Reply(response.status_code, bytes(body), secrets)


def _without_reply(broken: _NoReply) -> NotSent | Unknown:
    """Only whether a byte left decides between "not sent" and unknown, not which exception it was."""
    return Unknown(broken.reason) if broken.sent else NotSent(broken.reason)


def _reason(error: Exception) -> str:
    """A word for logs and rows. Never the error's text: it may hold the whole address."""
    match error:
        case httpx.ConnectTimeout():
            return "connect_timeout"
        case httpx.ConnectError():
            return "connect_failed"
        case TimeoutError() | httpx.TimeoutException():
            return "timeout"
        case httpx.TransportError():
            return "connection_broken"
        case _:
            return f"error_{type(error).__name__}"[:50]
