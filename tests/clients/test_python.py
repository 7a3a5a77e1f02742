"""The Python client: what it sends, and what each answer means. A real server where it matters what left."""

import asyncio
import base64
import hashlib
import hmac
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import payment_service_client as client
import pytest
from payment_service_client import (
    AsyncPaymentServiceClient,
    NotConfigured,
    NotSent,
    OutcomeUnknown,
    PaymentServiceClient,
    PaymentServiceError,
    Rejected,
    WebhookNotVerified,
    idempotency_key,
    verify_webhook,
)
from standardwebhooks.webhooks import Webhook

from tests.e2e.php.web import Answer, Request, as_json, served

KEY = "ps_0123456789abcdef"
PHONE = "77015211545"
SHOP = 121038
CREATED = {"id": "01a", "state": "pending", "shop_id": SHOP, "order_id": "order 1", "success": True}


class Between:
    """Something in the service's place that gives one answer, and counts."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[Request] = []

    async def respond(self, request: Request) -> Answer:
        self.requests.append(request)
        return self.answer


async def pay(answer: Answer) -> tuple[Any, list[Request]]:
    """Ask for a payment by both clients; what came of it, which must be the same, and all requests."""
    between, told = Between(answer), []
    async with served(between.respond) as url:
        with PaymentServiceClient(url, KEY) as blocking:
            told.append(
                await asyncio.to_thread(_outcome, lambda: blocking.create_payment(SHOP, 100, PHONE, order_id="order 1"))
            )
        async with AsyncPaymentServiceClient(url, KEY) as awaited:
            try:
                told.append(await awaited.create_payment(SHOP, 100, PHONE, order_id="order 1"))
            except PaymentServiceError as error:
                told.append(error)
    assert [type(one) for one in told[:1]] == [type(one) for one in told[1:]]
    assert str(told[0]) == str(told[1])
    return told[0], between.requests


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PaymentServiceError as error:
        return error


async def test_payment_is_asked_for_once_with_its_key_and_nothing_but_what_was_said() -> None:
    payment, requests = await pay(as_json(CREATED))
    assert payment == CREATED
    assert len(requests) == 2  # one by each client
    for request in requests:
        assert (request.method, request.path) == ("POST", "/payments/kaspi/create")
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["idempotency-key"] == idempotency_key("create", SHOP, "order 1", attempt=1)
        assert request.said == {
            "shop_id": SHOP,
            "amount": "100.00",
            "message": "",
            "phone": PHONE,
            "order_id": "order 1",
        }


def problem(status: int, code: str, **more: object) -> Answer:
    return as_json({"code": code, "detail": "A sentence.", "status": status, **more}, status)


MEANINGS = {
    "dropped": (Answer(drop=True), OutcomeUnknown),
    "500": (Answer(500, b"oops", "text/plain"), OutcomeUnknown),
    "502 of a balancer": (Answer(502, b"<html>bad gateway</html>", "text/html"), OutcomeUnknown),
    "503 of a balancer": (Answer(503, b"<html>no upstream</html>", "text/html"), OutcomeUnknown),
    "404 of a balancer": (as_json({"status": "error", "message": "Application not found"}, 404), OutcomeUnknown),
    "a page": (Answer(200, b"<html>maintenance</html>", "text/html"), OutcomeUnknown),
    "redirect": (Answer(302, headers=(("Location", "https://elsewhere.example/"),)), OutcomeUnknown),
    "of another shop": (as_json({**CREATED, "shop_id": 576631}), OutcomeUnknown),
    "of another order": (as_json({**CREATED, "order_id": "order 2"}), OutcomeUnknown),
    "a list": (as_json([CREATED]), OutcomeUnknown),
    "no state": (as_json({"success": True}), OutcomeUnknown),
    "202": (as_json({"id": "01a", "state": "unknown", "success": False, "detail": "Do not."}, 202), OutcomeUnknown),
    "error of ours": (problem(500, "internal_error"), OutcomeUnknown),
    "a code nobody knows, 503": (problem(503, "brand_new"), OutcomeUnknown),
    "equal refund is open": (problem(409, "refund_already_open", state="unknown"), OutcomeUnknown),
    "still running": (problem(409, "still_running", id="01a"), OutcomeUnknown),
    "not sent": (problem(503, "not_sent"), NotSent),
    "no database": (problem(503, "database_unavailable"), NotSent),
    "held": (problem(503, "sending_held"), NotSent),
    "stopping": (problem(503, "draining"), NotSent),
    "too many": (problem(429, "rate_limited"), NotSent),
    "refused by Kaspi": (problem(422, "payment_rejected", provider_code="-1501"), Rejected),
    "refused by the proxy": (problem(502, "provider_refused"), Rejected),
    "order open": (problem(409, "order_already_open", id="01a"), Rejected),
    "order paid": (problem(409, "order_already_paid", id="01a"), Rejected),
    "wrong field": (problem(422, "validation_failed"), Rejected),
    "no shop": (problem(404, "shop_not_configured"), NotConfigured),
    "shop off": (problem(403, "shop_inactive"), NotConfigured),
    "no key": (problem(401, "authentication_required"), NotConfigured),
    "no scope": (problem(403, "scope_missing"), NotConfigured),
    "no token": (problem(400, "device_token_missing"), NotConfigured),
    "a token nobody can read": (problem(400, "device_token_unreadable"), NotConfigured),
}


@pytest.mark.parametrize("what", MEANINGS)
async def test_answer_means_one_thing_and_is_asked_for_once(what: str) -> None:
    answer, kind = MEANINGS[what]
    told, requests = await pay(answer)
    assert type(told) is kind
    assert len(requests) == 2  # one by each client
    for secret in (KEY, PHONE, "127.0.0.1"):
        assert secret not in str(told) + repr(told)


async def test_refusal_tells_what_the_service_told() -> None:
    told, _ = await pay(problem(422, "payment_rejected", provider_code="-1501", id="01a", request_id="r1"))
    assert (told.code, told.provider_code, told.payment_id, told.request_id, told.status) == (
        "payment_rejected",
        "-1501",
        "01a",
        "r1",
        422,
    )
    assert str(told) == "A sentence."


async def test_time_to_wait_is_told() -> None:
    told, _ = await pay(Answer(503, json.dumps({"code": "not_sent"}).encode(), headers=(("Retry-After", "5"),)))
    assert told.retry_after == 5


async def test_redirect_takes_neither_key_nor_payment_elsewhere() -> None:
    elsewhere = Between(as_json(CREATED))
    async with served(elsewhere.respond) as url:
        told, _ = await pay(Answer(307, headers=(("Location", f"{url}/"),)))
    assert type(told) is OutcomeUnknown
    assert elsewhere.requests == []


def test_refused_connection_sends_nothing() -> None:
    with PaymentServiceClient("http://127.0.0.1:9", KEY) as blocking:
        with pytest.raises(NotSent):
            blocking.create_payment(SHOP, 100, PHONE, order_id="1")
        assert not blocking.health()


def test_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment would see the key, and answer for the service."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with PaymentServiceClient("http://127.0.0.1:9", KEY) as blocking:
        assert blocking._http._mounts == {}


@pytest.mark.parametrize(
    "transport_error", [httpx.ReadTimeout, httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError]
)
def test_what_breaks_after_a_byte_may_have_left_is_unknown(transport_error: type[httpx.TransportError]) -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise transport_error(f"{request.url} {PHONE}")

    with PaymentServiceClient("http://127.0.0.1:9", KEY, transport=httpx.MockTransport(broken)) as blocking:
        with pytest.raises(OutcomeUnknown) as caught:
            blocking.refund(SHOP, "1", 50)
        assert PHONE not in str(caught.value)
        assert caught.value.__cause__ is None
        with pytest.raises(NotSent):
            blocking.check_status("1")  # a question may be asked again


# --- keys and amounts


def test_key_is_of_the_operation_and_of_nothing_that_may_be_mistyped() -> None:
    made = idempotency_key("create", SHOP, "order 1")
    assert made == idempotency_key("create", str(SHOP), "order 1", attempt=1)
    others = [
        idempotency_key("create-link", SHOP, "order 1"),
        idempotency_key("create", 576631, "order 1"),
        idempotency_key("create", SHOP, "order 2"),
        idempotency_key("create", SHOP, "order 1", attempt=2),
    ]
    assert len({made, *others}) == 5
    with pytest.raises(ValueError, match="one line"):
        idempotency_key("create", SHOP, "a\nb")


@pytest.mark.parametrize("no_key", [None, ""])
def test_payment_that_cannot_be_told_from_its_repetition_is_not_asked_for(no_key: str | None) -> None:
    """The service knows an equal call without a key for a minute, and "make the same call again" holds for longer."""
    with pytest.raises(ValueError, match="order_id"):
        client._create("create", SHOP, 1, "", None, None, 1, no_key)
    assert client._create("create", SHOP, 1, "", None, None, 1, "mine-0001").headers == {"Idempotency-Key": "mine-0001"}


def test_shop_that_is_written_otherwise_is_the_same_in_the_key() -> None:
    keys = {
        made.headers["Idempotency-Key"]
        for shop in (SHOP, str(SHOP), f" 0{SHOP} ")
        for made in [client._refund(shop, "777", 50, full=False, attempt=1, key=None)]  # type: ignore[arg-type]
    }
    assert len(keys) == 1


async def test_answer_to_an_earlier_call_says_so() -> None:
    told, _ = await pay(Answer(200, json.dumps(CREATED).encode(), headers=(("Idempotency-Replayed", "true"),)))
    assert told == {**CREATED, "replayed": True}


@pytest.mark.parametrize(("amount", "text"), [(100, "100.00"), ("99.5", "99.50"), (Decimal("0.01"), "0.01")])
def test_amount_is_written_exactly(amount: Any, text: str) -> None:
    assert client._tenge(amount) == text


@pytest.mark.parametrize("amount", [0, -1, "0.001", "abc", "NaN", "Infinity", ""])
def test_amount_that_is_none_is_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="amount"):
        client._tenge(amount)


@pytest.mark.parametrize("amount", [0.1, True])
def test_amount_that_may_have_lost_something_is_refused(amount: Any) -> None:
    with pytest.raises(TypeError):
        client._tenge(amount)


@pytest.mark.parametrize("how", [{}, {"amount": 1, "full": True}])
def test_refund_says_how_much(how: Any) -> None:
    with PaymentServiceClient("http://127.0.0.1:9", KEY) as blocking, pytest.raises(ValueError, match="full=True"):
        blocking.refund(SHOP, "1", **how)


@pytest.mark.parametrize(
    "url", ["payments.example.kz", "ftp://a.kz", "http://pay.example.kz", "https://u:p@a.kz", "https://a.kz/?x=1"]
)
def test_address_that_would_show_the_key_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        PaymentServiceClient(url, KEY)


def test_both_clients_have_the_same_methods() -> None:
    def methods(of: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(one).parameters)
            for name, one in vars(of).items()
            if inspect.isfunction(one) and not name.startswith("__")
        }

    assert methods(PaymentServiceClient) == methods(AsyncPaymentServiceClient)


# --- waiting


def test_waiting_outlives_an_outage_and_ends_with_the_payment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSE_S", 0)
    answers: list[Any] = [
        httpx.ConnectError(""),
        {"id": "01a", "state": "pending"},
        httpx.ReadTimeout(""),
        {"id": "01A", "state": "paid"},
    ]
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get("wait"))
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return httpx.Response(200, json=told)

    with PaymentServiceClient("http://127.0.0.1:9", KEY, transport=httpx.MockTransport(answer)) as blocking:
        assert blocking.wait("01a", seconds=600)["state"] == "paid"
    assert asked == ["25"] * 4


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (lambda c: c.get_payment("01a"), {"id": "01b", "state": "paid"}),
        (lambda c: c.wait("01a", seconds=0), {"state": "paid"}),
        (lambda c: c.check_status("777"), {"external_id": "778", "state": "paid"}),
        (lambda c: c.find_payments(SHOP, "7"), {"items": [{"order_id": "8", "state": "paid"}]}),
    ],
)
def test_answer_about_another_payment_is_none(ask: Callable[[PaymentServiceClient], Any], answer: Any) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=answer))
    with pytest.raises(NotSent) as caught:
        ask(PaymentServiceClient("http://127.0.0.1:1", KEY, transport=transport))
    assert (caught.value.payment_id, caught.value.answer) == ("", {})


def test_waiting_ends_in_time() -> None:
    told = httpx.MockTransport(lambda _: httpx.Response(200, json={"id": "01a", "state": "pending"}))
    with PaymentServiceClient("http://127.0.0.1:9", KEY, transport=told) as blocking:
        assert blocking.wait("01a", seconds=0)["state"] == "pending"


# --- webhooks

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
BODY = b'{"type":"payment.paid"}'


def signed(at: str, body: bytes = BODY, secret: bytes = b"s" * 32) -> dict[str, str]:
    made = hmac.new(secret, b"e1." + at.encode() + b"." + body, hashlib.sha256).digest()
    return {
        "Webhook-Id": "e1",
        "Webhook-Timestamp": at,
        "Webhook-Signature": "v1,AAAA v1," + base64.b64encode(made).decode(),
    }


def test_webhook_as_the_service_signs_it_is_taken() -> None:
    at = datetime.now(UTC)
    headers = {
        "webhook-id": "e1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("e1", at, BODY.decode()),
    }
    assert verify_webhook(SECRET, headers, BODY) == {"type": "payment.paid"}


def test_webhook_that_was_signed_is_taken() -> None:
    assert verify_webhook(SECRET, signed("1000"), BODY, now=1100) == {"type": "payment.paid"}


@pytest.mark.parametrize(
    ("headers", "body", "now"),
    [
        (signed("1000"), BODY, 1301),
        (signed("1000"), BODY, 699),
        (signed("1000"), BODY + b" ", 1000),
        (signed("1000", secret=b"t" * 32), BODY, 1000),
        ({**signed("1000"), "Webhook-Id": "e2"}, BODY, 1000),
        ({**signed("1000"), "Webhook-Timestamp": "1001"}, BODY, 1000),
        ({**signed("1000"), "Webhook-Timestamp": "²"}, BODY, 1000),
        ({}, BODY, 1000),
    ],
    ids=["old", "of tomorrow", "altered", "another secret", "another id", "another time", "odd digit", "nothing"],
)
def test_webhook_that_was_not_is_refused(headers: dict[str, str], body: bytes, now: float) -> None:
    with pytest.raises(WebhookNotVerified):
        verify_webhook(SECRET, headers, body, now=now)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!", "whsec_" + base64.b64encode(b"short").decode(), "0" * 40])
def test_webhook_is_not_taken_with_a_secret_that_is_none(secret: str) -> None:
    """A setting that is missing would let everybody say that an order was paid."""
    with pytest.raises(ValueError, match="whsec_"):
        verify_webhook(secret, signed("1000", secret=b""), BODY, now=1000)


# --- other Pythons

PYTHONS = [f"3.{minor}" for minor in range(9, 14)]
TRY = """
import asyncio, payment_service_client as c
try:
    c.PaymentServiceClient("http://127.0.0.1:9", "ps_key").create_payment(1, "100", "77015211545", order_id="1")
except c.NotSent:
    print(asyncio.run(c.AsyncPaymentServiceClient("http://127.0.0.1:9", "ps_key").health()))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("version", PYTHONS)
def test_file_runs_on_python(version: str, tmp_path: Path) -> None:
    """With uv's help: it finds an interpreter of that version, and httpx as that one needs it."""
    file = Path(inspect.getfile(client))
    uv = [str(Path(sys.executable).parent / "uv"), "run", "--no-project", "--python", version, "--with", "httpx"]
    command = [*uv, "--no-python-downloads", "python", "-W", "error", "-c", TRY]
    ran = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**_environment(), "PYTHONPATH": str(file.parent)},
        check=False,
    )
    if "No interpreter found" in ran.stderr:
        pytest.skip(f"there is no Python {version} here")
    assert ran.stdout == "False\n", ran.stderr


def _environment() -> dict[str, str]:
    """Where pyenv keeps interpreters, its own are found; what stands for them on the path says nothing by itself."""
    kept = sorted(Path.home().glob(".pyenv/versions/*/bin"))
    path = [place for place in os.environ["PATH"].split(os.pathsep) if "shims" not in place]
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**others, "PATH": os.pathsep.join([*path, *map(str, kept)])}
