"""Compares every payment of a period, in the order of creation, with the provider's status.

Reads payments in pages and keeps none of them. Changes nothing unless told to ``apply``, and then only through the
move that any reading makes.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, tuple_

from payment_service.payments import queries
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.reading import PaymentReading
from payment_service.postgres.database import Database, now_of
from payment_service.providers.interface import Meaning, NoSuchPayment, Providers, Reading, StatusRead, StatusUnread
from payment_service.reconciliation.findings import Finding, Kind, compare
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import Refund

PAGE: Final = 200
AT_ONCE: Final = 5
AWAY_AFTER: Final = 10
"""How many payments in a row that cannot be read mean that the provider is away."""
MAX_PAUSE_S: Final = 2.0
_WITHOUT_ID: Final = {State.SENDING: Kind.SENDING, State.UNKNOWN: Kind.UNKNOWN_WITHOUT_ID}
_OF_REFUND: Final = {RefundState.SENDING: Kind.SENDING, RefundState.UNKNOWN: Kind.UNKNOWN_REFUND}


class ProviderAwayError(Exception):
    """The provider no longer answers; the text is the latest reason."""


@dataclass(frozen=True, slots=True)
class Period:
    """The payments that were made in ``[since, until)``, of one shop or of all."""

    since: datetime
    until: datetime
    shop_id: int | None = None

    def holds(self) -> ColumnElement[bool]:
        """The condition for a payment. A report that was merged into another payment is not one of its own."""
        return and_(Payment.created_at >= self.since, Payment.created_at < self.until, self.is_counted())

    def is_counted(self) -> ColumnElement[bool]:
        """The condition for a payment, whenever it was made."""
        # Not ``same_as IS NULL``: that implies the predicate of an index of external ids, which a planner who knows
        # nothing of the table yet would read from one end to the other.
        is_one = func.num_nulls(Payment.same_as) == 1
        return is_one if self.shop_id is None else and_(is_one, Payment.shop_id == self.shop_id)


@dataclass(slots=True)
class Walk:
    """The progress of a walk, and its findings so far. It can be resumed from here."""

    done: int = 0
    created_at: datetime | None = None
    payment_id: UUID | None = None
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Compared:
    """One compared payment; without a reading when it has no external_id."""

    payment: Payment
    reading: Reading | None
    findings: list[Finding]


@asynccontextmanager
async def _cancelled_at_the_end() -> AsyncIterator[deque[asyncio.Task[_Compared | None]]]:
    """Tasks in their order. Those that are left at the end are cancelled, and have ended."""
    begun: deque[asyncio.Task[_Compared | None]] = deque()
    try:
        yield begun
    finally:
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """Compares payments with the provider's status."""

    database: Database
    providers: Providers
    reading: PaymentReading
    pauses_s: tuple[float, ...] = (1, 2, 4, 8)
    """Before each new try of a reading that failed; together longer than the pause of the provider's breaker."""

    async def now(self) -> datetime:
        """The database's time, by which payments are dated."""
        async with self.database.reading() as session:
            return await now_of(session)

    async def count(self, period: Period) -> int:
        """How many payments there are to walk."""
        async with self.database.reading() as session:
            return (await session.execute(select(func.count(Payment.id)).where(period.holds()))).scalar_one()

    async def knows(self, walk: Walk) -> bool:
        """Whether the walk was over this database."""
        async with self.database.reading() as session:
            return walk.payment_id is None or await session.get(Payment, walk.payment_id) is not None

    async def run(
        self, period: Period, walk: Walk, *, apply: bool, stopping: asyncio.Event, moved_on: Callable[[], None]
    ) -> bool:
        """Continue the walk, to the end or until ``stopping``; returns whether it reached the end.

        ``moved_on`` is called whenever ``walk`` has advanced.

        Raises:
            ProviderAwayError: when the provider no longer answers; the walk ends at the last payment that was read.
        """
        held: list[_Compared] = []  # unread payments count only once a later one was read
        unread = 0

        def advance() -> None:
            if held:
                walk.done += len(held)
                walk.created_at, walk.payment_id = held[-1].payment.created_at, held[-1].payment.id
                walk.findings += [finding for compared in held for finding in compared.findings]
                held.clear()
                moved_on()

        async with aclosing(self._all_compared(period, walk, apply=apply, stopping=stopping)) as compared_in_order:
            async for compared in compared_in_order:
                if compared is None:
                    break
                held.append(compared)
                match compared.reading:
                    case StatusUnread(reason):
                        unread += 1
                        if unread >= AWAY_AFTER:
                            raise ProviderAwayError(reason)
                    case StatusRead() | NoSuchPayment():
                        unread = 0
                if not unread:
                    advance()
        if stopping.is_set():
            return False
        advance()
        return True

    async def _all_compared(
        self, period: Period, walk: Walk, *, apply: bool, stopping: asyncio.Event
    ) -> AsyncGenerator[_Compared | None, None]:
        """Compare several payments at once, and yield them in order; none for one that was given up for stopping."""
        async with aclosing(self._payments(period, walk)) as payments, _cancelled_at_the_end() as begun:
            async for payment, refunds in payments:
                if stopping.is_set():
                    break
                begun.append(asyncio.create_task(self._compare(payment, refunds, apply=apply, stopping=stopping)))
                if len(begun) == AT_ONCE:
                    yield await begun.popleft()
            while begun:
                yield await begun.popleft()

    async def _payments(self, period: Period, walk: Walk) -> AsyncGenerator[tuple[Payment, list[Refund]], None]:
        """The payments after the walk's place, each with its refunds that have not ended. Pages by (created_at, id)."""
        query = select(Payment).where(period.holds()).order_by(Payment.created_at, Payment.id).limit(PAGE)
        place = (walk.created_at, walk.payment_id)
        while True:
            after = query if place[1] is None else query.where(tuple_(Payment.created_at, Payment.id) > tuple_(*place))
            async with self.database.reading() as session:
                page = list(await session.scalars(after))
                reserving = [payment.id for payment in page if payment.reserved_amount]
                found = select(Refund).where(Refund.payment_id.in_(reserving), Refund.state.in_(_OF_REFUND))
                refunds = list(await session.scalars(found.order_by(Refund.id))) if reserving else []
            for payment in page:
                yield payment, [refund for refund in refunds if refund.payment_id == payment.id]
            if len(page) < PAGE:
                return
            place = (page[-1].created_at, page[-1].id)

    async def _compare(
        self, payment: Payment, refunds: list[Refund], *, apply: bool, stopping: asyncio.Event
    ) -> _Compared | None:
        """Compare one payment with the provider's status; none when the reading was given up for stopping."""
        findings = [
            _finding(_OF_REFUND[RefundState(refund.state)], payment, here=refund.state, refund=refund)
            for refund in refunds
        ]
        if payment.external_id is None:
            if kind := _WITHOUT_ID.get(State(payment.state)):
                findings.append(_finding(kind, payment))
            return _Compared(payment, None, findings)

        reading = await self._read(payment, payment.external_id, stopping)
        if reading is None:
            return None
        if isinstance(reading, StatusUnread):
            findings.append(_finding(Kind.UNREAD, payment, there=reading.reason))
        elif compare(State(payment.state), reading):
            # It may have moved while the provider was asked.
            payment, _now = await queries.get(self.database, payment.id)
            if kind := compare(State(payment.state), reading):
                became = await self._correct(payment) if apply and isinstance(reading, StatusRead) else None
                there = reading.code if isinstance(reading, NoSuchPayment) else reading.status
                findings.append(_finding(kind, payment, there=there, became=became))
        if payment.state == State.PAID and payment.amount is None:
            findings.append(_finding(Kind.AMOUNT_NOT_REPORTED, payment))
        return _Compared(payment, reading, findings)

    async def _read(self, payment: Payment, external_id: str, stopping: asyncio.Event) -> Reading | None:
        """Read the status, and again with growing pauses while it fails; none when stopped before.

        That a paid payment failed must be read twice, as everywhere else (docs/kaspi-api.md section 3).
        """
        pauses = iter(self.pauses_s)
        doubted = False
        while True:
            started = time.monotonic()
            reading = await self.providers[payment.provider].read_status(external_id)
            match reading:
                case StatusUnread() if (pause_s := next(pauses, None)) is not None:
                    pass
                case StatusRead(meaning=Meaning.FAILED) if payment.state == State.PAID and not doubted:
                    pause_s, doubted = self.reading.moves.plan.confirm_s, True
                case _:
                    # Pause for as long as the answer took: a slow proxy is called less often.
                    await _stopped_within(stopping, min(time.monotonic() - started, MAX_PAUSE_S))
                    return reading
            if await _stopped_within(stopping, pause_s):
                return None

    async def _correct(self, payment: Payment) -> str | None:
        """Apply the moves of any reading; returns the state that then agrees with the provider, if it got there.

        Two moves at most: an unknown payment that was cancelled is pending first.
        """
        for _ in range(2):
            before, payment = payment.state, await self.reading.refresh(payment)
            if payment.state == before:
                return None
            word = payment.status or ""
            meaning = self.providers[payment.provider].meaning_of(payment.status)
            if compare(State(payment.state), StatusRead(word, meaning)) is None:
                return payment.state
        return None


async def _stopped_within(stopping: asyncio.Event, seconds: float) -> bool:
    """Pause; returns at once, and true, when it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            return await stopping.wait()
    except TimeoutError:
        return False


def _finding(
    kind: Kind,
    payment: Payment,
    *,
    there: str | None = None,
    here: str | None = None,
    refund: Refund | None = None,
    became: str | None = None,
) -> Finding:
    return Finding(
        kind=kind,
        payment_id=payment.id,
        refund_id=refund.id if refund else None,
        shop_id=payment.shop_id,
        organization_bin=payment.organization_bin,
        source=payment.source,
        external_id=payment.external_id,
        short_code=payment.short_code,
        amount=refund.amount if refund else payment.amount,
        created_at=refund.created_at if refund else payment.created_at,
        here=here or payment.state,
        there=there,
        became=became,
    )
