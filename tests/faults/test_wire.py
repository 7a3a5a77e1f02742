"""A slice of the wire: every fault once, for one operation; each for every operation: ``make faults``."""

import pytest

from faults import wire
from faults.bench import Bench
from faults.clients import Asked, Told

pytestmark = pytest.mark.xdist_group("faults")


async def test_every_fault_of_the_wire_tells_the_truth_and_makes_nothing_twice(bench: Bench) -> None:
    await wire.run(bench)
    assert {row.case for row in bench.rows} == wire.kinds().keys()


def test_there_are_at_least_24_kinds_of_faults() -> None:
    assert len(wire.kinds()) >= 24


def test_what_is_left_out_of_the_goal_has_a_reason_and_a_law_that_sees_it() -> None:
    assert all(one.reason.endswith(".") and one.law for one in wire.beyond().values())


def test_answer_that_nobody_may_be_told_is_recognised() -> None:
    told = Told(asked=Asked(op="create"), by="serve", status=500, body={"code": "internal_error"})
    assert wire.heard_by(told) is None
