"""Rows kept in memory: what is read while something changes is not kept, and silence is not trusted."""

import pytest

from payment_service.postgres.memory import Memory


async def read(name: int) -> str:
    return f"row {name}"


@pytest.fixture
def memory() -> Memory[int, str]:
    memory = Memory[int, str]("changed", name_of=int)
    memory.trust(trusted=True)
    return memory


async def test_row_is_read_once(memory: Memory[int, str]) -> None:
    assert await memory.get_or_read(1, read) == "row 1"
    assert memory.get(1) == "row 1"


async def test_row_that_changed_while_it_was_read_is_answered_and_not_kept(memory: Memory[int, str]) -> None:
    async def yesterday(name: int) -> str:
        memory.hear(str(name))
        return "yesterday"

    assert await memory.get_or_read(1, yesterday) == "yesterday"
    assert memory.get(1) is None


async def test_row_that_was_read_while_the_listener_was_lost_and_back_is_not_kept(memory: Memory[int, str]) -> None:
    async def yesterday(_name: int) -> str:
        memory.trust(trusted=False)
        memory.trust(trusted=True)
        return "yesterday"

    await memory.get_or_read(1, yesterday)
    assert memory.get(1) is None


async def test_row_that_is_not_there_is_not_kept(memory: Memory[int, str]) -> None:
    async def missing(_name: int) -> str:
        raise LookupError

    for name in range(100):
        with pytest.raises(LookupError):
            await memory.get_or_read(name, missing)
    assert not memory._rows


async def test_change_of_one_row_leaves_the_others(memory: Memory[int, str]) -> None:
    for name in (1, 2):
        await memory.get_or_read(name, read)
    memory.hear("1")
    assert (memory.get(1), memory.get(2)) == (None, "row 2")


async def test_change_without_a_name_forgets_all() -> None:
    memory = Memory[int, str]("changed")
    memory.trust(trusted=True)
    for name in (1, 2):
        await memory.get_or_read(name, read)
    memory.hear("something")
    assert (memory.get(1), memory.get(2)) == (None, None)


@pytest.mark.parametrize("trusted", [False, True])
async def test_trust_begins_and_ends_with_nothing_kept(memory: Memory[int, str], trusted: bool) -> None:
    await memory.get_or_read(1, read)
    memory.trust(trusted=trusted)
    assert memory.get(1) is None


async def test_nothing_is_kept_before_the_database_is_heard() -> None:
    memory = Memory[int, str]("changed")
    await memory.get_or_read(1, read)
    assert memory.get(1) is None
