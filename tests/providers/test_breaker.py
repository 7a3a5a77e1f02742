"""A proxy that fails again and again is left alone for a while: decided by a clock, and seen on a real socket."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment_service.money import Money
from payment_service.providers.breaker import SEEN_FOR_S, Breaker, ShopBreakers
from payment_service.providers.interface import Accepted, Account, NotSent, PhonePayment, StatusRead, StatusUnread
from payment_service.providers.kaspi.client import KaspiClient
from payment_service.providers.kaspi.settings import KaspiSettings
from tests.support.clock import Clock
from tests.support.proxy import Connection, RawProxy, answers, http
from tests.support.verbs import ACCESS_TOKEN, CREATE, ID, VERBS, Verb

FAILURES, PAUSE_S = 3, 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(FAILURES, PAUSE_S, clock)


def fail(breaker: Breaker, times: int = FAILURES) -> None:
    for _ in range(times):
        breaker.observe(failed=True)


def test_circuit_opens_at_the_last_of_so_many_failures_in_a_row(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)
    assert breaker.allows()
    assert not breaker.is_open
    fail(breaker, 1)
    assert breaker.is_open
    assert not breaker.allows()


def test_success_between_failures_begins_the_row_anew(breaker: Breaker) -> None:
    for _ in range(5):
        fail(breaker, FAILURES - 1)
        breaker.observe(failed=False)
    assert breaker.allows()


def test_one_call_may_try_after_the_pause_and_the_others_wait_for_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S - 0.001
    assert not breaker.allows()
    clock.now += 0.001
    assert [breaker.allows() for _ in range(5)] == [True, False, False, False, False]


def test_try_that_succeeds_closes_the_circuit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S
    assert breaker.allows()
    breaker.observe(failed=False)
    assert all(breaker.allows() for _ in range(5))
    fail(breaker, FAILURES - 1)
    assert breaker.allows()


def test_try_that_fails_costs_another_pause_from_its_end(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S
    assert breaker.allows()
    clock.now += 8
    fail(breaker, 1)
    clock.now += PAUSE_S - 1
    assert not breaker.allows()
    clock.now += 1
    assert breaker.allows()


def test_try_that_never_comes_back_costs_one_more_pause(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    clock.now += PAUSE_S
    assert breaker.allows()
    clock.now += PAUSE_S
    assert breaker.allows()


def test_success_of_a_call_that_began_before_closes_the_circuit(breaker: Breaker) -> None:
    fail(breaker)
    breaker.observe(failed=False)
    assert breaker.allows()


def test_breaker_of_no_failures_never_opens(clock: Clock) -> None:
    breaker = Breaker(0, PAUSE_S, clock)
    fail(breaker, 1000)
    assert breaker.allows()
    assert not breaker.is_open


# --- one for each shop, and one for all


@pytest.fixture
def shops(clock: Clock) -> ShopBreakers:
    return ShopBreakers(FAILURES, PAUSE_S, clock)


def fails(shops: ShopBreakers, *names: str) -> None:
    for name in names:
        shops.observe(name, failed=True)


def test_shop_that_fails_alone_is_paused_alone(shops: ShopBreakers, clock: Clock) -> None:
    for _ in range(5):
        fails(shops, *["A"] * FAILURES * 10)
        assert not shops.allows("A")
        assert shops.allows("B")
        assert (shops.is_open, shops.paused) == (False, 1)
        clock.now += PAUSE_S
        assert [shops.allows("A") for _ in range(3)] == [True, False, False]


def test_shop_that_fails_while_others_succeed_stops_nobody_else(shops: ShopBreakers) -> None:
    for _ in range(50):
        fails(shops, "A", "A")
        shops.observe("B", failed=False)
    assert not shops.allows("A")
    assert shops.allows("B")
    assert shops.allows("C")


def test_failures_of_three_shops_stop_all(shops: ShopBreakers) -> None:
    shops.observe("D", failed=False)
    fails(shops, "A", "B")
    assert shops.allows("C")
    fails(shops, "C")
    assert shops.is_open
    assert not any(shops.allows(shop) for shop in "ABCDE")


def test_failures_of_all_shops_stop_all_when_they_are_fewer(shops: ShopBreakers) -> None:
    fails(shops, "A", "B", "A")
    assert shops.is_open
    assert not shops.allows("C")


def test_two_of_three_shops_do_not_stop_the_third(shops: ShopBreakers) -> None:
    shops.observe("C", failed=False)
    fails(shops, *"AB" * FAILURES)
    assert not shops.is_open
    assert shops.allows("C")


def test_shop_that_was_not_seen_for_a_minute_does_not_count(shops: ShopBreakers, clock: Clock) -> None:
    shops.observe("C", failed=False)
    clock.now += SEEN_FOR_S
    fails(shops, *"ABA")
    assert shops.is_open


def test_failures_of_another_time_do_not_count(shops: ShopBreakers, clock: Clock) -> None:
    fails(shops, "A", "B")
    clock.now += SEEN_FOR_S
    fails(shops, "C", "C")
    assert not shops.is_open


def test_one_call_of_any_shop_tries_for_all(shops: ShopBreakers, clock: Clock) -> None:
    fails(shops, *"ABC")
    clock.now += PAUSE_S
    assert [shops.allows(shop) for shop in "DABCD"] == [True, False, False, False, False]
    shops.observe("D", failed=False)
    assert all(shops.allows(shop) for shop in "ABCDE")


def test_next_to_try_for_all_is_another_shop(shops: ShopBreakers, clock: Clock) -> None:
    fails(shops, *"ABC")
    clock.now += PAUSE_S
    assert shops.allows("A")
    fails(shops, "A")
    clock.now += PAUSE_S
    assert [shops.allows(shop) for shop in "AB"] == [False, True]
    fails(shops, "B")
    clock.now += PAUSE_S
    assert shops.allows("A")


def test_success_after_all_were_stopped_brings_every_shop_back(shops: ShopBreakers, clock: Clock) -> None:
    fails(shops, *"ABC" * FAILURES)
    clock.now += PAUSE_S
    assert [shops.allows(shop) for shop in "ABCD"] == [False, False, False, True]
    shops.observe("D", failed=False)
    assert all(shops.allows(shop) for shop in "ABC")


def test_shop_that_is_forgotten_does_not_count(shops: ShopBreakers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payment_service.providers.breaker._MAX_SHOPS", 2)
    fails(shops, "A", "B", "C")
    assert not shops.is_open
    fails(shops, "C")
    assert shops.is_open


def test_breakers_of_no_failures_never_open(clock: Clock) -> None:
    shops = ShopBreakers(0, PAUSE_S, clock)
    fails(shops, *"ABC" * 1000)
    assert all(shops.allows(shop) for shop in "ABCD")


STEP = st.tuples(st.sampled_from("ABCDE"), st.booleans(), st.sampled_from([0.0, 0.1, 4.0, PAUSE_S, 25.0]))


@given(st.lists(STEP, max_size=120))
def test_shop_is_only_turned_away_by_its_own_failures_or_those_of_several(steps: list[tuple[str, bool, float]]) -> None:
    clock = Clock()
    shops = ShopBreakers(FAILURES, PAUSE_S, clock)
    calls: list[tuple[float, str, bool]] = []
    """When each call that was made ended, whose it was, and whether it failed."""
    for shop, failed, step_s in steps:
        clock.now += step_s
        if shops.allows(shop):
            shops.observe(shop, failed=failed)
            calls.append((clock.now, shop, failed))
            continue
        failures = list(itertools.takewhile(lambda call: call[2], reversed(calls)))
        if shops.is_open:
            assert len({name for _, name, _ in failures}) >= 2
        else:
            failures = list(
                itertools.takewhile(lambda call: call[2], (call for call in reversed(calls) if call[1] == shop))
            )
        assert len(failures) >= FAILURES
        # Whoever is turned away may try again before long.
        assert clock.now - failures[0][0] < 2 * PAUSE_S


@given(st.lists(STEP, max_size=60))
def test_however_much_failed_a_call_that_succeeds_brings_back_its_shop(steps: list[tuple[str, bool, float]]) -> None:
    clock = Clock()
    shops = ShopBreakers(FAILURES, PAUSE_S, clock)
    for shop, failed, step_s in steps:
        clock.now += step_s
        if shops.allows(shop):
            shops.observe(shop, failed=failed)
    clock.now += 2 * PAUSE_S
    assert shops.allows("A")
    shops.observe("A", failed=False)
    assert not shops.is_open
    assert shops.allows("A")


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
        KaspiSettings(
            proxy.url,
            ACCESS_TOKEN,
            breaker_failures=FAILURES,
            breaker_pause_s=PAUSE_S,
            deadline_s=5,
            connections_ahead=0,
        )
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
    assert await verb.call(kaspi) == NotSent("shop_paused")
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
    assert await CREATE.call(kaspi) == NotSent("shop_paused")
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
    assert await CREATE.call(kaspi) == NotSent("shop_paused")
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


def of_shop(organization_bin: str) -> PhonePayment:
    return PhonePayment(Account(organization_bin), Money(10_000), "77015211545", "A message")


async def test_shop_whose_calls_fail_stops_no_other_on_the_wire(kaspi: KaspiClient, proxy: RawProxy) -> None:
    proxy.begin(answers(http(500, b"")))
    for _ in range(FAILURES * 3):
        await kaspi.create(of_shop("1"))
    assert len(proxy.requests) == FAILURES
    proxy.begin(answers(http(200, CREATE.success())))
    assert await kaspi.create(of_shop("1")) == NotSent("shop_paused")
    assert isinstance(await kaspi.create(of_shop("2")), Accepted)


async def test_proxy_that_fails_several_shops_is_left_alone_by_all(kaspi: KaspiClient, proxy: RawProxy) -> None:
    proxy.begin(answers(http(500, b"")))
    for shop in "123":
        await kaspi.create(of_shop(shop))
    assert await kaspi.create(of_shop("4")) == NotSent("circuit_open")
    assert len(proxy.requests) == 3


async def test_hanging_calls_of_one_shop_leave_three_quarters_to_the_others(proxy: RawProxy) -> None:
    async def hangs_for_one(connection: Connection) -> None:
        while await connection.hear():
            if dict(proxy.requests[-1].query)["organizationBin"] == "1":
                await connection.hang()
            await connection.say(http(200, CREATE.success()))

    proxy.begin(hangs_for_one)
    kaspi = KaspiClient(KaspiSettings(proxy.url, ACCESS_TOKEN, max_calls=8, deadline_s=20, connections_ahead=0))
    hanging = [asyncio.ensure_future(kaspi.create(of_shop("1"))) for _ in range(12)]
    turned_away, _ = await asyncio.wait(hanging, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.1)
    turned_away = {call for call in hanging if call.done()}
    assert {call.result() for call in turned_away} == {NotSent("shop_busy")}
    assert len(proxy.requests) == 2
    others = await asyncio.gather(*(kaspi.create(of_shop("2")) for _ in range(10)))
    assert {type(outcome) for outcome in others} == {Accepted}
    for call in hanging:
        call.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    proxy.begin(answers(http(200, CREATE.success())))
    assert isinstance(await kaspi.create(of_shop("1")), Accepted)
    await kaspi.close()
