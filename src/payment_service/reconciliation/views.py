"""The public view of sums. Amounts in tenge."""

from datetime import date
from typing import Self

from pydantic import BaseModel, Field

from payment_service.money import TIYN_PER_TENGE
from payment_service.payments.lifecycle import State
from payment_service.payments.views import JsonTenge
from payment_service.reconciliation.sums import Sum


class SumLine(BaseModel):
    """The payments of one shop, BIN, source and state that were made on one day."""

    day: date = Field(description="The day in Almaty (UTC+5) on which the payments were made.")
    shop_id: int
    organization_bin: str | None = Field(description="Null where the client that made the payments never told.")
    source: str = Field(description="`service` when this service made them; `client` when a client reported them.")
    state: State = Field(description="The state of today.")
    payments: int = Field(description="How many.")
    amount: JsonTenge = Field(description="Tenge of them all. What was refunded is not taken off.")
    refunded_amount: JsonTenge = Field(description="Tenge refunded of these payments, whenever that was.")
    unknown_refunds: int = Field(description="Refunds of these payments whose outcome is unknown; in no sum.")
    without_amount: int = Field(description="Payments in no sum: the client that made them never told the amount.")

    @classmethod
    def of(cls, one: Sum) -> Self:
        """The view of a sum by day."""
        return cls(
            day=one.begins.date(),
            shop_id=one.shop_id,
            organization_bin=one.organization_bin,
            source=one.source,
            state=one.state,
            payments=one.payments,
            amount=_tenge(one.amount),
            refunded_amount=_tenge(one.refunded),
            unknown_refunds=one.unknown_refunds,
            without_amount=one.without_amount,
        )


def _tenge(tiyn: int) -> int | float:
    """A sum of many payments in tenge, as JSON shows it: it may be larger than any amount."""
    whole, rest = divmod(tiyn, TIYN_PER_TENGE)
    return float(f"{whole}.{rest:02d}") if rest else whole
