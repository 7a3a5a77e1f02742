"""Sums of our payments by hour or day, shop, BIN, source and state. Whole tiyn; hours and days of Almaty.

One statement computes them, so they are of one moment. A payment counts at the time at which it was made, and with it
all its refunds, whenever they were made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import BigInteger, CompoundSelect, DateTime, and_, cast, column, func, literal, select, text, true

from payment_service.almaty import ALMATY
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.postgres.database import Database
from payment_service.postgres.visibility import Shops, of_sellers
from payment_service.reconciliation.service import Period
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import Refund

CALLS: Final = 2000
"""How many of the newest calls of a period the response times are computed from."""
UTC_OFFSET: Final = timedelta(hours=5)
"""Of Almaty."""
Step = Literal["hour", "day"]
STEPS: Final[Mapping[Step, timedelta]] = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The payments of one shop, BIN, source and state that were made within one hour or day."""

    begins: datetime
    """The hour or the day, by the clock of Almaty and without an offset."""
    shop_id: int
    organization_bin: str | None
    """None where the client that made the payments did not report it."""
    source: str
    state: State
    payments: int
    amount: int
    """Tiyn, refunds not subtracted."""
    refunded: int
    """Tiyn that were paid back for certain."""
    unknown_refunds: int
    without_amount: int
    """Payments in no sum, because the client that made them did not report the amount."""


async def sums_of(database: Database, shops: Shops, period: Period, step: Step) -> list[Sum]:
    """The sums of a period, by time, shop, BIN, source and state; what has no payments is left out."""
    async with database.reading() as session:
        # The planner expects few rows of an hour or a day, and would sort them to group them. Hashing takes half.
        await session.execute(text("SET LOCAL enable_sort = off"))
        rows = (await session.execute(statement(shops, period, step))).all()
    found: dict[tuple[Any, ...], Sum] = {}
    for begins, shop_id, organization_bin, source, state, *counted, unknown_refunds in rows:
        key = begins, shop_id, organization_bin, source, state
        if unknown_refunds:  # the rows of refunds come last, each after the row of its payments
            found[key] = replace(found[key], unknown_refunds=unknown_refunds)
            continue
        payments, amount, refunded, without_amount = counted
        found[key] = Sum(
            begins=begins.astimezone(ALMATY).replace(tzinfo=None),
            shop_id=shop_id,
            organization_bin=organization_bin,
            source=source,
            state=State(state),
            payments=payments,
            amount=amount,
            refunded=refunded,
            unknown_refunds=0,
            without_amount=without_amount,
        )
    return list(found.values())


def statement(shops: Shops, period: Period, step: Step) -> CompoundSelect[*tuple[Any, ...]]:
    """The statement of ``sums_of``: what is counted of payments, and after it the unknown refunds of the same.

    Payments are read by one range of an index after the other, an hour or a day each. Grouped by a function of the time
    instead, all payments of the period would be sorted.
    """
    length = STEPS[step]
    series = func.generate_series(_first(period.since, step), period.until, length)
    steps = series.table_valued(column("begins", DateTime(timezone=True))).render_derived()
    begins = steps.c.begins
    keys = Payment.shop_id, Payment.organization_bin, Payment.source, Payment.state
    is_wanted = and_(period.is_counted(), of_sellers(Payment, shops))
    within_step = (
        select(
            *keys,
            func.count().label("payments"),
            cast(func.coalesce(func.sum(Payment.amount), 0), BigInteger).label("amount"),
            cast(func.sum(Payment.refunded_amount), BigInteger).label("refunded"),
            func.count().filter(Payment.amount.is_(None)).label("without_amount"),
        )
        .where(Payment.created_at >= func.greatest(begins, period.since))
        .where(Payment.created_at < func.least(begins + length, period.until))
        .where(is_wanted)
        .group_by(*keys)
        .lateral()
    )
    of_payments = (
        select(begins.label("begins"), within_step, literal(0).label("unknown_refunds"))
        .select_from(steps)
        .join(within_step, true())
    )
    begun = func.timezone(UTC_OFFSET, func.date_trunc(step, func.timezone(UTC_OFFSET, Payment.created_at)))
    nothing = [literal(0)] * 4
    of_refunds = (
        select(begun, *keys, *nothing, func.count())
        .join(Refund, Refund.payment_id == Payment.id)
        .where(
            Refund.state == RefundState.UNKNOWN,
            period.holds(),
            of_sellers(Payment, shops),
        )
        .group_by(begun, *keys)
    )
    # By the number of unknown refunds first: the rows of refunds come last.
    return of_payments.union_all(of_refunds).order_by(*(text(str(place)) for place in (10, 1, 2, 3, 4, 5)))


def _first(since: datetime, step: Step) -> datetime:
    """When the hour or the day begins in which a period does."""
    begins = since.astimezone(ALMATY).replace(minute=0, second=0, microsecond=0)
    return begins if step == "hour" else begins.replace(hour=0)


@dataclass(frozen=True, slots=True)
class CallTimes:
    """How long calls to the provider took, in seconds: the median and the 95th percentile."""

    half_s: float
    most_s: float


async def call_times(database: Database, shops: Shops, period: Period) -> CallTimes | None:
    """How long the newest calls of a period took until their outcome was known; none without any."""
    newest = (
        select(func.extract("epoch", Payment.known_at - Payment.created_at).label("took_s"))
        .where(period.holds(), of_sellers(Payment, shops), Payment.source == "service")
        .where(Payment.known_at.is_not(None))
        .order_by(Payment.created_at.desc(), Payment.id.desc())
        .limit(CALLS)
        .subquery()
    )
    half, most = (func.percentile_disc(share).within_group(newest.c.took_s) for share in (0.5, 0.95))
    async with database.reading() as session:
        calls, half_s, most_s = (await session.execute(select(func.count(), half, most).select_from(newest))).one()
    return CallTimes(float(half_s), float(most_s)) if calls else None
