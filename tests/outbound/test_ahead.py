"""Connections that are opened ahead of their call: used once, never when they went bad, gone when nobody calls."""

import asyncio
import random
import time
from ipaddress import ip_address
from typing import Any

import httpx
import pytest

from payment_service.outbound import transport as module
from payment_service.outbound.addresses import IPAddress
from payment_service.outbound.lookups import LookUps
from tests.outbound.calling import (
    HELLO,
    Trace,
    calling,
    each_in_turn,
    met,
    once,
    sockets_to,
    some_turns,
    until,
    waiting,
)
from tests.support.certificates import Authority
from tests.support.proxy import Connection, Course, answers


async def test_each_connection_opened_ahead_serves_one_call() -> None:
    async with calling(answers(HELLO), ahead=1) as call:
        for number in range(1, 6):
            await call()
            await waiting(call.transport)
            await met(call.server, number + 1)
            assert len(call.server.requests) == number


async def test_call_that_finds_one_waits_for_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async with calling(answers(HELLO), ahead=1) as call:
        await call()
        await waiting(call.transport)

        async def never(*_: Any) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
        assert await asyncio.wait_for(call(), 5) == b"hello"


async def test_burst_opens_no_more_ahead_than_are_wanted() -> None:
    async with calling(answers(HELLO), ahead=3) as call:
        await asyncio.gather(*(call() for _ in range(20)))
        await waiting(call.transport, 3)
        await met(call.server, 23)


async def test_nothing_stays_open_when_nobody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    async with calling(answers(HELLO), ahead=2) as call:
        before = sockets_to(call.server.port)
        await asyncio.gather(call(), call())
        await met(call.server, 4)
        await waiting(call.transport, 0)
        await call.server.settle()
        await asyncio.sleep(0.01)
        assert sockets_to(call.server.port) == before
        await call()
        await met(call.server, 5 + 1)


async def test_connection_that_waited_too_long_is_not_used_though_the_loop_was_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    async with calling(answers(HELLO), ahead=1) as call:
        await call()
        await waiting(call.transport)
        call.transport._ahead = 0
        time.sleep(0.1)  # noqa: ASYNC251 - nobody came to end it
        await call()
        assert (call.server.connections, len(call.server.requests)) == (3, 2)


async def ends(_connection: Connection) -> None:
    """As a server that is hasty, or that was restarted."""


async def resets(connection: Connection) -> None:
    connection.reset()


async def speaks(connection: Connection) -> None:
    await connection.say(HELLO)
    await connection.hear()


def after(seen: asyncio.Event, course: Course) -> Course:
    """The same, once the connection was seen waiting."""

    async def later(connection: Connection) -> None:
        await seen.wait()
        await course(connection)

    return later


@pytest.mark.parametrize("goes_bad", [ends, resets, speaks])
async def test_connection_that_went_bad_is_never_written_to(goes_bad: Course, of_both: Authority | None) -> None:
    seen = asyncio.Event()
    async with calling(each_in_turn(once(HELLO), after(seen, goes_bad), once(HELLO)), of_both, ahead=1) as call:
        await call()
        await waiting(call.transport)
        await met(call.server, 2)
        seen.set()
        await some_turns()
        for _ in range(3):
            trace = Trace()
            assert await call(trace) == b"hello"
            assert trace.events.count("http11.send_request_headers.started") == 1
        # And for a while there is no other.
        assert (call.server.connections, len(call.server.requests)) == (5, 4)


async def test_one_that_went_bad_takes_the_others_with_it() -> None:
    seen = asyncio.Event()
    course = each_in_turn(once(HELLO), once(HELLO), once(HELLO), after(seen, ends))
    async with calling(course, ahead=2) as call:
        await asyncio.gather(call(), call())
        await waiting(call.transport, 2)
        await met(call.server, 4)
        seen.set()
        await some_turns()
        with pytest.raises(httpx.TransportError):
            await call()
        assert call.transport._idle == []


async def test_connection_that_cannot_be_opened_ahead_hurts_nobody() -> None:
    async with calling(answers(HELLO), ahead=1) as call:
        await call()
        await waiting(call.transport)
        port, call.transport._port = call.transport._port, 1
        assert await call() == b"hello"
        await waiting(call.transport, 0)
        trace = Trace()
        with pytest.raises(httpx.ConnectError):
            await call(trace)
        assert not trace.begun
        call.transport._port = port
        assert await call() == b"hello"


async def test_closing_while_one_is_opened_leaves_nothing_open(of_both: Authority | None) -> None:
    def slowly(_host: str) -> list[IPAddress]:
        time.sleep(0.05)
        return [ip_address("127.0.0.1")]

    async with calling(answers(HELLO), of_both, ahead=1) as call:
        call.transport._where = LookUps(slowly)
        before = sockets_to(call.server.port)
        await call()
        assert call.transport._opening
        await call.transport.aclose()
        await call.server.settle()
        await asyncio.sleep(0.01)
        assert sockets_to(call.server.port) == before


# --- never against a server that would end them


def hasty(ends_after_s: float) -> Course:
    """Answers, and ends a connection on which nothing was said for so long."""

    async def course(connection: Connection) -> None:
        hearing = asyncio.create_task(connection.hear())
        await asyncio.wait({hearing}, timeout=ends_after_s)
        for _ in range(5):
            await asyncio.sleep(0)  # a loop that was late has the caller's words to hand on first
        if hearing.done():
            await connection.say(HELLO)
        hearing.cancel()

    return course


async def test_nothing_is_opened_ahead_before_the_server_left_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIAL_S", 0.1)
    async with calling(hasty(1), trusts=False, ahead=2) as call:
        for _ in range(3):
            await call()
        await met(call.server, 3 + 1)
        await until(lambda: call.transport._leaves_idle_open)
        assert call.transport._idle == []
        await call()
        await waiting(call.transport)
        await met(call.server, 6)
        assert len(call.server.requests) == 4


async def test_server_that_ended_it_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIAL_S", 0.1)
    monkeypatch.setattr(module, "TRIAL_EVERY_S", 0.4)
    async with calling(
        each_in_turn(once(HELLO), ends, once(HELLO), once(HELLO), hasty(5)), trusts=False, ahead=1
    ) as call:
        await call()
        await until(lambda: not call.transport._opening)
        for _ in range(2):
            await call()
            assert not call.transport._opening
        await asyncio.sleep(0.4)
        await call()
        await until(lambda: call.transport._leaves_idle_open)
        assert len(call.server.requests) == 4


IN_SECONDS = [pytest.param(seconds, 3.0, 4.0, marks=pytest.mark.thorough) for seconds in (0.7, 1.0, 2.5, 3.5, 6.0)]


@pytest.mark.parametrize(("ends_after_s", "idle_s", "trial_s"), [(0.2, 0.6, 0.8), *IN_SECONDS])
async def test_server_that_ends_idle_connections_makes_no_call_unknown(
    ends_after_s: float, idle_s: float, trial_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_S", idle_s)
    monkeypatch.setattr(module, "TRIAL_S", trial_s)
    chance = random.Random(7)
    heard = []

    async def one_caller() -> None:
        async with calling(hasty(ends_after_s), trusts=False, ahead=2) as call:
            for number in range(6):
                assert await call() == b"hello"
                await asyncio.sleep(trial_s if number == 0 else ends_after_s * chance.uniform(0.6, 1.2))
            heard.append((len(call.server.requests), call.transport._leaves_idle_open))

    await asyncio.gather(*(one_caller() for _ in range(20)))
    assert heard == [(6, ends_after_s > trial_s)] * 20


async def test_server_that_restarts_between_calls_makes_no_call_unknown() -> None:
    async with calling(answers(HELLO), ahead=2) as call:
        await asyncio.gather(call(), call())
        await waiting(call.transport, 2)
        await met(call.server, 4)
        call.server.stop()  # every connection ends; who comes next is served
        await call.server.settle()
        trace = Trace()
        assert await call(trace) == b"hello"
        await met(call.server, 5)
        assert len(call.server.requests) == 3
        assert trace.events.count("http11.send_request_headers.started") == 1
