"""A slice of the sellers, one of whom fails; all of it: ``make faults``."""

import pytest

from faults import sellers
from faults.bench import Bench

pytestmark = pytest.mark.xdist_group("faults")


@pytest.mark.parametrize("case", [pytest.param("answers_500", marks=pytest.mark.thorough)])
async def test_seller_whose_calls_fail_stops_no_other(bench: Bench, case: str) -> None:
    bench.only = case
    try:
        await sellers.run(bench)
    finally:
        bench.only = None
    assert {row.case for row in bench.rows} == {case}
