"""The only way in which this service calls an address that a user gave.

Nobody may use it to reach what only this machine can reach: the URL is read strictly (``addresses``), its name is
looked up once per call, all its addresses must be public, and the connection goes to one that was checked. Of the
answer 4 kB are read, and it is neither followed, unpacked nor kept. Never raises, never retries; logs the host and
nothing else of the URL.
"""

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

import httpx

from payment_service.observability.logs import get_logger
from payment_service.outbound.addresses import PRODUCTION, Destination, IPAddress, Rules, read_url
from payment_service.outbound.connection import open_connection
from payment_service.outbound.lookups import LookUps
from payment_service.outbound.reply import Reply
from payment_service.outbound.tls import trusted_authorities
from payment_service.outbound.transport import head_of

MAX_ANSWER_BYTES: Final = 4096
DEADLINE_S: Final = 15.0
_CONNECT_TIMEOUT_S: Final = 4.0
_ADDRESSES_TRIED: Final = 3
"""A name with a dead address still works; one with a hundred does not cause a hundred connections."""

Resolver: TypeAlias = Callable[[str], Awaitable[Sequence[IPAddress]]]
"""All addresses of a host name. Raises OSError when there are none, TimeoutError when they do not come in time."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]{0,1998}[!-~])?")
_RESERVED_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
log = get_logger(__name__)


class Reason(StrEnum):
    """Why there was no answer."""

    URL_REFUSED = "url_refused"
    HEADER_REFUSED = "header_refused"
    ADDRESS_REFUSED = "address_refused"
    NAME_NOT_FOUND = "name_not_found"
    CONNECT_FAILED = "connect_failed"
    TLS_FAILED = "tls_failed"
    CERTIFICATE_REFUSED = "certificate_refused"
    CONNECTION_BROKEN = "connection_broken"
    TIMEOUT = "timeout"
    ERROR = "error"


_SENTENCES: Final = {
    Reason.ADDRESS_REFUSED: "The URL's host means an address that is not on the public Internet.",
    Reason.NAME_NOT_FOUND: "The URL's host was not found: no address is known for its name.",
    Reason.CONNECT_FAILED: "The host accepted no connection.",
    Reason.TLS_FAILED: "The host and this service could not agree on a secure connection.",
    Reason.CONNECTION_BROKEN: "The connection broke before the answer was complete, or the answer was not HTTP.",
    Reason.TIMEOUT: "There was no complete answer in time.",
    Reason.ERROR: "The call failed with an unexpected error.",
}
_CERTIFICATE_FAULTS: Final = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    62: "is for another name",
    64: "is for another address",
}
"""OpenSSL's X509_V_ERR codes that have a sentence of their own."""


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer came, whatever its status."""

    status: int
    body: bytes
    """Its first 4 kB, as they came: perhaps compressed, perhaps no text."""


@dataclass(frozen=True, slots=True)
class NotPosted:
    """No complete answer came. Whether the call arrived is not known."""

    reason: Reason
    detail: str
    """A sentence for people, without secrets."""


class _HostRefused(Exception):
    """The host has no address that may be called."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


def check_headers(headers: Mapping[str, str]) -> None:
    """Check headers that a user gave.

    Raises:
        ValueError: a sentence that says what is wrong. It quotes the header's name and never its value.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("A header's name must be of 1 to 100 letters, digits and '-'.")
        if name.lower() in _RESERVED_HEADERS or name.lower().startswith("proxy-"):
            raise ValueError(f"The header {name} cannot be set: this service sets it.")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"The header {name} must have a value of 1 to 2000 visible ASCII characters.")


class Outbound:
    """Calls addresses that users gave."""

    def __init__(
        self,
        rules: Rules = PRODUCTION,
        *,
        resolve: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """``tls`` has the trusted authorities, by default Mozilla's list; ``deadline_s`` is for a call."""
        self._rules = rules
        # Threads of their own: names that never answer must not keep the provider's name waiting.
        self._resolve = resolve or LookUps()
        self._deadline_s = deadline_s
        self._tls = tls or trusted_authorities()
        self._tls.set_alpn_protocols(["http/1.1"])

    async def check_host(self, url: str) -> None:
        """Check a URL and that its host may be called today, by a look-up of its name alone.

        Raises:
            ValueError: a sentence that says what is wrong.
        """
        destination = read_url(url, self._rules)
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._find(destination)
        except TimeoutError:
            raise ValueError("The URL's host could not be looked up in time: try again.") from None
        except _HostRefused as refused:
            raise ValueError(_SENTENCES[refused.reason]) from None

    async def post(self, url: str, *, body: bytes, headers: Mapping[str, str]) -> Posted | NotPosted:
        """Call a URL once, within the deadline."""
        try:
            destination = read_url(url, self._rules)
        except ValueError as error:
            return NotPosted(Reason.URL_REFUSED, str(error))
        try:
            check_headers(headers)
        except ValueError as error:
            return NotPosted(Reason.HEADER_REFUSED, str(error))
        started = time.perf_counter()
        answer: Posted | NotPosted
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._post(destination, body, headers)
        except Exception as error:  # noqa: BLE001 - any way of failing is an answer here, not only those we foresaw
            answer = _why(error)
        log.info(
            "address called",
            host=destination.host,
            result=answer.reason if isinstance(answer, NotPosted) else f"http_{answer.status}",
            seconds=round(time.perf_counter() - started, 3),
        )
        return answer

    async def _find(self, destination: Destination) -> Sequence[IPAddress]:
        """The addresses of the host, each of them checked. One that may not be called makes all of them refused."""
        if destination.address:  # checked when it was read
            return [destination.address]
        try:
            found = list(dict.fromkeys(await self._resolve(destination.host)))
        except TimeoutError:
            raise
        except OSError:
            found = []
        if not found:
            raise _HostRefused(Reason.NAME_NOT_FOUND)
        if not all(self._rules.may_call(address) for address in found):
            raise _HostRefused(Reason.ADDRESS_REFUSED)
        return found

    async def _post(self, destination: Destination, body: bytes, headers: Mapping[str, str]) -> Posted:
        request = _head(destination, body, headers) + body
        *others, last = (await self._find(destination))[:_ADDRESSES_TRIED]
        for address in others:
            # Without a connection nothing was sent, so the next address may be tried.
            with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._call(destination, address, request)
        return await self._call(destination, last, request)

    async def _call(self, destination: Destination, address: IPAddress, request: bytes) -> Posted:
        """Make the call. The connection goes to the address that was checked, and must be the host's by name."""
        connection = await open_connection(
            destination.host,
            destination.port,
            self._tls if destination.scheme == "https" else None,
            timeout_s=_CONNECT_TIMEOUT_S,
            where=address,
        )
        with contextlib.closing(connection):
            await connection.send(request)
            reply, body = Reply(lenient=True), b""
            while not reply.is_whole and len(body) < MAX_ANSWER_BYTES:
                reply.feed(await connection.receive())
                body += reply.body()
            return Posted(reply.status, body[:MAX_ANSWER_BYTES])


def _head(destination: Destination, body: bytes, headers: Mapping[str, str]) -> bytes:
    """The head of the request. A user's headers may identify the caller, and change nothing about the call itself."""
    has_user_agent = any(name.lower() == "user-agent" for name in headers)
    sent = {
        "Host": destination.authority,
        **({} if has_user_agent else {"User-Agent": "payment-service"}),
        **headers,
        "Content-Length": str(len(body)),
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    return head_of("POST", destination.target.encode(), [(name.encode(), sent[name].encode()) for name in sent])


def _why(error: Exception) -> NotPosted:
    """The sentence for a failure. Never the error's own text: it may hold the address."""
    fault = error.__cause__ if isinstance(error.__cause__, ssl.SSLError) else None
    if isinstance(fault, ssl.SSLCertVerificationError):
        what = _CERTIFICATE_FAULTS.get(fault.verify_code, "is not from an authority that is trusted")
        return NotPosted(Reason.CERTIFICATE_REFUSED, f"The host's certificate {what}.")
    reason = Reason.TLS_FAILED if fault else _reason(error)
    if reason is Reason.ERROR:
        log.error("calling an address failed", error=type(error).__name__)
    return NotPosted(reason, _SENTENCES[reason])


def _reason(error: Exception) -> Reason:
    match error:
        case _HostRefused():
            return error.reason
        case httpx.ConnectError(__cause__=ConnectionAbortedError()):  # it was made, and the host spoke first
            return Reason.CONNECTION_BROKEN
        case httpx.ConnectError() | httpx.ConnectTimeout():
            return Reason.CONNECT_FAILED
        case TimeoutError() | httpx.TimeoutException():
            return Reason.TIMEOUT
        case httpx.TransportError():
            return Reason.CONNECTION_BROKEN
        case _:
            return Reason.ERROR
