"""A shop whose payments are all refused: its BIN or device token does not work any more, and it sells nothing.

Kaspi says so with HTTP 200, so that neither the circuit breaker nor the rate of failed calls shows it.
"""

from collections import Counter
from typing import Any, Final
from uuid import UUID

from payment_service.payments.moves import alarm
from payment_service.providers.interface import Accepted, Outcome, RefusedBy, Rejected

IN_A_ROW: Final = 5
"""So many payments that the provider refused without one that it took: fewer may be buyers' wrong phones."""


class Refusals:
    """How often each shop was refused in this process since the provider last took a payment of it."""

    def __init__(self) -> None:
        self._in_a_row: Counter[int] = Counter()

    def learn(self, shop_id: int, payment_id: UUID, outcome: Outcome[Any]) -> None:
        """The outcome of one more payment of the shop. What is not the provider's word says nothing of the shop."""
        match outcome:
            case Accepted():
                del self._in_a_row[shop_id]
            case Rejected(code, by=RefusedBy.PROVIDER):
                self._in_a_row[shop_id] += 1
                if self._in_a_row[shop_id] % IN_A_ROW == 0:
                    alarm("shop_refused", payment_id, shop_id=str(shop_id), code=code)
            case _:
                pass
