"""The sums of a period for the accountant, per shop, BIN and source. Whole tiyn inside, tenge in the file.

The sums are of our record, all taken by one statement: they are of one moment, however long the walk before it took.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, cast, func, select

from payment_service.money import TIYN_PER_TENGE
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.postgres.database import Database
from payment_service.reconciliation.findings import Finding, Kind
from payment_service.reconciliation.service import Period
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import Refund
from payment_service.routing.models import PaymentConfig
from payment_service.spreadsheets import ENCODING, cell

SUMS: Final = ("paid", "refunded", "net")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turnover:
    """What one BIN took for one shop. The fields, in this order, are the columns of the CSV; sums are in tiyn."""

    shop_id: int | str
    """``total`` in the last line."""
    name: str = ""
    organization_bin: str | None = None
    """None where the client that made the payments never told."""
    source: str = ""
    payments: int
    paid_payments: int
    paid: int
    refunded: int
    net: int
    unknown: int
    """Payments whose end is not known: unknown, or being sent at this moment."""
    unknown_refunds: int
    without_amount: int
    """Paid, and in no sum, because the client that made them never told the amount."""
    differing: int = 0
    unread: int = 0


_COUNTED: Final = (
    "payments",
    "paid_payments",
    *SUMS,
    "unknown",
    "unknown_refunds",
    "without_amount",
    "differing",
    "unread",
)


async def turnovers_of(database: Database, period: Period, findings: Collection[Finding]) -> list[Turnover]:
    """The turnovers of a period, by shop, BIN and source; ``findings`` tells what differs or was not read."""
    unknown = (
        select(Refund.payment_id, func.count().label("refunds"))
        .where(Refund.state == RefundState.UNKNOWN)
        .group_by(Refund.payment_id)
        .subquery()
    )
    is_paid = Payment.state == State.PAID
    paid = func.coalesce(func.sum(Payment.amount).filter(is_paid), 0)
    refunded = func.sum(Payment.refunded_amount)
    query = (
        select(
            Payment.shop_id,
            func.coalesce(PaymentConfig.name, "").label("name"),
            Payment.organization_bin,
            Payment.source,
            func.count().label("payments"),
            func.count().filter(is_paid).label("paid_payments"),
            cast(paid, BigInteger).label("paid"),
            cast(refunded, BigInteger).label("refunded"),
            cast(paid - refunded, BigInteger).label("net"),
            func.count().filter(Payment.state.in_([State.UNKNOWN, State.SENDING])).label("unknown"),
            cast(func.coalesce(func.sum(unknown.c.refunds), 0), BigInteger).label("unknown_refunds"),
            func.count().filter(is_paid, Payment.amount.is_(None)).label("without_amount"),
        )
        .outerjoin(unknown, unknown.c.payment_id == Payment.id)
        .outerjoin(PaymentConfig, PaymentConfig.shop_id == Payment.shop_id)
        .where(period.holds())
        .group_by(Payment.shop_id, PaymentConfig.name, Payment.organization_bin, Payment.source)
        .order_by(Payment.shop_id, Payment.organization_bin, Payment.source)
    )
    async with database.reading() as session:
        rows = (await session.execute(query)).mappings().all()
    differing = Counter(_whose(finding) for finding in findings if finding.differs)
    unread = Counter(_whose(finding) for finding in findings if finding.kind is Kind.UNREAD)
    return [
        Turnover(**row, differing=differing[whose], unread=unread[whose])
        for row in rows
        for whose in [(row["shop_id"], row["organization_bin"], row["source"])]
    ]


def total_of(turnovers: Sequence[Turnover]) -> Turnover:
    """The last line: everything together."""
    return Turnover(
        shop_id="total", **{name: sum(getattr(turnover, name) for turnover in turnovers) for name in _COUNTED}
    )


def line_of(turnover: Turnover) -> dict[str, Any]:
    """A turnover as people read it: sums in tenge, exact."""
    line = asdict(turnover)
    return {**line, **{name: tenge(line[name]) for name in SUMS}}


def csv_of(turnovers: Sequence[Turnover]) -> bytes:
    """The file for the accountant: UTF-8 with a byte order mark, by which Excel knows that it is."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    lines = [line_of(turnover) for turnover in (*turnovers, total_of(turnovers))]
    writer.writerow(lines[0])
    writer.writerows([cell(value) for value in line.values()] for line in lines)
    return out.getvalue().encode(ENCODING)


def tenge(tiyn: int) -> str:
    """A sum of any size in tenge, exact: ``100.00``."""
    whole, rest = divmod(tiyn, TIYN_PER_TENGE)
    return f"{whole}.{rest:02d}"


def _whose(finding: Finding) -> tuple[int, str | None, str]:
    return finding.shop_id, finding.organization_bin, finding.source
