"""What the client keeps and sends between calls, and what it says of readings."""

import asyncio
import dataclasses
import time
import traceback
from collections.abc import Awaitable, Callable
from io import StringIO
from typing import Any

import httpx
import pytest

from payment_service.outbound.connection import Connection as Line
from payment_service.outbound.transport import Transport
from payment_service.providers import deadline
from payment_service.providers.interface import (
    Accepted,
    Account,
    Meaning,
    NoSuchPayment,
    NotSent,
    Outcome,
    PaymentReceipt,
    PhonePayment,
    Reading,
    RefundOfPayment,
    RefundReceipt,
    Rejected,
    StatusRead,
    StatusUnread,
    Unknown,
)
from payment_service.providers.kaspi.client import KaspiClient
from tests.support.proxy import Connection, RawProxy, answers, http, raw_proxy
from tests.support.verbs import (
    ACCESS_TOKEN,
    ACCOUNT,
    AMOUNT,
    BIN,
    CREATE,
    ID,
    MESSAGE,
    PHONE,
    REFUND,
    SECRETS,
    VERBS,
    Verb,
    client_of,
)

pytestmark = pytest.mark.usefixtures("told")
STATUS = b'{"status": true, "data": {"externalId": %s, "status": "Wait"}}' % ID.encode()
each_verb = pytest.mark.parametrize("verb", VERBS, ids=str)


async def hang(connection: Connection) -> None:
    await connection.hear()
    await connection.hang()


def once(reply: bytes) -> Callable[[Connection], Awaitable[None]]:
    """Answer one request, then close although the connection was to be kept."""

    async def course(connection: Connection) -> None:
        await connection.hear()
        await connection.say(reply)

    return course


async def test_unknown_device_token_is_left_out_of_a_create(proxy: RawProxy, kaspi: KaspiClient) -> None:
    proxy.begin(answers(http(200, CREATE.success())))
    assert await kaspi.create(PhonePayment(Account(BIN), AMOUNT, PHONE, MESSAGE)) == CREATE.accepted
    [request] = proxy.requests
    query = {"access_token": ACCESS_TOKEN, **CREATE.query}
    del query["deviceToken"]
    assert request.query == list(query.items())


def test_call_without_an_organisation_bin_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="BIN"):
        Account("", "a-device-token")


@pytest.mark.parametrize(
    ("tiyn", "sent"),
    [(1, "0.01"), (10, "0.10"), (100, "1.00"), (100_000_00, "100000.00"), (99_999_999_99, "99999999.99")],
)
async def test_amount_is_sent_in_fixed_point(tiyn: int, sent: str, proxy: RawProxy, kaspi: KaspiClient) -> None:
    proxy.begin(answers(http(200, CREATE.success())))
    await kaspi.create(PhonePayment(ACCOUNT, type(AMOUNT)(tiyn), PHONE, ""))
    assert dict(proxy.requests[0].query)["amount"] == sent


async def test_call_asks_caches_to_keep_nothing_and_for_a_reply_whose_end_is_told(
    proxy: RawProxy, kaspi: KaspiClient
) -> None:
    """Two refunds of one sum have the same address; and Apache leaves the chunks out for one who closes."""
    proxy.begin(answers(http(200, CREATE.success())))
    await CREATE.call(kaspi)
    headers = proxy.requests[0].headers
    asked = [headers[name] for name in ("cache-control", "connection", "accept-encoding")]
    assert asked == ["no-cache, no-store", "keep-alive", "identity"]


async def test_path_of_the_proxy_is_kept(proxy: RawProxy) -> None:
    proxy.begin(answers(http(200, CREATE.success())))
    below = client_of(f"{proxy.url}/api/kaspi")
    assert await CREATE.call(below) == CREATE.accepted
    await below.close()
    assert proxy.requests[0].path == "/api/kaspi/create/"


async def test_environment_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch, proxy: RawProxy) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    proxy.begin(answers(http(200, CREATE.success())))
    kaspi = client_of(proxy.url)
    assert await CREATE.call(kaspi) == CREATE.accepted
    await kaspi.close()


@each_verb
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_to_another_host_is_not_followed(
    verb: Verb, status: int, proxy: RawProxy, kaspi: KaspiClient
) -> None:
    async with raw_proxy(answers(http(200, verb.success()))) as other:
        proxy.begin(answers(http(status, verb.success(), f"Location: {other.url}/create/")))
        assert await verb.call(kaspi) == Unknown(f"http_{status}")
        assert (len(proxy.requests), other.connections) == (1, 0)


@each_verb
async def test_money_calls_use_a_fresh_connection_each(verb: Verb, proxy: RawProxy, kaspi: KaspiClient) -> None:
    proxy.begin(answers(http(200, verb.success())))
    for _ in range(3):
        assert await verb.call(kaspi) == verb.accepted
    assert (proxy.connections, len(proxy.requests)) == (3, 3)


async def test_readings_share_a_connection(proxy: RawProxy) -> None:
    proxy.begin(answers(http(200, STATUS)))
    kaspi = client_of(proxy.url)
    for _ in range(3):
        assert await kaspi.read_status(ID) == StatusRead("Wait", Meaning.WAITING)
    await kaspi.close()
    assert (proxy.connections, len(proxy.requests)) == (1, 3)


async def test_reading_survives_a_kept_connection_that_died_between_calls(proxy: RawProxy) -> None:
    proxy.begin(once(http(200, STATUS)))
    kaspi = client_of(proxy.url)
    for _ in range(3):
        assert await kaspi.read_status(ID) == StatusRead("Wait", Meaning.WAITING)
        await proxy.settle()
    await kaspi.close()
    assert (proxy.connections, len(proxy.requests)) == (3, 3)


async def test_reading_on_a_kept_connection_that_dies_is_not_repeated(proxy: RawProxy) -> None:
    async def second_is_lost(connection: Connection) -> None:
        await connection.hear()
        await connection.say(http(200, STATUS))
        await connection.hear()

    proxy.begin(second_is_lost)
    kaspi = client_of(proxy.url)
    assert await kaspi.read_status(ID) == StatusRead("Wait", Meaning.WAITING)
    assert await kaspi.read_status(ID) == StatusUnread("connection_broken")
    await kaspi.close()
    assert (proxy.connections, len(proxy.requests)) == (1, 2)


@each_verb
async def test_connection_that_the_proxy_leaves_open_is_not_used_again_after_it_died(
    verb: Verb, proxy: RawProxy, kaspi: KaspiClient
) -> None:
    proxy.begin(once(http(200, verb.success())))
    for _ in range(3):
        assert await verb.call(kaspi) == verb.accepted
        await proxy.settle()
    assert len(proxy.requests) == 3


@each_verb
async def test_cookies_of_the_proxy_are_not_kept(verb: Verb, proxy: RawProxy, kaspi: KaspiClient) -> None:
    cookie = "Set-Cookie: PHPSESSID=one-session-for-all-sellers; path=/"
    proxy.begin(answers(http(200, verb.success(), cookie)))
    for _ in range(2):
        assert await verb.call(kaspi) == verb.accepted
    assert [request for request in proxy.requests if "cookie" in request.headers] == []


@each_verb
async def test_cancelled_call_was_made_once_and_gives_its_connection_back(verb: Verb, proxy: RawProxy) -> None:
    proxy.begin(hang)
    kaspi = client_of(proxy.url, max_calls=1)
    call = asyncio.ensure_future(verb.call(kaspi))
    await proxy.heard.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await call
    await proxy.settle()
    assert len(proxy.requests) == 1
    shown = "".join(traceback.format_exception(cancelled.value))
    assert [secret for secret in SECRETS[:-1] if f'"{secret}' not in shown and secret in shown] == []
    proxy.begin(answers(http(200, verb.success())))
    assert await verb.call(kaspi) == verb.accepted
    await kaspi.close()


async def test_calls_wait_for_a_free_connection_and_are_then_made_once(proxy: RawProxy) -> None:
    proxy.begin(answers(http(200, CREATE.success())))
    kaspi = client_of(proxy.url, max_calls=2)
    outcomes = await asyncio.gather(*(CREATE.call(kaspi) for _ in range(20)))
    await kaspi.close()
    assert (outcomes, len(proxy.requests)) == ([CREATE.accepted] * 20, 20)


async def test_exhausted_pool_serves_again_once_the_hanging_calls_have_ended(proxy: RawProxy) -> None:
    proxy.begin(hang)
    kaspi = client_of(proxy.url, deadline_s=0.5, max_calls=2)
    hanging = [
        asyncio.ensure_future(kaspi.create(PhonePayment(Account(shop), AMOUNT, PHONE, MESSAGE))) for shop in "12"
    ]
    while len(proxy.requests) < 2:
        await asyncio.wait_for(proxy.heard.wait(), 5)
        await asyncio.sleep(0)
    assert await asyncio.gather(*hanging) == [Unknown("timeout")] * 2
    proxy.begin(answers(http(200, CREATE.success())))
    kaspi._settings = dataclasses.replace(kaspi._settings, deadline_s=10)
    assert await CREATE.call(kaspi) == CREATE.accepted
    await kaspi.close()


@each_verb
@pytest.mark.parametrize("error", [RuntimeError, MemoryError, httpx.DecodingError, ExceptionGroup])
async def test_any_exception_before_a_byte_left_is_not_sent(
    verb: Verb, error: type[Exception], proxy: RawProxy, kaspi: KaspiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: Any, **__: Any) -> None:
        raise _made(error)

    monkeypatch.setattr(Transport, "handle_async_request", breaks)
    proxy.begin(answers(http(200, verb.success())))
    outcome = await verb.call(kaspi)
    assert isinstance(outcome, NotSent)
    assert [secret for secret in SECRETS if secret in repr(outcome)] == []
    assert proxy.connections == 0


@each_verb
@pytest.mark.parametrize("error", [RuntimeError, httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
async def test_any_exception_after_a_byte_left_is_unknown_whatever_its_name(
    verb: Verb, error: type[Exception], proxy: RawProxy, kaspi: KaspiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Transport.handle_async_request

    async def breaks(self: Transport, request: httpx.Request) -> None:
        response = await honest(self, request)
        await response.aclose()
        raise _made(error)

    monkeypatch.setattr(Transport, "handle_async_request", breaks)
    proxy.begin(answers(http(200, verb.success())))
    outcome = await verb.call(kaspi)
    assert isinstance(outcome, Unknown)
    assert [secret for secret in SECRETS if secret in repr(outcome)] == []
    assert len(proxy.requests) == 1


@each_verb
async def test_request_of_which_only_a_part_left_is_unknown(
    verb: Verb, proxy: RawProxy, kaspi: KaspiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Line.send

    async def breaks(self: Line, data: bytes) -> None:
        await honest(self, data[:9])
        raise RuntimeError(f"{ACCESS_TOKEN} did not leave")

    monkeypatch.setattr(Line, "send", breaks)
    proxy.begin(answers(http(200, verb.success())))
    assert await verb.call(kaspi) == Unknown("error_RuntimeError")


@each_verb
async def test_call_whose_moment_passed_while_it_was_connecting_is_not_sent(
    verb: Verb, proxy: RawProxy, kaspi: KaspiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a process that stood still: no timer of the loop has fired yet, and the first byte would be written."""
    honest, stood_still = Transport._open, 0.0
    monkeypatch.setattr(deadline, "clock", lambda: time.monotonic() + stood_still)

    async def stands_still(self: Transport, timeout_s: float | None) -> Line:
        nonlocal stood_still
        connection = await honest(self, timeout_s)
        stood_still = 60
        return connection

    monkeypatch.setattr(Transport, "_open", stands_still)
    monkeypatch.setattr(Transport, "_take_idle", lambda _self: None)
    proxy.begin(answers(http(200, verb.success())))
    with deadline.sending_until(time.monotonic() + 30):
        assert await verb.call(kaspi) == NotSent("too_late_to_send")
    await proxy.settle()
    assert proxy.requests == []
    with deadline.sending_until(time.monotonic() + 600):
        assert isinstance(await verb.call(kaspi), Accepted)


def _made(error: type[Exception]) -> Exception:
    address = f"https://proxy/create/?access_token={ACCESS_TOKEN}&phone={PHONE}"
    return error(address, [ValueError(address)]) if error is ExceptionGroup else error(address)


async def test_request_that_cannot_be_written_is_not_sent(proxy: RawProxy, kaspi: KaspiClient) -> None:
    for message in ("half a character \ud800", "x" * 100_000):
        outcome = await kaspi.create(PhonePayment(ACCOUNT, AMOUNT, PHONE, message))
        assert isinstance(outcome, NotSent)
    assert proxy.requests == []


def test_nothing_that_travels_shows_a_secret_when_printed(kaspi: KaspiClient) -> None:
    payment = PhonePayment(ACCOUNT, AMOUNT, PHONE, MESSAGE)
    shown = repr((payment, kaspi, kaspi._settings))
    assert [secret for secret in SECRETS[:-1] if secret in shown] == []


async def test_message_that_echoes_secrets_is_blanked(proxy: RawProxy, kaspi: KaspiClient, told: StringIO) -> None:
    mixed = "abcdefgh123456789ijklmnop"
    echo = f"Device {CREATE.query['deviceToken']} or {mixed} refused {PHONE}, asked by {ACCESS_TOKEN}"
    proxy.begin(answers(http(200, b'{"status": false, "data": {"errors": {"-1502": "%s"}}}' % echo.encode())))
    outcome = await CREATE.call(kaspi)
    assert [secret for secret in SECRETS if secret in repr(outcome)] == []
    assert "Device … or … refused …, asked by …" in repr(outcome)


async def test_no_word_of_a_reply_is_kept_with_a_secret_of_the_call(proxy: RawProxy, kaspi: KaspiClient) -> None:
    account = Account(BIN, "Quiet7")  # only that it is the call's own tells that it is a secret

    async def create(body: bytes) -> Outcome[PaymentReceipt]:
        proxy.begin(answers(http(200, body)))
        return await kaspi.create(PhonePayment(account, AMOUNT, PHONE, MESSAGE))

    assert await create(CREATE.success(status="Wait Quiet7")) == Accepted(PaymentReceipt(ID))
    refused = b'{"status": false, "data": {"errors": {"%s": "No Quiet7"}}}'
    assert await create(refused % b"-Quiet7") == Unknown("provider_error", code="-_")
    assert await create(refused % b"-1502") == Rejected("-1502", "No …")
    other = b"+7 (702) 111-22-33"  # of somebody else
    assert await create(refused.replace(b"Quiet7", other) % b"-1502") == Rejected("-1502", "No +…")
    proxy.begin(answers(http(200, REFUND.success(returnOperationId="Quiet7"))))
    assert await kaspi.refund(RefundOfPayment(account, AMOUNT, ID)) == Accepted(RefundReceipt())


@pytest.mark.parametrize(
    "code", ["77010203040", "770.10203040", "7-701-020-30-40", "7701__020...3040", "+7 701 0203040"]
)
async def test_code_that_is_a_phone_is_blanked(code: str, proxy: RawProxy, kaspi: KaspiClient) -> None:
    proxy.begin(answers(http(200, b'{"status": false, "data": {"errors": {"%s": "x"}}}' % code.encode())))
    outcome = await CREATE.call(kaspi)
    assert isinstance(outcome, Unknown)
    assert set(outcome.code or "") <= {"_"}


@pytest.mark.parametrize("code", ["-99000003", "-1502", "999999999", "E-1.2"])
async def test_code_that_is_none_stays(code: str, proxy: RawProxy, kaspi: KaspiClient) -> None:
    proxy.begin(answers(http(200, b'{"status": false, "data": {"errors": {"%s": "x"}}}' % code.encode())))
    outcome = await CREATE.call(kaspi)
    assert getattr(outcome, "code", None) == code


# --- readings

READINGS: dict[str, tuple[bytes, Reading]] = {
    "waiting": (http(200, STATUS), StatusRead("Wait", Meaning.WAITING)),
    "paid": (http(200, STATUS.replace(b"Wait", b"Processed")), StatusRead("Processed", Meaning.PAID)),
    "a word nobody knows": (
        http(200, STATUS.replace(b"Wait", b"Pondering")),
        StatusRead("Pondering", Meaning.UNHEARD_OF),
    ),
    "id as text": (
        http(200, STATUS.replace(ID.encode(), b'"%s"' % ID.encode())),
        StatusRead("Wait", Meaning.WAITING),
    ),
    "another payment": (http(200, STATUS.replace(b"74", b"75")), StatusUnread("crossed_reply")),
    "no payment": (http(200, b'{"status": true, "data": []}'), StatusUnread("no_usable_external_id")),
    "no status": (http(200, STATUS.replace(b'"Wait"', b"null")), StatusUnread("no_usable_status")),
    "status of another type": (http(200, STATUS.replace(b'"Wait"', b"[1]")), StatusUnread("no_usable_status")),
    "status with an end of line": (http(200, STATUS.replace(b"Wait", b"Wait\\n")), StatusUnread("no_usable_status")),
    "empty": (http(200, b""), StatusUnread("empty_body")),
    "HTML": (http(200, b"<html>"), StatusUnread("not_json")),
    "not found": (
        http(200, b'{"status": false, "data": {"errors": {"-1601": "no such"}}}'),
        NoSuchPayment("-1601", "no such"),
    ),
    "not found, newer": (
        http(200, b'{"status": false, "data": {"errors": {"-99000001": ""}}}'),
        NoSuchPayment("-99000001", ""),
    ),
    "-999": (http(200, b'{"status": false, "data": {"errors": {"-999": ""}}}'), StatusUnread("provider_error_-999")),
    "another's purchase": (
        http(200, b'{"status": false, "data": {"errors": {"-99000003": ""}}}'),
        StatusUnread("provider_error_-99000003"),
    ),
    "no code": (http(200, b'{"status": false, "error": "x"}'), StatusUnread("provider_error_without_code")),
    "HTTP 404": (http(404, b""), StatusUnread("http_404", refused_by_proxy=True)),
    "HTTP 401": (http(401, STATUS), StatusUnread("http_401", refused_by_proxy=True)),
    "HTTP 500": (http(500, STATUS), StatusUnread("http_500")),
    "HTTP 302": (http(302, STATUS, "Location: http://127.0.0.1:1/"), StatusUnread("http_302")),
    "cut": (http(200, STATUS)[:-5], StatusUnread("connection_broken")),
}


@pytest.mark.parametrize("what", READINGS)
async def test_status_is_read_or_left_unread(what: str, proxy: RawProxy, kaspi: KaspiClient) -> None:
    reply, reading = READINGS[what]
    proxy.begin(once(reply))
    assert await kaspi.read_status(ID) == reading
    await proxy.settle()
    assert [(request.path, request.query) for request in proxy.requests] == [
        ("/status/", [("access_token", ACCESS_TOKEN), ("externalId", ID)])
    ]


async def test_status_that_hangs_is_unread(proxy: RawProxy, hasty: KaspiClient) -> None:
    proxy.begin(hang)
    assert await hasty.read_status(ID) == StatusUnread("timeout")


def test_provider_knows_no_word_for_nothing(kaspi: KaspiClient) -> None:
    assert [kaspi.meaning_of(word) for word in (None, "", "wait", "Processed ")] == [Meaning.UNHEARD_OF] * 4
    assert kaspi.meaning_of("Processed") is Meaning.PAID
    assert isinstance(CREATE.accepted, Accepted)
