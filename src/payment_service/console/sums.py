"""Sums of a day or a month per seller and BIN: paid, refunded, net; with a chart, and as CSV."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Final
from urllib.parse import urlencode

from babel.dates import format_date, format_skeleton
from starlette.responses import Response

from payment_service.almaty import midnight, today
from payment_service.console.chart import Chart, chart_of
from payment_service.console.web import PageContext, csv_file, number_of
from payment_service.errors import InvalidInput
from payment_service.languages import Language
from payment_service.payments.lifecycle import State
from payment_service.reconciliation.service import Period
from payment_service.reconciliation.sums import Step, Sum, call_times, sums_of
from payment_service.reconciliation.turnover import Turnover, csv_lines, names_of_shops, total_of, turnovers

_A_WEEK: Final = timedelta(days=7)
_A_DAY: Final = timedelta(days=1)
_DAY: Final = re.compile(r"20[2-9][0-9]-[0-9]{2}-[0-9]{2}")
_NOT_PAID: Final = (State.FAILED, State.CANCELLED)


@dataclass(frozen=True, slots=True)
class SumsQuery:
    """The day or the month of a page, and the shop if it is about one."""

    first: date
    is_month: bool
    shop_id: int | None

    @classmethod
    def of(cls, context: PageContext) -> "SumsQuery":
        """The query of the address; by default today.

        Raises:
            InvalidInput: for what is not a day, month or shop.
        """
        day, month, shop_id = context.query("day"), context.query("month"), number_of(context.query("shop"))
        if context.query("shop") and shop_id is None:
            raise InvalidInput("period", "and shop are as the page offers them")
        text = f"{month}-01" if month else day or f"{today():%F}"
        try:
            first = date.fromisoformat(text if _DAY.fullmatch(text) else "none")
        except ValueError as error:
            raise InvalidInput("period", "is none") from error
        return cls(first, bool(month), shop_id)

    @property
    def next(self) -> "SumsQuery":
        """The day or the month after it."""
        step = timedelta(days=31 if self.is_month else 1)
        after = self.first + step
        return SumsQuery(after.replace(day=1) if self.is_month else after, self.is_month, self.shop_id)

    @property
    def previous(self) -> "SumsQuery":
        """The day or the month before it."""
        before = self.first - _A_DAY
        return SumsQuery(before.replace(day=1) if self.is_month else before, self.is_month, self.shop_id)

    @property
    def value(self) -> str:
        """The day or month as in the address."""
        return f"{self.first:%Y-%m}" if self.is_month else f"{self.first:%F}"

    @property
    def query(self) -> str:
        """The query of its address."""
        name = "month" if self.is_month else "day"
        return urlencode({name: self.value, **({"shop": self.shop_id} if self.shop_id else {})})

    def period(self, back: timedelta = timedelta()) -> Period:
        """Its period, or one of the same length so much earlier."""
        return Period(midnight(self.first) - back, midnight(self.next.first) - back, self.shop_id)

    def named(self, language: Language) -> str:
        """Its name for people."""
        if self.is_month:
            return format_skeleton("yMMMM", self.first, locale=language)
        return format_date(self.first, "long", locale=language)


@dataclass(frozen=True, slots=True)
class Line:
    """What one BIN took for one shop, in tiyn, and how many of its payments are pending."""

    turnover: Turnover
    waiting: int


@dataclass(frozen=True, slots=True)
class ComparisonLine:
    """The sums paid for a shop, or for all, in a month and in the one before, in tiyn."""

    shop_id: int | None
    paid: int
    before: int

    @property
    def more(self) -> int:
        """The difference; negative when it is less now."""
        return self.paid - self.before

    @property
    def percent(self) -> int | None:
        """The difference in per cent of the month before; none when that was 0."""
        return round(100 * self.more / self.before) if self.before else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A month compared with the one before; an unfinished month with an equally long part of that."""

    lines: Sequence[ComparisonLine]
    total: ComparisonLine
    name: str
    until: datetime | None
    """The end of the part of the month before that is counted; none for all of it."""


async def sums(context: PageContext) -> Response:
    """The page of a day or a month."""
    asked, shops, database = SumsQuery.of(context), context.me.caller.shops, context.services.database
    step: Step = "day" if asked.is_month else "hour"
    earlier = _counted_before(asked) if asked.is_month else asked.period(_A_WEEK)
    found, before = await asyncio.gather(
        sums_of(database, shops, asked.period(), step), sums_of(database, shops, earlier, step)
    )
    names = await names_of_shops(database)
    lines = turnovers(found, names)
    counted = _counted(found)
    ended = counted[State.PAID] + sum(counted[state] for state in _NOT_PAID)
    return context.page(
        "sums.html",
        asked=asked,
        name=asked.named(context.language),
        today=_today(asked),
        lines=_lines(lines, found),
        total=total_of(lines),
        counted=counted,
        unknown=counted[State.UNKNOWN] + counted[State.SENDING],
        waiting=sum(one.amount for one in found if one.state is State.PENDING),
        success=round(100 * counted[State.PAID] / ended) if ended else None,
        ended=ended,
        took=await call_times(database, shops, asked.period()),
        chart=_chart(asked, found, None if asked.is_month else before),
        comparison=_comparison(asked, found, before, earlier, context.language) if asked.is_month else None,
        names=names,
        step_of=_name_of_day if asked.is_month else _name_of_hour,
        axis=_axis(asked),
        shops={shop_id: names[shop_id] for shop_id in sorted(names) if context.me.caller.may_touch(shop_id)},
    )


async def sums_csv(context: PageContext) -> Response:
    """The same sums as ``reconcile`` writes them, for a spreadsheet."""
    asked, database = SumsQuery.of(context), context.services.database
    found = await sums_of(database, context.me.caller.shops, asked.period(), "day")
    lines = csv_lines(turnovers(found, await names_of_shops(database)))
    name = f"payments-{asked.value}{f'-{asked.shop_id}' if asked.shop_id else ''}.csv"
    return csv_file(name, lines)


def _counted_before(asked: SumsQuery) -> Period:
    """The period to compare a month with: the month before, or an equally long part of it."""
    passed, whole = datetime.now(UTC) - asked.period().since, asked.previous.period()
    return Period(whole.since, max(whole.since, min(whole.since + passed, whole.until)), asked.shop_id)


def _comparison(
    asked: SumsQuery, found: Iterable[Sum], before: Iterable[Sum], counted: Period, language: Language
) -> Comparison | None:
    """The comparison of a month with the one before; none when nothing was paid in either."""
    now, then = _paid_by_shop(found), _paid_by_shop(before)
    lines = [ComparisonLine(shop_id, now[shop_id], then[shop_id]) for shop_id in sorted(now.keys() | then.keys())]
    if not lines:
        return None
    is_part = counted.until < asked.previous.period().until
    return Comparison(
        lines=lines,
        total=ComparisonLine(None, now.total(), then.total()),
        name=asked.previous.named(language),
        until=counted.until if is_part else None,
    )


def _paid_by_shop(sums: Iterable[Sum]) -> "Counter[int]":
    paid: Counter[int] = Counter()
    for one in sums:
        if one.state is State.PAID and one.amount:
            paid[one.shop_id] += one.amount
    return paid


def _today(asked: SumsQuery) -> SumsQuery:
    """The present day or month."""
    day = today()
    return SumsQuery(day.replace(day=1) if asked.is_month else day, asked.is_month, asked.shop_id)


def _name_of_day(place: int) -> str:
    return str(place + 1)


def _name_of_hour(place: int) -> str:
    return f"{place:02d}:00"


def _axis(asked: SumsQuery) -> list[str]:
    """The labels below the chart, at equal distances."""
    if asked.is_month:
        return ["1", f"{(asked.next.first - _A_DAY).day}"]
    return [_name_of_hour(hour) for hour in range(0, 25, 6)]


def _counted(sums: Iterable[Sum]) -> "Counter[State]":
    counted: Counter[State] = Counter()
    for one in sums:
        counted[one.state] += one.payments
    return counted


def _lines(turnovers: Sequence[Turnover], sums: Iterable[Sum]) -> list[Line]:
    waiting: Counter[tuple[int | str, str | None, str]] = Counter()
    for one in sums:
        if one.state is State.PENDING:
            waiting[one.shop_id, one.organization_bin, one.source] += one.payments
    return [Line(one, waiting[one.shop_id, one.organization_bin, one.source]) for one in turnovers]


def _chart(asked: SumsQuery, found: Iterable[Sum], before: Iterable[Sum] | None) -> Chart:
    """What was paid by the hour of a day, beside the same day a week before, or by the day of a month."""
    begins = datetime(asked.first.year, asked.first.month, asked.first.day)  # noqa: DTZ001 - by Almaty's clock
    length = timedelta(days=1) if asked.is_month else timedelta(hours=1)
    steps = (asked.next.first - asked.first) // timedelta(days=1) * (1 if asked.is_month else 24)
    values: Callable[..., list[int]] = partial(_paid_by_step, length=length, steps=steps)
    return chart_of(values(found, begins), None if before is None else values(before, begins - _A_WEEK))


def _paid_by_step(sums: Iterable[Sum], begins: datetime, *, length: timedelta, steps: int) -> list[int]:
    values = [0] * steps
    for one in sums:
        if one.state is State.PAID:
            values[(one.begins - begins) // length] += one.amount
    return values
