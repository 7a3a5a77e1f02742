"""The transport on real sockets: whether a byte left, what a cancelled call leaves behind, kept connections, TLS."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, Final

import httpx
import pytest
import uvloop

from payment_service.observability.metrics import CERTIFICATE_END, HOST_CLOCK_AHEAD, labelled, values_of
from payment_service.outbound import connection as connection_module
from payment_service.outbound.transport import Transport
from tests.outbound.calling import (
    ANYBODY,
    HELLO,
    OK,
    Caller,
    Trace,
    calling,
    each_in_turn,
    full_listener,
    met,
    once,
    sockets_to,
    waiting,
)
from tests.support.certificates import Authority, self_signed
from tests.support.proxy import Connection, Course, answers, http, raw_proxy

SECRET: Final = "a-secret-in-the-query"


async def hangs(connection: Connection) -> None:
    await connection.hear()
    await connection.hang()


# --- whether a byte left


async def test_trace_tells_each_step_of_a_call_in_order() -> None:
    trace = Trace()
    async with calling(answers(HELLO)) as call:
        assert await call(trace) == b"hello"
    assert trace.events == [
        "connection.connect_tcp.complete",
        "http11.send_request_headers.started",
        "http11.send_request_body.complete",
        "http11.receive_response_headers.complete",
    ]


async def test_server_that_speaks_before_it_is_asked_is_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = connection_module._connect

    async def connect_and_wait(*where: Any) -> socket.socket:
        sock = await connect(*where)
        await asyncio.sleep(0.05)
        return sock

    async def greets(connection: Connection) -> None:
        await connection.say(HELLO)
        await connection.hear()

    monkeypatch.setattr(connection_module, "_connect", connect_and_wait)
    trace = Trace()
    async with calling(greets) as call:
        with pytest.raises(httpx.ConnectError):
            await call(trace)
        assert (trace.begun, call.server.connections, call.server.requests) == (False, 1, [])


@pytest.mark.parametrize("kept", [False, True])
async def test_connection_that_breaks_after_the_request_is_told_so_and_nothing_is_sent_again(kept: bool) -> None:
    """httpx-aiohttp would call it a connection that was never made, and aiohttp send it again on another."""

    async def breaks(connection: Connection) -> None:
        if kept:
            await connection.hear()
            await connection.say(HELLO)
        await connection.hear()
        connection.reset()

    async with calling(breaks, keep=5) as call:
        if kept:
            await call()
        trace = Trace()
        with pytest.raises(httpx.ReadError):
            await call(trace)
        assert trace.begun
        assert (call.server.connections, len(call.server.requests)) == (1, 1 + kept)


@pytest.mark.parametrize("target", ["/a b", "/a\r\nHost: other", "/a\n", "/a\0", "/" + "a" * 70_000], ids=range(5))
async def test_request_that_would_not_be_read_as_one_is_not_written(target: str) -> None:
    trace = Trace()
    async with calling(answers(HELLO)) as call:
        with pytest.raises(httpx.LocalProtocolError):
            await call(trace, path=target)
        assert (trace.begun, call.server.connections) == (False, 0)


async def test_error_names_neither_the_address_nor_the_query() -> None:
    async with calling(once(b"HTTP/1.1 2")) as call:
        with pytest.raises(httpx.RemoteProtocolError) as error:
            await call(path=f"/?token={SECRET}")
        shown = "".join(traceback.format_exception(error.value))
        assert SECRET not in shown
        assert str(call.server.port) not in shown


# --- cancelled


async def stops_in_the_body(connection: Connection) -> None:
    await connection.hear()
    await connection.say(HELLO[:-2])
    await connection.hang()


CANCELLED: Final[dict[str, tuple[Course, str]]] = {
    "connected": (hangs, "connection.connect_tcp.complete"),
    "about to send": (hangs, "http11.send_request_headers.started"),
    "sent": (hangs, "http11.send_request_body.complete"),
    "waiting for the head": (hangs, ""),
    "head read": (stops_in_the_body, "http11.receive_response_headers.complete"),
    "in the body": (stops_in_the_body, ""),
}


async def is_cancelled_without_a_trace(one: Transport, url: str, trace: Trace) -> None:
    """Cancel a call where it stands; ``one`` is the server's only caller."""
    asked = asyncio.ensure_future(Caller(None, one, url)(trace))  # type: ignore[arg-type] # it needs no server to call
    await asyncio.sleep(0.05)
    assert not asked.done()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await one.aclose()


@pytest.mark.parametrize("where", CANCELLED)
async def test_cancelled_call_leaves_nothing_open(where: str, of_both: Authority | None) -> None:
    course, stop_at = CANCELLED[where]
    async with calling(course, of_both, ahead=2, keep=2) as call:
        tasks = asyncio.all_tasks()
        await is_cancelled_without_a_trace(call.transport, call.url, Trace(stop_at))
        await call.server.settle()
        await asyncio.sleep(0.01)
        assert sockets_to(call.server.port) == 0
        assert {task for task in asyncio.all_tasks() - tasks if not task.done()} == set()


async def test_cancelled_connecting_leaves_nothing_open() -> None:
    with full_listener() as (host, port):
        trace, others = Trace(), sockets_to(port)
        url = f"http://{host}:{port}"
        await is_cancelled_without_a_trace(Transport(httpx.URL(url), ANYBODY), url, trace)
        assert (sockets_to(port), trace.events) == (others, [])


async def test_cancelled_handshake_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        trace, port = Trace(), silent.getsockname()[1]
        url = f"https://127.0.0.1:{port}"
        await is_cancelled_without_a_trace(Transport(httpx.URL(url), ANYBODY), url, trace)
        assert (sockets_to(port), trace.events) == (0, [])


# --- kept connections


async def test_connection_is_kept_for_the_next_call_and_no_more_than_are_wanted() -> None:
    async with calling(answers(HELLO), keep=2) as call:
        await asyncio.gather(*(call() for _ in range(5)))
        assert len(call.transport._idle) == 2
        await call()
        assert call.server.connections == 5


LAST: Final = {"closing": http(200, b"", "Connection: close"), "1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"}


@pytest.mark.parametrize("reply", LAST)
async def test_connection_that_the_server_will_end_is_not_kept(reply: str) -> None:
    async with calling(answers(LAST[reply]), keep=2) as call:
        for _ in range(2):
            await call()
        assert call.server.connections == 2


async def test_second_reply_that_lies_in_wait_is_nobodys(of_both: Authority | None) -> None:
    async def answers_again(connection: Connection) -> None:
        while await connection.hear():
            await connection.say(HELLO)
            await asyncio.sleep(0.02)
            await connection.say(http(200, b"of the call before"))

    async with calling(answers_again, of_both, keep=2) as call:
        for _ in range(3):
            assert await call() == b"hello"
            await asyncio.sleep(0.05)
        assert (call.server.connections, len(call.server.requests)) == (3, 3)


async def test_body_that_nobody_read_to_its_end_ends_the_connection() -> None:
    async with calling(answers(http(200, b"x" * 50_000)), keep=2) as call:
        response = await call.transport.handle_async_request(httpx.Request("GET", call.url))
        for _ in range(2):
            await response.stream.aclose()  # type: ignore[union-attr] # it is one of ours
        assert call.transport._idle == []


async def test_reply_is_given_back_once_however_often_it_is_closed() -> None:
    async with calling(answers(http(204, b"")), keep=2) as call:
        response = await call.transport.handle_async_request(httpx.Request("GET", call.url))
        for _ in range(2):
            await response.stream.aclose()  # type: ignore[union-attr] # it is one of ours
        assert len(call.transport._idle) == 1


# --- the host's clock


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("Date: {in_an_hour}", (3500, 3610)),
        ("Date: yesterday", None),
        ("Server: without a clock", None),
    ],
)
async def test_clock_of_the_host_is_told_where_it_says_its_time(said: str, shown: tuple[float, float] | None) -> None:
    said = said.format(in_an_hour=format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    HOST_CLOCK_AHEAD.clear()  # and what keeps its children
    labelled.cache_clear()
    async with calling(answers(http(200, b"hello", said))) as call:
        assert await call() == b"hello"
    [*found] = values_of(HOST_CLOCK_AHEAD).values()
    assert (shown[0] < found[0] < shown[1]) if shown else found == []


# --- over TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_session_is_resumed_and_http_1_1_agreed_on(version: ssl.TLSVersion, authority: Authority) -> None:
    tls = authority.server("localhost")
    tls.maximum_version = version
    tls.set_alpn_protocols(["h2", "http/1.1"])
    seen = []

    async def looks(connection: Connection) -> None:
        one = connection.writer.get_extra_info("ssl_object")
        seen.append((one.session_reused, one.selected_alpn_protocol()))
        await once(HELLO)(connection)

    async with raw_proxy(looks, tls=tls) as server:
        url = f"https://localhost:{server.port}"
        call = Caller(server, Transport(httpx.URL(url), authority.believed()), url)
        for _ in range(3):
            assert await call() == b"hello"
    assert seen == [(False, "http/1.1"), (True, "http/1.1"), (True, "http/1.1")]
    assert 0 < values_of(CERTIFICATE_END)["localhost",] - time.time() <= timedelta(days=1).total_seconds()


async def test_server_that_is_not_who_it_should_be_is_sent_nothing(authority: Authority) -> None:
    """Not even if the one that was there before left a session."""
    async with calling(answers(HELLO), authority) as call:
        await call()
        assert call.transport._session is not None
        for tls in (authority.server("another.host"), self_signed("localhost"), Authority("X").server("localhost")):
            async with raw_proxy(answers(HELLO), tls=tls) as other:
                call.transport._port = other.port
                trace = Trace()
                with pytest.raises(httpx.ConnectError):
                    await call(trace)
                assert (trace.begun, other.requests) == (False, [])


async def test_tickets_of_tls_are_nothing_that_was_said(authority: Authority) -> None:
    async with calling(answers(HELLO), authority, ahead=1) as call:
        await call()
        await waiting(call.transport)
        await asyncio.sleep(0.05)  # they have come by now
        await call()
        assert (call.transport._leaves_idle_open, len(call.server.requests)) == (True, 2)
        await waiting(call.transport)
        await met(call.server, 3)


async def test_end_without_the_alert_of_tls_is_an_end(authority: Authority) -> None:
    async def ends_raggedly(connection: Connection) -> None:
        await connection.hear()
        await connection.say(OK + b"\r\nhello")
        connection.writer.transport.abort()

    async with calling(ends_raggedly, authority) as call:
        assert await call() == b"hello"


# --- addresses


def found(*addresses: str) -> list[tuple[Any, ...]]:
    """What the system's resolver finds."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


async def test_dead_address_of_a_host_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling(answers(HELLO)) as call:
        port = call.server.port
        named = Caller(call.server, Transport(httpx.URL(f"http://three.example.kz:{port}"), ANYBODY), call.url)
        addresses = found("127.0.0.2", "127.0.0.3", "127.0.0.1")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with full_listener("127.0.0.2", port):
            assert await named(timeout_s=0.6) == b"hello"


async def test_name_that_is_never_found_keeps_no_other_look_up_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of the database's host, when its connections have to be made anew."""
    go, asked, found_by_system = threading.Event(), list[str](), socket.getaddrinfo

    def stuck(host: str, *more: Any, **how: Any) -> list[Any]:
        if host != "stuck.example.kz":
            return found_by_system(host, *more, **how)
        asked.append(host)
        go.wait()
        return found("127.0.0.1")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    async with calling(answers(HELLO)) as call:
        transport = Transport(httpx.URL(f"http://stuck.example.kz:{call.server.port}"), ANYBODY)
        named = Caller(call.server, transport, call.url)
        try:
            calls = await asyncio.gather(*(named(timeout_s=0.2) for _ in range(40)), return_exceptions=True)
            assert {type(one) for one in calls} == {httpx.ConnectTimeout}
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().getaddrinfo("localhost", 80)
            assert asked == ["stuck.example.kz"]
        finally:
            go.set()


async def test_connection_to_an_address_waits_for_no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop's sock_connect makes one, in threads that a silent name server can hold."""

    async def looks_up(*_: Any) -> None:
        pytest.fail("an address needs no look-up")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", looks_up)
    async with calling(answers(HELLO)) as call:
        assert await call() == b"hello"


# --- the loop that serves


def test_transport_is_the_same_on_uvloop(authority: Authority) -> None:
    async def ends(_connection: Connection) -> None:
        pass

    async def resets(connection: Connection) -> None:
        connection.reset()

    async def calls(tls: Authority | None) -> None:
        for bad in (ends, resets):
            async with calling(each_in_turn(answers(HELLO), bad, answers(HELLO)), tls, ahead=1) as call:
                assert await call() == b"hello"
                await waiting(call.transport)
                await met(call.server, 2)
                await asyncio.sleep(0.05)
                assert await call() == b"hello"
                assert (call.transport._leaves_idle_open, call.server.connections) == (False, 3)
        async with calling(answers(HELLO), tls, keep=1) as call:
            for _ in range(3):
                assert await call() == b"hello"
            assert call.server.connections == 1
        async with calling(answers(HELLO), tls, ahead=1) as call:
            for _ in range(3):
                assert await call() == b"hello"
                await waiting(call.transport)
            await met(call.server, 4)
        async with calling(once(HELLO[:-1]), tls) as call:
            with pytest.raises(httpx.RemoteProtocolError):
                await call()
        async with calling(hangs, tls) as call:
            before = sockets_to(call.server.port)
            await is_cancelled_without_a_trace(call.transport, call.url, Trace())
            await call.server.settle()
            await asyncio.sleep(0.05)
            assert sockets_to(call.server.port) == before
        with full_listener() as (host, port), contextlib.suppress(httpx.ConnectTimeout):
            url = f"http://{host}:{port}"
            await Caller(call.server, Transport(httpx.URL(url), ANYBODY), url)(timeout_s=0.1)
            pytest.fail("nobody answers there")
        trace = Trace()
        with pytest.raises(httpx.ConnectError):
            await call(trace)  # its server is gone
        assert not trace.begun

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for tls in (None, authority):
            runner.run(calls(tls))
