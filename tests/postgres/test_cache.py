"""Rows kept in cache: what is read while something changes is not kept, and silence is not trusted."""

import pytest

from payment_service.postgres.cache import Cache


async def read(name: int) -> str:
    return f"row {name}"


@pytest.fixture
def cache() -> Cache[int, str]:
    cache = Cache[int, str]("changed", name_of=int)
    cache.trust(trusted=True)
    return cache


async def test_row_is_read_once(cache: Cache[int, str]) -> None:
    assert await cache.get_or_read(1, read) == "row 1"
    assert cache.get(1) == "row 1"


async def test_row_that_changed_while_it_was_read_is_answered_and_not_kept(cache: Cache[int, str]) -> None:
    async def yesterday(name: int) -> str:
        cache.invalidate(str(name))
        return "yesterday"

    assert await cache.get_or_read(1, yesterday) == "yesterday"
    assert cache.get(1) is None


async def test_row_that_was_read_while_the_listener_was_lost_and_back_is_not_kept(cache: Cache[int, str]) -> None:
    async def yesterday(_name: int) -> str:
        cache.trust(trusted=False)
        cache.trust(trusted=True)
        return "yesterday"

    await cache.get_or_read(1, yesterday)
    assert cache.get(1) is None


async def test_row_that_is_not_there_is_not_kept(cache: Cache[int, str]) -> None:
    async def missing(_name: int) -> str:
        raise LookupError

    for name in range(100):
        with pytest.raises(LookupError):
            await cache.get_or_read(name, missing)
    assert not cache._rows


async def test_change_of_one_row_leaves_the_others(cache: Cache[int, str]) -> None:
    for name in (1, 2):
        await cache.get_or_read(name, read)
    cache.invalidate("1")
    assert (cache.get(1), cache.get(2)) == (None, "row 2")


async def test_change_without_a_name_forgets_all() -> None:
    cache = Cache[int, str]("changed")
    cache.trust(trusted=True)
    for name in (1, 2):
        await cache.get_or_read(name, read)
    cache.invalidate("something")
    assert (cache.get(1), cache.get(2)) == (None, None)


@pytest.mark.parametrize("trusted", [False, True])
async def test_trust_begins_and_ends_with_nothing_kept(cache: Cache[int, str], trusted: bool) -> None:
    await cache.get_or_read(1, read)
    cache.trust(trusted=trusted)
    assert cache.get(1) is None


async def test_nothing_is_kept_before_the_database_is_heard() -> None:
    cache = Cache[int, str]("changed")
    await cache.get_or_read(1, read)
    assert cache.get(1) is None
