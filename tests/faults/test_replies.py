import random
from collections.abc import Iterator

import asyncpg
import pytest

from faults.reply_client import asked_for, by_chance, by_hand, try_client
from faults.reply_maker import BY_HAND, Odd, ReplyMaker
from faults.reply_oracle import Operation, verdict_on
from faults.reply_service import Reply, all_by_hand, some_by_chance, try_service

pytestmark = pytest.mark.xdist_group("faults")

SEED = 7
every_operation = pytest.mark.parametrize("operation", Operation, ids=str)


@every_operation
@pytest.mark.parametrize("odd", BY_HAND, ids=lambda odd: odd.name)
def test_oracle_reads_replies_made_by_hand_as_a_person_does(odd: Odd, operation: Operation) -> None:
    asked = asked_for(operation)
    assert verdict_on(asked, odd.sent(asked)).word == odd.word(operation)


def test_at_least_forty_replies_are_made_by_hand() -> None:
    assert len({odd.name for odd in BY_HAND}) == len(BY_HAND) >= 40


@every_operation
async def test_client_reads_replies_made_by_hand_as_the_oracle_does(operation: Operation) -> None:
    asked = asked_for(operation)
    tried = await try_client(asked, by_hand(asked, every=7), at_once=2)
    assert not tried.violations, "\n".join(tried.violations[:5])
    assert tried.runs > len(BY_HAND)


@every_operation
async def test_client_reads_replies_made_by_chance_as_the_oracle_does(operation: Operation) -> None:
    asked = asked_for(operation)
    tried = await try_client(asked, by_chance(asked, 150, random.Random(SEED)), at_once=2)
    assert not tried.violations, "\n".join(tried.violations[:5])
    assert tried.runs == 150


def a_few() -> Iterator[tuple[Operation, Reply]]:
    by_hand = list(all_by_hand())
    yield from by_hand[:: len(by_hand) // 30]
    yield from some_by_chance(ReplyMaker(random.Random(SEED)), 5)


async def test_rows_and_answers_follow_from_odd_replies(sql: asyncpg.Connection, database_url: str) -> None:
    tried = await try_service(database_url, a_few())
    assert not tried.violations, "\n".join(tried.violations[:5])
    assert tried.runs > 40


def test_same_seed_makes_the_same_replies() -> None:
    asked = asked_for(Operation.CREATE)
    once, again = (list(by_chance(asked, 100, random.Random(SEED))) for _ in range(2))
    assert once == again
    assert len({reply.raw for reply in once}) > 80
