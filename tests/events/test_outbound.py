"""Calling addresses that users gave: what is refused, what is reached, and what may come back.

Servers here listen on this machine. Outbound is made for them with rules in which 127.0.0.1 passes for an address of
the Internet; 127.0.0.9 and all others stay what they are.
"""

import asyncio
import contextlib
import gzip
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from io import StringIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from payment_service.observability import logs
from payment_service.outbound import client as outbound
from payment_service.outbound.addresses import DEVELOPMENT, PRODUCTION, IPAddress, Rules, is_public
from payment_service.outbound.client import Outbound, Posted, Reason, check_headers
from payment_service.outbound.lookups import LookUps
from payment_service.outbound.tls import trusted_authorities
from tests.outbound.calling import once
from tests.support.certificates import DAY, Authority, self_signed
from tests.support.logs import production_logs
from tests.support.proxy import Connection, Course, RawProxy, answers, http, raw_proxy

from .hostile import HOSTILE

NAME = "hooks.seller.test"
"""No name server knows it: who connects had the address from the test."""
FINE = answers(http(200, b"thanks"))
THANKS = Posted(200, b"thanks")


class Names:
    """A name server. Each lookup takes the next answer; the last one stays."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[IPAddress]:
        self.asked.append(host)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return [ip_address(address) for address in answer]


def passes_for_outside(address: str) -> Rules:
    """Production's rules, but for this one address of this machine."""
    return Rules(may_call=lambda one: str(one) == address or is_public(one))


SERVER_PASSES = passes_for_outside("127.0.0.1")
MACHINE_PASSES = Rules(may_call=lambda one: one.is_loopback)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("Tests")


@pytest.fixture(scope="module")
def believed(authority: Authority) -> ssl.SSLContext:
    return authority.believed()


@pytest.fixture
def calling(believed: ssl.SSLContext) -> Callable[..., Outbound]:
    """Makes an Outbound for which NAME means 127.0.0.1, unless told, and which believes the authority."""

    def make(
        *names: Sequence[str] | Exception,
        rules: Rules = SERVER_PASSES,
        **options: Any,
    ) -> Outbound:
        resolve = options.pop("resolve", None) or Names(*(names or (["127.0.0.1"],)))
        return Outbound(rules, resolve=resolve, **{"tls": believed, **options})

    return make


@contextlib.asynccontextmanager
async def receiver(
    course: Course = FINE, *, authority: Authority | None = None, **where: Any
) -> AsyncIterator[RawProxy]:
    """A server with a certificate for NAME, or, without an authority, without TLS."""
    tls = authority.server(NAME) if authority else None
    async with raw_proxy(course, **{"tls": tls, **where}) as server:
        yield server


def at(server: RawProxy, path: str = "/hook?key=s3cret", *, host: str = NAME, scheme: str = "https") -> str:
    return f"{scheme}://{host}:{server.port}{path}"


async def why(one: Outbound, url: str, **headers: str) -> Reason:
    """Why a call was not answered."""
    match await one.post(url, body=b"{}", headers=headers):
        case Posted(status):
            pytest.fail(f"was answered: {status}")
        case refused:
            assert refused.detail.endswith(".")
            return refused.reason


# --- what is refused before anybody is asked


@pytest.mark.parametrize(("kind", "url"), [(kind, url) for kind, urls in HOSTILE.items() for url in urls])
async def test_hostile_url_is_refused_before_anybody_is_asked(
    calling: Callable[..., Outbound], kind: str, url: str
) -> None:
    names = Names(["8.8.8.8"])
    one = calling(resolve=names, rules=PRODUCTION)
    with pytest.raises(ValueError, match=r"^The URL.*\.$"):
        await one.check_host(url)
    assert await why(one, url) is Reason.URL_REFUSED
    assert names.asked == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Host", "evil.test"),
        ("hOsT", "evil.test"),
        ("Content-Length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "keep-alive"),
        ("Upgrade", "h2c"),
        ("Expect", "100-continue"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Trailer", "X-Note"),
        ("Accept-Encoding", "gzip"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("X-Note", "a\r\nHost: evil.test"),
        ("X-Note", "a\nb"),
        ("X-Note", "a\x00b"),
        ("X-Note", "цветы"),
        ("X-Note", " a"),
        ("X-Note", ""),
        ("X-Note", "a" * 2001),
        ("X-Note: a\r\nX-Other", "b"),
        ("X Note", "a"),
        ("X-Nöte", "a"),
        (":authority", "evil.test"),
        ("", "a"),
    ],
)
async def test_header_that_would_change_the_request_is_refused(
    calling: Callable[..., Outbound], name: str, value: str
) -> None:
    with pytest.raises(ValueError, match=r"header.*\.$"):
        check_headers({name: value})
    assert await why(calling(), f"https://{NAME}/", **{name: value}) is Reason.HEADER_REFUSED


# --- what names may mean


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1"],
        ["10.0.0.5"],
        ["169.254.169.254"],
        ["100.100.100.200"],
        ["168.63.129.16"],
        ["0.0.0.0"],
        ["::1"],
        ["::"],
        ["fd00:ec2::254"],
        ["fe80::1%1"],
        ["::ffff:127.0.0.1"],
        ["::ffff:8.8.8.8"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["8.8.8.8", "10.0.0.5"],
        ["10.0.0.5", "8.8.8.8"],
        ["8.8.8.8", "1.1.1.1", "9.9.9.9", "8.8.4.4", "127.0.0.1"],
        ["2a02:6b8::1", "::1"],
    ],
)
async def test_name_that_means_an_inner_address_is_refused(calling: Callable[..., Outbound], found: list[str]) -> None:
    one = calling(found, rules=PRODUCTION)
    assert await why(one, f"https://{NAME}/") is Reason.ADDRESS_REFUSED
    with pytest.raises(ValueError, match="not on the public Internet"):
        await one.check_host(f"https://{NAME}/")


@pytest.mark.parametrize("found", [["127.0.0.1", "10.0.0.5"], ["10.0.0.5", "127.0.0.1"]])
async def test_one_inner_address_spoils_the_others(
    calling: Callable[..., Outbound], authority: Authority, found: list[str]
) -> None:
    async with receiver(authority=authority) as server:
        assert await why(calling(found), at(server)) is Reason.ADDRESS_REFUSED
        assert server.connections == 0


async def test_name_that_changes_its_meaning_is_looked_up_once_and_called_where_it_was_checked(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    names = Names(["127.0.0.1"], ["127.0.0.9"])
    one = calling(resolve=names)
    async with (
        receiver(authority=authority) as server,
        receiver(authority=authority, host="127.0.0.9", port=server.port) as inner,
    ):
        assert await one.post(at(server), body=b"{}", headers={}) == THANKS
        assert names.asked == [NAME]
        assert await why(one, at(server)) is Reason.ADDRESS_REFUSED
        assert (server.connections, inner.connections) == (1, 0)


@pytest.mark.parametrize("found", [OSError(), socket.gaierror(socket.EAI_NONAME, "unknown"), []])
async def test_name_without_an_address_is_not_found(calling: Callable[..., Outbound], found: Any) -> None:
    one = calling(found)
    assert await why(one, f"https://{NAME}/") is Reason.NAME_NOT_FOUND
    with pytest.raises(ValueError, match="was not found"):
        await one.check_host(f"https://{NAME}/")


async def test_host_in_the_world_passes_the_check(calling: Callable[..., Outbound]) -> None:
    await calling(["8.8.8.8", "2a02:6b8::1"], rules=PRODUCTION).check_host(f"https://{NAME}/")


async def test_name_server_that_never_answers_ends_the_call_in_time(calling: Callable[..., Outbound]) -> None:
    one = calling(resolve=_never, deadline_s=0.1)
    assert await why(one, f"https://{NAME}/") is Reason.TIMEOUT
    with pytest.raises(ValueError, match="in time"):
        await one.check_host(f"https://{NAME}/")


async def _never(_host: str) -> list[IPAddress]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_system_is_asked_for_whole_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await LookUps()(NAME) == [ip_address("8.8.8.8")]
    assert asked == [f"{NAME}."]


async def test_system_knows_this_machine() -> None:
    assert all(address.is_loopback for address in await LookUps()("localhost"))


# --- what is sent, and to whom


async def test_call_arrives_as_it_was_made(calling: Callable[..., Outbound], authority: Authority) -> None:
    asked_for: list[str | None] = []
    tls = authority.server(NAME)
    tls.sni_callback = lambda _connection, name, _context: asked_for.append(name)
    async with receiver(tls=tls) as server:
        answer = await calling().post(
            at(server, "/a/../hook?key=s3cret&b=%20"),
            body=b'{"type": "payment.paid"}',
            headers={"content-type": "application/json", "webhook-id": "1"},
        )
        assert answer == THANKS
        (request,) = server.requests
        assert (request.method, request.path, request.query) == ("POST", "/a/../hook", [("key", "s3cret"), ("b", " ")])
        assert request.body == b'{"type": "payment.paid"}'
        assert request.headers == {
            "host": f"{NAME}:{server.port}",
            "content-length": "24",
            "content-type": "application/json",
            "webhook-id": "1",
            "user-agent": "payment-service",
            "accept-encoding": "identity",
            "connection": "close",
        }
    assert asked_for == [NAME]


async def test_name_of_other_letters_is_called_by_its_ascii_form(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    ascii_form = "xn--b1ag3bn2a.xn--80ao21a"
    names = Names(["127.0.0.1"])
    async with receiver(tls=authority.server(ascii_form)) as server:
        answer = await calling(resolve=names).post(at(server, host="Цветы.ҚАЗ."), body=b"", headers={})
        assert answer == THANKS
        assert server.requests[0].headers["host"] == f"{ascii_form}:{server.port}"
    assert names.asked == [ascii_form]


async def test_caller_may_name_itself(calling: Callable[..., Outbound], authority: Authority) -> None:
    async with receiver(authority=authority) as server:
        await calling().post(at(server), body=b"", headers={"user-agent": "flowers"})
        assert server.requests[0].headers["user-agent"] == "flowers"


async def test_address_in_a_url_is_called_by_its_certificate(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    names = Names(["127.0.0.1"])
    async with receiver(tls=authority.server("127.0.0.1")) as server:
        answer = await calling(resolve=names).post(at(server, host="127.0.0.1"), body=b"", headers={})
        assert answer == THANKS
    assert names.asked == []


async def test_host_that_has_only_ipv6_is_called(calling: Callable[..., Outbound], authority: Authority) -> None:
    try:
        server_there = await asyncio.start_server(lambda _, __: None, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    server_there.close()
    async with receiver(authority=authority, host="::1") as server:
        one = calling(["::1"], rules=passes_for_outside("::1"))
        assert await one.post(at(server), body=b"", headers={}) == THANKS


async def test_second_address_is_tried_when_the_first_is_dead(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    async with receiver(authority=authority) as server:
        one = calling(["127.0.0.8", "127.0.0.1"], rules=MACHINE_PASSES)
        assert await one.post(at(server), body=b"", headers={}) == THANKS
        assert len(server.requests) == 1


async def test_name_of_many_addresses_makes_us_knock_at_few(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    async with receiver(authority=authority) as server:
        one = calling(["127.0.0.6", "127.0.0.7", "127.0.0.8", "127.0.0.1"], rules=MACHINE_PASSES)
        assert await why(one, at(server)) is Reason.CONNECT_FAILED
        assert server.connections == 0


async def test_call_that_broke_after_it_was_made_is_not_made_again(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    async with receiver(_hear_and_hang_up, authority=authority) as server:
        one = calling(["127.0.0.1", "127.0.0.1", "127.0.0.8"], rules=MACHINE_PASSES)
        assert await why(one, at(server)) is Reason.CONNECTION_BROKEN
        assert len(server.requests) == 1


async def _hear_and_hang_up(connection: Connection) -> None:
    await connection.hear()


async def test_connection_serves_one_call(calling: Callable[..., Outbound], authority: Authority) -> None:
    """The next call to that address may be for another name, which this certificate is not for."""
    one = calling()
    async with receiver(authority=authority) as server:
        assert await one.post(at(server), body=b"", headers={}) == THANKS
        assert await why(one, at(server, host="other.seller.test")) is Reason.CERTIFICATE_REFUSED
        assert (server.connections, len(server.requests)) == (1, 1)


async def test_nobody_listens(calling: Callable[..., Outbound], authority: Authority) -> None:
    async with receiver(authority=authority) as server:
        pass
    assert await why(calling(), at(server)) is Reason.CONNECT_FAILED


async def test_environment_changes_nothing(
    calling: Callable[..., Outbound], authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "authorities.pem"
    bundle.write_text(authority.pem())
    async with receiver() as proxy, receiver(authority=authority) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        trusted_authorities.cache_clear()
        assert await calling().post(at(server), body=b"", headers={}) == THANKS
        assert await why(calling(tls=None), at(server)) is Reason.CERTIFICATE_REFUSED
        assert proxy.connections == 0


# --- whom TLS believes


@pytest.mark.parametrize(
    ("certificate", "fault"),
    [
        (lambda authority: authority.server("other.seller.test"), "is for another name"),
        (lambda authority: authority.server("127.0.0.1"), "is for another name"),
        (lambda authority: authority.server(NAME, starts=-3 * DAY, ends=-DAY), "has expired"),
        (lambda authority: authority.server(NAME, starts=DAY, ends=3 * DAY), "is not valid yet"),
        (lambda _: self_signed(NAME), "is self-signed"),
        (lambda _: Authority("ForeignPayments").server(NAME), "not from an authority that is trusted"),
    ],
)
async def test_server_that_is_not_who_it_should_be_hears_nothing(
    calling: Callable[..., Outbound],
    authority: Authority,
    certificate: Callable[[Authority], ssl.SSLContext],
    fault: str,
) -> None:
    async with receiver(tls=certificate(authority)) as server:
        answer = await calling().post(at(server), body=b"{}", headers={})
        assert not isinstance(answer, Posted)
        assert answer.reason is Reason.CERTIFICATE_REFUSED
        assert fault in answer.detail
        assert server.requests == []


async def test_address_that_its_certificate_does_not_name_hears_nothing(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    async with receiver(authority=authority) as server:
        assert await why(calling(), at(server, host="127.0.0.1")) is Reason.CERTIFICATE_REFUSED
        assert server.requests == []


async def test_server_that_speaks_no_tls_is_told_nothing(calling: Callable[..., Outbound]) -> None:
    async def babble(connection: Connection) -> None:
        await connection.reader.read(1)
        await connection.say(b"220 Welcome\r\n")

    async with receiver(babble) as server:
        assert await why(calling(), at(server)) is Reason.TLS_FAILED
        assert server.requests == []


async def test_server_that_wants_our_certificate_gets_none(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    tls = authority.server(NAME)
    tls.verify_mode = ssl.CERT_REQUIRED
    async with receiver(tls=tls) as server:
        assert await why(calling(), at(server)) in {Reason.TLS_FAILED, Reason.CONNECTION_BROKEN}
        assert server.requests == []


# --- what may come back


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 308, 400, 410, 429, 500, 503])
async def test_any_status_is_an_answer(calling: Callable[..., Outbound], authority: Authority, status: int) -> None:
    reply = b"HTTP/1.1 204 No\r\n\r\n" if status == 204 else http(status, b"said")
    async with receiver(answers(reply), authority=authority) as server:
        answer = await calling().post(at(server), body=b"", headers={})
        assert answer == Posted(status, b"" if status == 204 else b"said")


@pytest.mark.parametrize("location", ["{other}", "//127.0.0.1/", "http://[", "file:///etc/passwd", "/again"])
async def test_redirect_is_not_followed(calling: Callable[..., Outbound], authority: Authority, location: str) -> None:
    async with receiver(authority=authority) as other, receiver(authority=authority) as server:
        server.begin(answers(http(302, b"there", f"Location: {location.format(other=at(other))}")))
        assert await calling().post(at(server), body=b"", headers={}) == Posted(302, b"there")
        assert (server.connections, other.connections) == (1, 0)


async def test_early_hints_are_passed_over(calling: Callable[..., Outbound], authority: Authority) -> None:
    async with receiver(
        answers(b"HTTP/1.1 103 Early Hints\r\n\r\n" + http(200, b"thanks")), authority=authority
    ) as server:
        assert await calling().post(at(server), body=b"", headers={}) == THANKS


async def test_cookies_are_forgotten(calling: Callable[..., Outbound], authority: Authority) -> None:
    one = calling()
    async with receiver(answers(http(200, b"", "Set-Cookie: a=b")), authority=authority) as server:
        for _ in range(2):
            await one.post(at(server), body=b"", headers={})
        assert [request.headers.get("cookie") for request in server.requests] == [None, None]


async def test_compressed_answer_is_left_compressed(calling: Callable[..., Outbound], authority: Authority) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    async with receiver(answers(http(200, bomb, "Content-Encoding: gzip")), authority=authority) as server:
        assert await calling().post(at(server), body=b"", headers={}) == Posted(200, bomb[:4096])


async def test_answer_without_end_is_read_to_4_kb(calling: Callable[..., Outbound], authority: Authority) -> None:
    async def pour(connection: Connection) -> None:
        await connection.hear()
        await connection.say(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await connection.say(b"x" * 65536)

    async with receiver(pour, authority=authority) as server:
        assert await calling().post(at(server), body=b"", headers={}) == Posted(200, b"x" * 4096)
        await server.settle()  # we hung up


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"thanks") + b"\n",
        http(200, b"thanks") * 2,
        http(200, b"thanks").replace(b"\r\n", b"\n"),
        b"HTTP/1.1 200\r\n\r\nthanks",
        b"HTTP/1.0 200 OK\r\n\r\nthanks",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n6  \r\nthanks\r\n0\r\n\r\n",
    ],
)
async def test_answer_that_most_programs_would_understand_counts(
    calling: Callable[..., Outbound], authority: Authority, answer: bytes
) -> None:
    """Receivers are programs that anybody wrote: one that took an event must not get it for days on end."""
    async with receiver(once(answer), authority=authority) as server:
        assert await calling().post(at(server), body=b"{}", headers={}) == THANKS


async def test_body_of_an_answer_that_has_none_is_not_looked_at(
    calling: Callable[..., Outbound], authority: Authority
) -> None:
    async with receiver(once(b"HTTP/1.1 204 No Content\r\n\r\nok"), authority=authority) as server:
        assert await calling().post(at(server), body=b"{}", headers={}) == Posted(204, b"")


async def test_answer_of_exactly_4_kb_is_whole(calling: Callable[..., Outbound], authority: Authority) -> None:
    async with receiver(answers(http(200, b"x" * 4096)), authority=authority) as server:
        assert await calling().post(at(server), body=b"", headers={}) == Posted(200, b"x" * 4096)


async def _never_shake_hands(connection: Connection) -> None:
    await connection.hang()


async def _never_answer(connection: Connection) -> None:
    await connection.hear()
    await connection.hang()


async def _never_end(connection: Connection) -> None:
    await connection.hear()
    await connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    await connection.hang()


async def _drip(connection: Connection) -> None:
    await connection.hear()
    await connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n")
    while True:
        await connection.say(b"x")
        await asyncio.sleep(0.02)


async def _drip_headers(connection: Connection) -> None:
    await connection.hear()
    await connection.say(b"HTTP/1.1 200 OK\r\nX-Note: ")
    while True:
        await connection.say(b"x")
        await asyncio.sleep(0.02)


async def _only_hint(connection: Connection) -> None:
    await connection.hear()
    while True:
        await connection.say(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("course", [_never_answer, _never_end, _drip, _drip_headers, _only_hint])
async def test_answer_that_takes_too_long_is_none(
    calling: Callable[..., Outbound], authority: Authority, course: Course
) -> None:
    async with receiver(course, authority=authority) as server:
        assert await why(calling(deadline_s=0.5), at(server)) is Reason.TIMEOUT
        await server.settle()  # we hung up


async def test_handshake_that_never_ends_is_cut(calling: Callable[..., Outbound]) -> None:
    async with receiver(_never_shake_hands) as server:
        assert await why(calling(deadline_s=0.5), at(server)) is Reason.TIMEOUT
        await server.settle()  # we hung up


async def _break_off(connection: Connection) -> None:
    await connection.hear()
    await connection.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")


async def _greet_and_hang_up(connection: Connection) -> None:
    await connection.say(b"220 mail.seller.test ESMTP\r\n")


async def _reset(connection: Connection) -> None:
    await connection.hear()
    connection.reset()


@pytest.mark.parametrize(
    "course",
    [
        _hear_and_hang_up,
        _break_off,
        _reset,
        _greet_and_hang_up,
        answers(b"\x00" * 200),
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        answers(b"HTTP/1.1 200 OK\r\n" + b"X-Note: x\r\n" * 20_000 + b"\r\n"),
    ],
)
async def test_answer_that_breaks_or_is_no_http_is_none(
    calling: Callable[..., Outbound], authority: Authority, course: Course
) -> None:
    async with receiver(course, authority=authority) as server:
        assert await why(calling(), at(server)) is Reason.CONNECTION_BROKEN


async def test_what_nobody_foresaw_is_no_answer(calling: Callable[..., Outbound]) -> None:
    assert await why(calling(RuntimeError("a bug")), f"https://{NAME}/") is Reason.ERROR


async def test_call_can_be_cancelled(calling: Callable[..., Outbound], authority: Authority) -> None:
    async with receiver(_never_answer, authority=authority) as server:
        call = asyncio.create_task(calling().post(at(server), body=b"", headers={}))
        await asyncio.wait_for(server.heard.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.settle()


# --- development


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_development_calls_this_machine_without_tls(host: str) -> None:
    one = Outbound(DEVELOPMENT)
    async with receiver() as server:
        url = at(server, host=host, scheme="http")
        assert await one.post(url, body=b"", headers={}) == THANKS
        assert server.requests[0].headers["host"] == f"{host}:{server.port}"


async def test_development_calls_nothing_else_inside(calling: Callable[..., Outbound]) -> None:
    one = calling(["10.0.0.5"], rules=DEVELOPMENT)
    assert await why(one, f"http://{NAME}/") is Reason.ADDRESS_REFUSED
    assert await why(one, "http://10.0.0.5/") is Reason.URL_REFUSED


async def test_production_is_what_one_gets_who_says_nothing() -> None:
    one = Outbound()
    async with receiver() as server:
        for scheme in ("http", "https"):
            for host in ("127.0.0.1", "localhost", "[::1]"):
                assert await why(one, at(server, host=host, scheme=scheme)) is Reason.URL_REFUSED
        assert server.connections == 0


# --- what is told


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[StringIO]:
    monkeypatch.setattr(outbound, "log", logs.get_logger(outbound.__name__))  # one that no earlier test has bound
    with production_logs() as lines:
        yield lines


@pytest.mark.parametrize(
    "course",
    [FINE, answers(b"s3cret"), _hear_and_hang_up, _never_answer, answers(http(302, b"", "Location: x"))],
)
async def test_only_the_host_is_told(
    calling: Callable[..., Outbound], authority: Authority, told: StringIO, course: Course
) -> None:
    async with receiver(course, authority=authority) as server:
        answer = await calling(deadline_s=0.5).post(
            at(server, "/s3cret?token=s3cret"), body=b"s3cret", headers={"authorization": "s3cret"}
        )
    assert NAME in told.getvalue()
    assert "s3cret" not in told.getvalue()
    assert "s3cret" not in repr(answer)


@pytest.mark.parametrize("kind", HOSTILE)
async def test_refusal_does_not_repeat_the_url(calling: Callable[..., Outbound], kind: str) -> None:
    one = calling(rules=PRODUCTION)
    for url in HOSTILE[kind]:
        assert "s3cret" not in repr(await one.post(f"{url}s3cret", body=b"", headers={}))
