"""Token buckets: exact by the clock, and bounded in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payment_service.rates import Exceeded, Rate, RateLimiter
from tests.support.clock import Clock


@given(
    quota=st.integers(1, 20),
    window_s=st.sampled_from([1, 10, 60]),
    steps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_never_more_than_the_quota_at_once_and_in_the_long_run(quota: int, window_s: int, steps: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(Rate(quota, window_s), clock=clock)
    taken: list[float] = []
    for step in steps:
        clock.now += step
        if limiter.take("name") is None:
            taken.append(clock.now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            spell_s = taken[last] - taken[first]
            assert last - first + 1 <= quota + spell_s * quota / window_s + 0.01


@given(quota=st.integers(1, 50), window_s=st.sampled_from([1, 10, 60, 86400]))
def test_the_wait_that_is_told_is_enough_and_not_too_long(quota: int, window_s: int) -> None:
    clock = Clock()
    limiter = RateLimiter(Rate(quota, window_s), clock=clock)
    assert [limiter.take("name") for _ in range(quota)] == [None] * quota
    exceeded = limiter.take("name")
    assert exceeded is not None
    assert exceeded.wait_s == pytest.approx(window_s / quota)
    clock.now += exceeded.wait_s
    assert limiter.take("name") is None
    assert isinstance(limiter.take("name"), Exceeded)


def test_what_is_given_back_can_be_taken_again() -> None:
    limiter = RateLimiter(Rate(1, 60), clock=Clock())
    assert limiter.take("name") is None
    limiter.give_back("name")
    limiter.give_back("nobody")
    assert limiter.take("name") is None
    assert limiter.take("name") is not None


def test_names_do_not_share() -> None:
    limiter = RateLimiter(Rate(1, 60), clock=Clock())
    assert limiter.take("one") is None
    assert limiter.take("other") is None


def test_quota_of_none_is_no_limit() -> None:
    limiter = RateLimiter(Rate(0, 60))
    assert {limiter.take("name") for _ in range(1000)} == {None}
    assert len(limiter) == 0


def test_flood_of_names_does_not_grow_memory() -> None:
    limiter = RateLimiter(Rate(5, 60), max_names=100, clock=Clock())
    for number in range(10_000):
        limiter.take(number)
    assert len(limiter) == 100


def test_names_whose_bucket_is_full_again_are_forgotten() -> None:
    clock = Clock()
    limiter = RateLimiter(Rate(5, 10), clock=clock)
    for number in range(100):
        limiter.take(number)
    clock.now += 11
    limiter.take("another")
    assert len(limiter) == 1
