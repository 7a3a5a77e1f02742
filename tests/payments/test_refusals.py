"""A shop that Kaspi refuses again and again, which no failed call shows."""

from typing import Any

import pytest

from payment_service.identifiers import new_id
from payment_service.payments.refusals import IN_A_ROW, Refusals
from payment_service.providers.interface import Accepted, NotSent, Outcome, PaymentReceipt, RefusedBy, Rejected, Unknown
from tests.support.alarms import alarms

REFUSED = Rejected("device_not_active", "-1502")
TAKEN = Accepted(PaymentReceipt("1"))
SAYS_NOTHING = (NotSent("circuit_open"), Unknown("timeout"), Rejected("http_403", "", RefusedBy.PROXY))


@pytest.mark.parametrize(
    ("outcomes", "alarmed"),
    [
        ([REFUSED] * IN_A_ROW, 1),
        ([REFUSED] * 2 * IN_A_ROW, 2),
        ([REFUSED] * (IN_A_ROW - 1) + [TAKEN] + [REFUSED] * (IN_A_ROW - 1), 0),
        ([*SAYS_NOTHING] * IN_A_ROW, 0),
        ([REFUSED, *SAYS_NOTHING] * IN_A_ROW, 1),
    ],
)
def test_people_hear_of_a_shop_that_is_refused_five_times_in_a_row(outcomes: list[Outcome[Any]], alarmed: int) -> None:
    before, refusals = alarms("shop_refused"), Refusals()
    for outcome in outcomes:
        refusals.observe(8, new_id(), outcome)
        refusals.observe(9, new_id(), TAKEN)
    assert alarms("shop_refused") - before == alarmed
