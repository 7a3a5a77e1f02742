"""The sums of a period for the accountant, per shop, BIN and source. Whole tiyn inside, tenge in the file.

The sums are of our payments, computed by one statement: they are of one moment, however long the walk before took.
"""

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import select

from payment_service.money import TIYN_PER_TENGE
from payment_service.payments.lifecycle import State
from payment_service.postgres.database import Database
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.reconciliation.findings import Finding, Kind
from payment_service.reconciliation.service import Period
from payment_service.reconciliation.sums import Sum, sums_of
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
    """None where the client that made the payments did not report it."""
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
    """Paid, and in no sum, because the client that made them did not report the amount."""
    differing: int | None = 0
    """None where the payments were not compared with the provider."""
    unread: int | None = 0


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
_NOT_ASKED: Final[Mapping[str, Any]] = {"differing": None, "unread": None}


async def turnovers_of(database: Database, period: Period, findings: Collection[Finding]) -> list[Turnover]:
    """The turnovers of a period, by shop, BIN and source; ``findings`` say what differs or was not read."""
    sums = await sums_of(database, ALL_SHOPS, period, "day")
    differing = Counter(_whose(finding) for finding in findings if finding.differs)
    unread = Counter(_whose(finding) for finding in findings if finding.kind is Kind.UNREAD)
    return [
        replace(turnover, differing=differing[whose], unread=unread[whose])
        for turnover in turnovers(sums, await names_of_shops(database))
        for whose in [_whose(turnover)]
    ]


def turnovers(sums: Iterable[Sum], names: Mapping[int, str]) -> list[Turnover]:
    """The turnovers of these sums, by shop, BIN and source, without a comparison with the provider."""
    added: dict[tuple[int, str | None, str], Counter[str]] = {}
    for one in sums:
        here = added.setdefault((one.shop_id, one.organization_bin, one.source), Counter())
        here["payments"] += one.payments
        here["refunded"] += one.refunded
        here["unknown_refunds"] += one.unknown_refunds
        if one.state is State.PAID:
            here["paid_payments"] += one.payments
            here["paid"] += one.amount
            here["without_amount"] += one.without_amount
        elif one.state in {State.UNKNOWN, State.SENDING}:
            here["unknown"] += one.payments
    found = [
        Turnover(
            **{**{name: here[name] for name in _COUNTED}, "net": here["paid"] - here["refunded"], **_NOT_ASKED},
            shop_id=shop_id,
            name=names.get(shop_id, ""),
            organization_bin=organization_bin,
            source=source,
        )
        for (shop_id, organization_bin, source), here in added.items()
    ]
    return sorted(found, key=_sort_key)


def _sort_key(turnover: Turnover) -> tuple[int, bool, str, str]:
    bin_ = turnover.organization_bin
    return int(turnover.shop_id), bin_ is None, bin_ or "", turnover.source


async def names_of_shops(database: Database, shop_ids: Collection[int] | None = None) -> dict[int, str]:
    """The present names of the shops, or of these."""
    query = select(PaymentConfig.shop_id, PaymentConfig.name).order_by(PaymentConfig.shop_id)
    if shop_ids is not None:
        query = query.where(PaymentConfig.shop_id.in_(shop_ids))
    async with database.reading() as session:
        rows = await session.execute(query)
    return {shop_id: name or "" for shop_id, name in rows}


def total_of(turnovers: Sequence[Turnover]) -> Turnover:
    """The last line: everything together."""
    added: dict[str, Any] = {name: _added(getattr(turnover, name) for turnover in turnovers) for name in _COUNTED}
    return Turnover(shop_id="total", **added)


def line_of(turnover: Turnover) -> dict[str, Any]:
    """A turnover for people, with sums in tenge, exact."""
    line = asdict(turnover)
    return {**line, **{name: tenge(line[name]) for name in SUMS}}


def csv_of(turnovers: Sequence[Turnover]) -> bytes:
    """The file for the accountant: UTF-8 with a byte order mark, by which Excel recognises it."""
    return b"".join(csv_lines(turnovers))


def csv_lines(turnovers: Sequence[Turnover]) -> Iterator[bytes]:
    """The same, line by line."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    encoding = ENCODING  # of the first line: the mark stands once
    for line in map(line_of, (*turnovers, total_of(turnovers))):
        if encoding is ENCODING:
            writer.writerow(line)
        writer.writerow([cell(value) for value in line.values()])
        yield out.getvalue().encode(encoding)
        out.seek(0)
        out.truncate()
        encoding = "utf-8"


def tenge(tiyn: int) -> str:
    """A sum of any size in tenge, exact: ``100.00``."""
    whole, rest = divmod(tiyn, TIYN_PER_TENGE)
    return f"{whole}.{rest:02d}"


def _added(values: Iterable[int | None]) -> int | None:
    """A sum; none when one of them is not known."""
    known = list(values)
    return None if None in known else sum(one or 0 for one in known)


def _whose(one: Finding | Turnover) -> tuple[int | str, str | None, str]:
    return one.shop_id, one.organization_bin, one.source
