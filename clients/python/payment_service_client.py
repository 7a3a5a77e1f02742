"""A client of payment-service in one file: Python 3.9 or newer, httpx and nothing else.

    client = PaymentServiceClient("https://payments.example.kz", key)
    payment = client.create_payment(shop_id=121038, amount="17500", phone="77015211545", order_id="12345")
    payment = client.wait(payment["id"], seconds=60)

    client = AsyncPaymentServiceClient(...)      # the same methods, awaited

Money moves at most once. A call that moves money is made once: it is never repeated by itself, never sent anywhere
else, and never falls back to another way of paying. It carries an Idempotency-Key made of the shop, the order and the
attempt, so the same call, with the same arguments, may be made again at any time: the service answers what became of
it, and the answer holds ``replayed``: True. Another refund of the same amount needs another ``attempt``.

    OutcomeUnknown   it may have been done. Look it up (find_payments, wait), or make the same call again. No other.
    NotSent          nothing was sent. The same call may be made again, after ``retry_after`` seconds where it is told.
    Rejected         refused for good: ``code``, and Kaspi's own ``provider_code``. With order_already_open and
                     order_already_paid the order has a payment, ``payment_id``: it is not a failed order.
    NotConfigured    the shop or the key is not set up for this. Nothing was sent; people have to look.

All four are PaymentServiceError. None of their texts holds a key, a token or a phone.

An order that changes: a payment that is pending or unknown can be paid at its own amount until it ends, so compare its
``amount`` with the price before the order is delivered. What is paid stays paid: ask for the difference with the next
attempt, or pay the difference back. Another payment over the whole new price would be paid in full as well.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from decimal import Decimal, InvalidOperation
from typing import Any, Dict, List, Mapping, Union
from urllib.parse import quote

import httpx
from typing_extensions import Self

__version__ = "1.0.0"
__all__ = [
    "AsyncPaymentServiceClient",
    "NotConfigured",
    "NotSent",
    "OutcomeUnknown",
    "PaymentServiceClient",
    "PaymentServiceError",
    "Rejected",
    "WebhookNotVerified",
    "idempotency_key",
    "verify_webhook",
]

Answer = Dict[str, Any]
"""What the service answered, as its documentation says: id, external_id, state, amount (tenge) ..."""
Amount = Union[int, str, Decimal]
"""Tenge. No float: 0.1 + 0.2 is no amount of money."""

ENDED = frozenset({"paid", "failed", "cancelled"})
WEBHOOK_AGE_S = 300
"""A webhook that was signed longer ago than this, or will be, is refused."""
_SHORTEST_SECRET = 16
"""Bytes."""
_WAIT_S = 25.0
"""So long one request waits at most."""
_CONNECT_S = 3.0
_ANSWER_S = 15.0
"""The service answers within 10 s, also when Kaspi does not."""
_PAUSE_S = 1.0
_AT_MOST = 500
"""Payments in one answer; the service's own limit."""
_NOTHING_WAS_SENT = frozenset(
    {
        "not_sent",
        "draining",
        "sending_held",
        "database_unavailable",
        "service_unavailable",
        "rate_limited",
        "too_many_connections",
        "too_many_waiting",
        "no_room_to_wait",
        "request_timeout",
    }
)
"""Codes with which the service says that nothing was sent, now or ever, by this call."""
_SET_UP = frozenset(
    {
        "authentication_required",
        "scope_missing",
        "shop_not_configured",
        "shop_inactive",
        "device_token_missing",
        "device_token_unreadable",
    }
)
_MAY_BE_UNDER_WAY = frozenset({"still_running", "refund_already_open"})


class PaymentServiceError(Exception):
    """Something that the caller must know. ``answer`` is all that the service said, where it said something."""

    def __init__(self, detail: str, *, status: int = 0, answer: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        """The HTTP status; 0 when there was no answer."""
        self.answer: Answer = dict(answer or {})

    @property
    def code(self) -> str:
        """A stable word such as ``payment_rejected``; empty when the service said none."""
        return str(self.answer.get("code") or "")

    @property
    def provider_code(self) -> str:
        """Kaspi's own code, such as ``-99000005``; empty when it is not from Kaspi."""
        return str(self.answer.get("provider_code") or "")

    @property
    def payment_id(self) -> str:
        """The service's id of the payment that it is about; empty when it is not known."""
        return str(self.answer.get("id") or "")

    @property
    def request_id(self) -> str:
        """Finds the request in the service's own log."""
        return str(self.answer.get("request_id") or "")

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the same call may be made again, where the service says so."""
        seconds: float | None = self.answer.get("retry_after")
        return seconds


class OutcomeUnknown(PaymentServiceError):
    """It may have been done or not. Look it up, or make the very same call again; never ask for another one."""


class NotSent(PaymentServiceError):
    """Nothing was sent by this call, and nothing will be. The same call may be made again."""


class Rejected(PaymentServiceError):
    """Refused for good: by Kaspi, or because what was asked for cannot be done."""


class NotConfigured(PaymentServiceError):
    """The shop, or the key, is not set up for this. Nothing was sent."""


class WebhookNotVerified(Exception):
    """Not from the service, or not of today."""


def idempotency_key(operation: str, *parts: object, attempt: int | str = 1) -> str:
    """The Idempotency-Key of an operation: ``py1-`` and 48 hexadecimal digits of SHA-256.

    Of ``create`` or ``create-link``, shop, order, attempt; or of ``refund``, shop, external id, amount or ``all``,
    attempt: each on a line.
    """
    lines = ["payment-service", operation, *map(str, parts), str(attempt)]
    if any("\n" in line or "\r" in line for line in lines):
        raise ValueError("an order, and the number of an attempt, are texts of one line")
    return "py1-" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:48]


def verify_webhook(secret: str, headers: Mapping[str, str], body: bytes, *, now: float | None = None) -> Dict[str, Any]:
    """The event of a webhook, once it is certain that the service sent it.

    ``secret`` is what ``webhooks add`` showed (``whsec_...``), ``body`` the bytes as they came. An event may come more
    than once, and after a later one: keep a row for each payment, ``data["id"]`` (of a refund's event
    ``data["payment"]["id"]``), with its highest ``version``, and decide by the rows of an order whether it is paid.

    Raises:
        WebhookNotVerified: when the signature does not fit, or was made more than five minutes ago.
        ValueError: when the secret is none. Whoever likes could sign with an empty one.
    """
    try:
        key = base64.b64decode(secret[len("whsec_") :], validate=True) if secret.startswith("whsec_") else b""
    except ValueError:
        key = b""
    if len(key) < _SHORTEST_SECRET:
        raise ValueError("a webhook secret is whsec_ and base64, as the service showed it")
    given = {name.lower(): value for name, value in headers.items()}
    event_id, sent_at = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not (sent_at.isascii() and sent_at.isdigit() and len(sent_at) < 12):
        raise WebhookNotVerified("no time")
    if abs((time.time() if now is None else now) - int(sent_at)) > WEBHOOK_AGE_S:
        raise WebhookNotVerified("signed too long ago, or a clock is wrong")
    made = hmac.new(key, f"{event_id}.{sent_at}.".encode() + body, hashlib.sha256).digest()
    wanted = b"v1," + base64.b64encode(made)
    # While a secret is changed there are two signatures; one that fits is enough.
    if not any(hmac.compare_digest(wanted, one.encode()) for one in given.get("webhook-signature", "").split(" ")):
        raise WebhookNotVerified("no signature fits")
    event: Dict[str, Any] = json.loads(body)
    return event


class _Call:
    """One request: what to send, and what its answer means. Knows nothing of the network."""

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        about: Mapping[str, str] | None = None,
        answer_s: float = _ANSWER_S,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.body = body
        self.about = about or {}
        self.headers = {"Idempotency-Key": key} if key else {}
        self.timeout = httpx.Timeout(answer_s, connect=_CONNECT_S)

    @property
    def moves_money(self) -> bool:
        """Whether an answer that was lost leaves a doubt."""
        return self.method == "POST"

    def read(self, response: httpx.Response) -> Answer:
        """The answer.

        Raises:
            PaymentServiceError: when it is not what was asked for.
        """
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if response.status_code == 200 and isinstance(answer, dict) and self._is_ours(answer):
            is_replayed = response.headers.get("idempotency-replayed") == "true"
            return {**answer, "replayed": True} if is_replayed else answer
        # A 200 that is not ours tells of another payment, and a caller must not go on with its id.
        said: Answer = answer if isinstance(answer, dict) and response.status_code != 200 else {}
        if "retry-after" in response.headers and response.headers["retry-after"].isdigit():
            said = {**said, "retry_after": float(response.headers["retry-after"])}
        detail = said.get("detail")
        sentence = detail if isinstance(detail, str) else f"HTTP {response.status_code} without a word of the service."
        raise self._kind(response.status_code, said)(sentence, status=response.status_code, answer=said)

    def broken(self, error: httpx.HTTPError) -> PaymentServiceError:
        """No answer came. Its own text is left out: it may hold the address."""
        what = type(error).__name__
        before = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
        if isinstance(error, before) or not self.moves_money:
            return NotSent(f"The service could not be asked ({what}).")
        return OutcomeUnknown(f"The service was asked and no answer came ({what}): look it up before anything else.")

    def _is_ours(self, answer: Answer) -> bool:
        """Whether an answer is of what was asked: a crossed or cached one must not pass for it."""
        if self.body is None:
            lines = answer.get("items", [answer])
            return all(str(line.get(name)).lower() == self.about[name].lower() for line in lines for name in self.about)
        asked = {name: self.body[name] for name in ("shop_id", "order_id", "external_id") if name in self.body}
        return isinstance(answer.get("state"), str) and all(answer.get(name) == asked[name] for name in asked)

    def _kind(self, status: int, said: Answer) -> type[PaymentServiceError]:
        code = said.get("code")
        if code in _SET_UP:
            return NotConfigured
        if code in _NOTHING_WAS_SENT:
            return NotSent
        if isinstance(code, str) and code not in _MAY_BE_UNDER_WAY and (400 <= status < 500 or status == 502):
            return Rejected
        # 202, 409 of what is under way, 500, or not the service's answer at all.
        return OutcomeUnknown if self.moves_money else NotSent


def _create(
    operation: str,
    shop_id: int,
    amount: Amount,
    message: str,
    order_id: str | None,
    metadata: Mapping[str, str] | None,
    attempt: int | str,
    key: str | None,
    **more: str,
) -> _Call:
    body: Dict[str, Any] = {"shop_id": int(shop_id), "amount": _tenge(amount), "message": message, **more}
    if order_id is not None:
        body["order_id"] = str(order_id)
        key = key or idempotency_key(operation, int(shop_id), order_id, attempt=attempt)
    if not key:
        # Without one the service knows an equal call for a minute. Made again later, it would be another payment.
        raise ValueError("a payment needs the order_id that it is for, or a key of your own: it is known by that")
    if metadata:
        body["metadata"] = {str(name): str(value) for name, value in metadata.items()}
    return _Call("POST", f"/payments/kaspi/{operation}", body=body, key=key)


def _refund(
    shop_id: int, external_id: str, amount: Amount | None, full: bool, attempt: int | str, key: str | None
) -> _Call:
    if full is (amount is not None):
        raise ValueError("a refund needs an amount in tenge, or full=True for all that is left")
    how_much: Dict[str, Any] = {"full": True} if amount is None else {"amount": _tenge(amount)}
    body = {"shop_id": int(shop_id), "external_id": str(external_id), **how_much}
    made = idempotency_key("refund", int(shop_id), external_id, how_much.get("amount", "all"), attempt=attempt)
    return _Call("POST", "/payments/kaspi/refund", body=body, key=key or made)


def _payment(payment_id: str, wait_s: float = 0) -> _Call:
    query = {"wait": f"{wait_s:.0f}"} if wait_s >= 1 else None
    path, about = f"/payments/{quote(str(payment_id), safe='')}", {"id": str(payment_id)}
    return _Call("GET", path, query=query, about=about, answer_s=_ANSWER_S + wait_s)


def _of_order(shop_id: int, order_id: str) -> _Call:
    query = {"shop_id": int(shop_id), "order_id": str(order_id), "limit": _AT_MOST}
    return _Call("GET", "/payments", query=query, about={"order_id": str(order_id)})


def _status(external_id: str) -> _Call:
    path, about = f"/payments/kaspi/status/{quote(str(external_id), safe='')}", {"external_id": str(external_id)}
    return _Call("GET", path, about=about)


def _config(shop_id: int) -> _Call:
    return _Call("GET", "/api/payment/config", query={"shop_id": int(shop_id)})


def _tenge(amount: Amount) -> str:
    """An amount as the service takes it: digits with at most two decimals."""
    if isinstance(amount, (float, bool)):
        raise TypeError("an amount comes as int, Decimal or text: a float may have lost some of it already")
    try:
        exact = Decimal(amount)
    except InvalidOperation:
        raise ValueError("an amount is written in digits with a decimal point, such as 17500 or 99.50") from None
    if not exact.is_finite() or exact <= 0 or exact != round(exact, 2):
        raise ValueError("an amount is more than 0 tenge, with at most two decimals")
    return f"{exact:.2f}"


def _settings(base_url: str, key: str) -> Dict[str, Any]:
    url = httpx.URL(base_url)
    if url.scheme not in {"http", "https"} or not url.host or url.query or url.userinfo:
        raise ValueError("base_url is the address of the service alone, such as https://payments.example.kz")
    if url.scheme == "http" and url.host not in {"localhost", "127.0.0.1", "::1"} and "." in url.host:
        raise ValueError("over http the key could be read by anybody on the way: use https")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}", "User-Agent": f"payment-service-python/{__version__}"},
        "follow_redirects": False,
        # Neither a proxy nor a .netrc from the environment may see the key or answer in the service's place.
        "trust_env": False,
        # A connection for each call: a kept one may die just as a payment leaves, and nobody would know its end.
        "limits": httpx.Limits(max_keepalive_connections=0),
    }


class PaymentServiceClient:
    """payment-service. Close it, or use it as a context manager; threads may share it."""

    def __init__(self, base_url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """``transport`` is for tests.

        Raises:
            ValueError: when the address is none, or would show the key to others.
        """
        self._http = httpx.Client(transport=transport, **_settings(base_url, key))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    def create_payment(
        self,
        shop_id: int,
        amount: Amount,
        phone: str,
        message: str = "",
        *,
        order_id: str | None = None,
        attempt: int | str = 1,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        """Invoice a phone. ``amount`` in tenge.

        The Idempotency-Key is made of shop, order and ``attempt``: count it up when an order is to be paid anew, after
        a payment of it failed, was cancelled or was paid back. The same attempt answers with the same payment, which
        stays ``paid`` when it was paid back: look at ``refunded_amount``. Without an order it needs a ``key`` of your
        own, which you keep with what the payment is for: a new one for each try would be a new payment for each.

        Raises:
            OutcomeUnknown, NotSent, Rejected, NotConfigured: see above.
            ValueError: with neither an order nor a key.
        """
        return self._ask(
            _create("create", shop_id, amount, message, order_id, metadata, attempt, key, phone=str(phone))
        )

    def create_link(
        self,
        shop_id: int,
        amount: Amount,
        message: str = "",
        *,
        order_id: str | None = None,
        attempt: int | str = 1,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        """Make a payment link; as ``create_payment``. The answer has ``payment_link`` and ``expire_date``."""
        return self._ask(_create("create-link", shop_id, amount, message, order_id, metadata, attempt, key))

    def refund(
        self,
        shop_id: int,
        external_id: str,
        amount: Amount | None = None,
        *,
        full: bool = False,
        attempt: int | str = 1,
        key: str | None = None,
    ) -> Answer:
        """Pay back ``amount`` tenge, or with ``full`` all that is left. Another ``attempt`` is another refund."""
        return self._ask(_refund(shop_id, external_id, amount, full, attempt, key))

    def check_status(self, external_id: str) -> Answer:
        """Where a payment stands, by Kaspi's id. Kaspi is asked unless it has ended for good."""
        return self._ask(_status(external_id))

    def get_payment(self, payment_id: str) -> Answer:
        """One payment by the service's id, with its refunds and its history."""
        return self._ask(_payment(payment_id))

    def find_payments(self, shop_id: int, order_id: str) -> List[Answer]:
        """The payments of an order, newest first: what became of a call whose answer was lost."""
        items: List[Answer] = self._ask(_of_order(shop_id, order_id))["items"]
        return items

    def wait(self, payment_id: str, *, seconds: float = 60) -> Answer:
        """The payment when it is paid, failed or cancelled, or as it stands after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            try:
                payment = self._ask(_payment(payment_id, max(min(left, _WAIT_S), 0)))
            except NotSent:
                if left <= 0:
                    raise
                time.sleep(min(_PAUSE_S, left))
                continue
            if payment["state"] in ENDED or left <= 0:
                return payment

    def get_config(self, shop_id: int) -> Answer:
        """The routing of a shop: BIN, device token (masked for most keys), whether it is active."""
        return self._ask(_config(shop_id))

    def health(self) -> bool:
        """Whether the service answers."""
        try:
            return bool(self._ask(_Call("GET", "/health"))["status"] == "ok")
        except PaymentServiceError:
            return False

    def _ask(self, call: _Call) -> Answer:
        try:
            response = self._http.request(
                call.method, call.path, params=call.query, json=call.body, headers=call.headers, timeout=call.timeout
            )
        except httpx.HTTPError as error:
            raise call.broken(error) from None
        return call.read(response)


class AsyncPaymentServiceClient:
    """payment-service, awaited: the methods of ``PaymentServiceClient``, where each is described."""

    def __init__(self, base_url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(transport=transport, **_settings(base_url, key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def create_payment(
        self,
        shop_id: int,
        amount: Amount,
        phone: str,
        message: str = "",
        *,
        order_id: str | None = None,
        attempt: int | str = 1,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        return await self._ask(
            _create("create", shop_id, amount, message, order_id, metadata, attempt, key, phone=str(phone))
        )

    async def create_link(
        self,
        shop_id: int,
        amount: Amount,
        message: str = "",
        *,
        order_id: str | None = None,
        attempt: int | str = 1,
        metadata: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Answer:
        return await self._ask(_create("create-link", shop_id, amount, message, order_id, metadata, attempt, key))

    async def refund(
        self,
        shop_id: int,
        external_id: str,
        amount: Amount | None = None,
        *,
        full: bool = False,
        attempt: int | str = 1,
        key: str | None = None,
    ) -> Answer:
        return await self._ask(_refund(shop_id, external_id, amount, full, attempt, key))

    async def check_status(self, external_id: str) -> Answer:
        return await self._ask(_status(external_id))

    async def get_payment(self, payment_id: str) -> Answer:
        return await self._ask(_payment(payment_id))

    async def find_payments(self, shop_id: int, order_id: str) -> List[Answer]:
        items: List[Answer] = (await self._ask(_of_order(shop_id, order_id)))["items"]
        return items

    async def wait(self, payment_id: str, *, seconds: float = 60) -> Answer:
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            try:
                payment = await self._ask(_payment(payment_id, max(min(left, _WAIT_S), 0)))
            except NotSent:
                if left <= 0:
                    raise
                await asyncio.sleep(min(_PAUSE_S, left))
                continue
            if payment["state"] in ENDED or left <= 0:
                return payment

    async def get_config(self, shop_id: int) -> Answer:
        return await self._ask(_config(shop_id))

    async def health(self) -> bool:
        try:
            return bool((await self._ask(_Call("GET", "/health")))["status"] == "ok")
        except PaymentServiceError:
            return False

    async def _ask(self, call: _Call) -> Answer:
        try:
            response = await self._http.request(
                call.method, call.path, params=call.query, json=call.body, headers=call.headers, timeout=call.timeout
            )
        except httpx.HTTPError as error:
            raise call.broken(error) from None
        return call.read(response)
