"""Raises an alarm for a shop whose payments are all refused: its BIN or device token may no longer work.

Kaspi answers such a payment with HTTP 200, so neither the circuit breaker nor the rate of failed calls shows it.
"""

from collections import Counter
from typing import Any, Final
from uuid import UUID

from payment_service.payments.moves import alarm
from payment_service.providers.interface import Accepted, Outcome, RefusedBy, Rejected

IN_A_ROW: Final = 5
"""Refusals by the provider in a row that raise the alarm; fewer may be buyers' wrong phone numbers."""


class Refusals:
    """Counts the refusals of each shop in this process since the provider last accepted a payment of it."""

    def __init__(self) -> None:
        self._in_a_row: Counter[int] = Counter()

    def observe(self, shop_id: int, payment_id: UUID, outcome: Outcome[Any]) -> None:
        """Count the outcome of one more payment of the shop. Only the provider's own answers count."""
        match outcome:
            case Accepted():
                del self._in_a_row[shop_id]
            case Rejected(code, by=RefusedBy.PROVIDER):
                self._in_a_row[shop_id] += 1
                if self._in_a_row[shop_id] % IN_A_ROW == 0:
                    alarm("shop_refused", payment_id, shop_id=str(shop_id), code=code)
            case _:
                pass
