"""A proxy that fails again and again is left alone for a while: decided by a clock, and seen on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from payment_service.providers.breaker import Breaker
from payment_service.providers.interface import Accepted, NotSent, StatusRead, StatusUnread
from payment_service.providers.kaspi.client import KaspiClient, KaspiSettings
from tests.providers.proxy import Connection, RawProxy, answers, http
from tests.providers.verbs import ACCESS_TOKEN, CREATE, ID, VERBS, Verb

FAILURES, PAUSE_S = 3, 10.0


@dataclass
class Clock:
    """Stands still until it is moved, in seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(FAILURES, PAUSE_S, clock)


def fail(breaker: Breaker, times: int = FAILURES) -> None:
    for _ in range(times):
        breaker.learn(failed=True)


def test_circuit_opens_at_the_last_of_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    assert breaker.admits()
    assert not breaker.is_open
    fail(breaker, 1)
    assert breaker.is_open
    assert not breaker.admits()


def test_success_between_failures_begins_the_row_anew(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker, FAILURES - 1)
        breaker.learn(failed=False)
    assert breaker.admits()


def test_one_call_may_try_after_the_pause_and_the_others_wait_for_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S - 0.001
    assert not breaker.admits()
    clock.now += 0.001
    assert [breaker.admits() for _ in range(5)] == [True, False, False, False, False]


def test_try_that_succeeds_closes_the_circuit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S
    assert breaker.admits()
    breaker.learn(failed=False)
    assert all(breaker.admits() for _ in range(5))
    fail(breaker, FAILURES - 1)
    assert breaker.admits()


def test_try_that_fails_costs_another_pause_from_its_end(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S
    assert breaker.admits()
    clock.now += 8
    fail(breaker, 1)
    clock.now += PAUSE_S - 1
    assert not breaker.admits()
    clock.now += 1
    assert breaker.admits()


def test_try_that_never_comes_back_costs_one_more_pause(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S
    assert breaker.admits()
    clock.now += PAUSE_S
    assert breaker.admits()


def test_success_of_a_call_that_began_before_closes_the_circuit(breaker: Breaker) -> None:
    fail(breaker)
    breaker.learn(failed=False)
    assert breaker.admits()


def test_breaker_of_no_failures_never_opens(clock: Clock) -> None:
    breaker = Breaker(0, PAUSE_S, clock)
    fail(breaker, 1000)
    assert breaker.admits()
    assert not breaker.is_open


# --- on the wire

REFUSALS = (
    b'{"status": false, "data": {"errors": {"-1502": "inactive"}}}',
    b'{"status": false, "data": {"errors": {"-999": "technical"}}}',
    b'{"status": false, "error": "whatever"}',
)


@pytest.fixture
async def kaspi(proxy: RawProxy, clock: Clock) -> AsyncIterator[KaspiClient]:
    """A client that leaves the proxy alone after three failures, by the test's clock."""
    kaspi = KaspiClient(
        KaspiSettings(proxy.url, ACCESS_TOKEN, breaker_failures=FAILURES, breaker_pause_s=PAUSE_S, deadline_s=5)
    )
    kaspi._money.breaker.clock = kaspi._readings.breaker.clock = clock
    yield kaspi
    await kaspi.close()


@pytest.mark.parametrize("verb", VERBS, ids=str)
async def test_call_that_meets_an_open_circuit_is_not_sent(kaspi: KaspiClient, proxy: RawProxy, verb: Verb) -> None:
    proxy.begin(answers(http(500, b"")))
    for _ in range(FAILURES):
        await verb.call(kaspi)
    proxy.begin(answers(http(200, verb.success())))
    assert await verb.call(kaspi) == NotSent("circuit_open")
    assert (proxy.connections, proxy.requests) == (0, [])


async def test_one_call_tries_after_the_pause_and_brings_the_others_back(
    kaspi: KaspiClient, proxy: RawProxy, clock: Clock
) -> None:
    proxy.begin(answers(http(500, b"")))
    for _ in range(FAILURES):
        await CREATE.call(kaspi)
    clock.now += PAUSE_S
    proxy.begin(answers(http(200, CREATE.success())))
    outcomes = await asyncio.gather(*(CREATE.call(kaspi) for _ in range(5)))
    assert sorted(type(outcome) is Accepted for outcome in outcomes) == [False] * 4 + [True]
    assert len(proxy.requests) == 1
    assert isinstance(await CREATE.call(kaspi), Accepted)


@pytest.mark.parametrize(
    ("reply", "opens"),
    [
        (http(500, b""), True),
        (http(502, b"<html>"), True),
        (http(503, b""), True),
        (http(429, b""), True),
        (http(200, b"x" * 100_000), True),
        (http(200, b"", "Content-Encoding: gzip"), True),
        (http(401, b""), False),
        (http(403, b""), False),
        (http(404, b""), False),
        (http(302, b"", "Location: http://127.0.0.1:1/"), False),
        (http(200, b"<html>"), False),
        *((http(200, refusal), False) for refusal in REFUSALS),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
async def test_only_a_proxy_that_does_not_answer_properly_is_left_alone(
    kaspi: KaspiClient, proxy: RawProxy, reply: bytes, opens: bool
) -> None:
    proxy.begin(answers(reply))
    for _ in range(FAILURES + 2):
        await CREATE.call(kaspi)
    assert len(proxy.requests) == (FAILURES if opens else FAILURES + 2)


async def test_proxy_that_hangs_up_is_left_alone(kaspi: KaspiClient, proxy: RawProxy) -> None:
    async def hangs_up(connection: Connection) -> None:
        await connection.hear()
        connection.reset()

    proxy.begin(hangs_up)
    for _ in range(FAILURES):
        await CREATE.call(kaspi)
    assert await CREATE.call(kaspi) == NotSent("circuit_open")
    assert len(proxy.requests) == FAILURES


async def test_readings_that_fail_do_not_keep_money_calls_out(kaspi: KaspiClient, proxy: RawProxy) -> None:
    proxy.begin(answers(http(500, b"")))
    for _ in range(FAILURES):
        await kaspi.read_status(ID)
    proxy.begin(answers(http(200, CREATE.success())))
    assert await kaspi.read_status(ID) == StatusUnread("circuit_open")
    assert isinstance(await CREATE.call(kaspi), Accepted)


async def test_money_calls_that_fail_do_not_keep_readings_out(kaspi: KaspiClient, proxy: RawProxy) -> None:
    proxy.begin(answers(http(500, b"")))
    for _ in range(FAILURES):
        await CREATE.call(kaspi)
    proxy.begin(answers(http(200, b'{"status": true, "data": {"externalId": "%s", "status": "Wait"}}' % ID.encode())))
    assert await CREATE.call(kaspi) == NotSent("circuit_open")
    assert isinstance(await kaspi.read_status(ID), StatusRead)


async def test_reading_that_meets_an_open_circuit_is_not_read(kaspi: KaspiClient, proxy: RawProxy) -> None:
    proxy.begin(answers(http(429, b"")))
    for _ in range(FAILURES):
        assert isinstance(await kaspi.read_status(ID), StatusUnread)
    proxy.begin(answers(http(200, b"")))
    assert await kaspi.read_status(ID) == StatusUnread("circuit_open")
    assert (proxy.connections, proxy.requests) == (0, [])


async def test_call_that_was_cancelled_says_nothing_about_the_proxy(kaspi: KaspiClient, proxy: RawProxy) -> None:
    async def hang(connection: Connection) -> None:
        await connection.hear()
        await connection.hang()

    proxy.begin(hang)
    for _ in range(FAILURES + 1):
        proxy.heard.clear()
        calling = asyncio.ensure_future(CREATE.call(kaspi))
        await asyncio.wait_for(proxy.heard.wait(), 5)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
    proxy.begin(answers(http(200, CREATE.success())))
    assert isinstance(await CREATE.call(kaspi), Accepted)
