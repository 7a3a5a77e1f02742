"""Reading refunds from the database."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, bindparam, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.payments.models import Payment
from payment_service.payments.queries import count_by_state, is_over
from payment_service.postgres.database import Database, RowLost
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import Shops, of_sellers
from payment_service.refunds.lifecycle import OPEN, RefundState
from payment_service.refunds.models import Refund


async def of_payment(session: AsyncSession, payment_id: UUID) -> list[Refund]:
    """The refunds of a payment, oldest first."""
    query = select(Refund).where(Refund.payment_id == payment_id).order_by(Refund.created_at, Refund.id)
    return list(await session.scalars(query))


async def refunded_elsewhere(session: AsyncSession, payment: Payment) -> int:
    """Tiyn of a payment that others report as paid back: clients that call the provider themselves, the old service.

    A report without an amount counts as the largest amount there is.
    """
    tiyn = func.refunded_elsewhere(payment.shop_id, payment.provider, payment.external_id)
    return int(await session.scalar(select(tiyn)) or 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFilter:
    """Which refunds to show. ``shops`` are those that the caller may see."""

    shops: Shops
    shop_id: int | None
    payment_id: UUID | None
    state: str | None
    since: datetime | None
    until: datetime | None


async def search(
    session: AsyncSession, wanted: RefundFilter, *, limit: int, cursor: str | None
) -> Page[tuple[Refund, Payment]]:
    """Refunds, each with its payment, newest first."""
    query = (
        select(Refund)
        .join(Payment, Payment.id == Refund.payment_id)
        .where(
            of_sellers(Payment, wanted.shops),
            matches(Payment.shop_id, wanted.shop_id),
            matches(Refund.payment_id, wanted.payment_id),
            matches(Refund.state, wanted.state),
            within(Refund.created_at, wanted.since, wanted.until),
        )
    )
    page = await read_page(session, Refund, query, limit=limit, cursor=cursor)
    of_page = select(Payment).where(Payment.id.in_({refund.payment_id for refund in page.rows}))
    payments = {payment.id: payment for payment in await session.scalars(of_page)}
    return Page([(refund, payments[refund.payment_id]) for refund in page.rows], page.next_cursor)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A refund and its payment as they were read at a moment of the database's clock."""

    refund: Refund
    payment: Payment
    now: datetime


async def find(database: Database, refund_id: UUID) -> Snapshot | None:
    """A refund and its payment as they are now, not locked; none when there is no such refund."""
    query = select(Refund, Payment, func.now()).join(Payment, Payment.id == Refund.payment_id)
    async with database.reading() as session:
        row = (await session.execute(query.where(Refund.id == refund_id))).one_or_none()
    return None if row is None else Snapshot(row[0], row[1], row[2])


async def get(database: Database, refund_id: UUID) -> Snapshot:
    """A refund that is known to exist, and its payment, as they are now; not locked."""
    seen = await find(database, refund_id)
    if seen is None:
        raise RowLost(f"refund {refund_id} is gone, and refunds are never deleted")
    return seen


async def stuck_in_sending(session: AsyncSession, lease_s: float) -> list[UUID]:
    """Refunds whose sender must have died: sending for longer than a call can take. All of them, oldest first."""
    query = select(Refund.id).where(_sender_died(lease_s)).order_by(Refund.created_at, Refund.id)
    return list(await session.scalars(query))


def _sender_died(lease_s: float) -> ColumnElement[bool]:
    return and_(_is(RefundState.SENDING), is_over(Refund.created_at, lease_s))


def _for_people(sending_lease_s: float) -> ColumnElement[bool]:
    return or_(_is(RefundState.UNKNOWN), _sender_died(sending_lease_s))


def _is(state: str) -> ColumnElement[bool]:
    """Written out, so that every plan can use the index of the state."""
    return Refund.state == bindparam("state", state, unique=True, literal_execute=True)


async def for_people(
    session: AsyncSession, shops: Shops, *, sending_lease_s: float, limit: int
) -> list[tuple[Refund, Payment]]:
    """Refunds that people must look at, oldest first, each with its payment: unknown, or sending beyond the lease."""
    query = (
        select(Refund, Payment)
        .join(Payment, Payment.id == Refund.payment_id)
        .where(_for_people(sending_lease_s), of_sellers(Payment, shops))
        .order_by(Refund.moved_at, Refund.id)
        .limit(limit)
    )
    return [(refund, payment) for refund, payment in await session.execute(query)]


async def count_for_people(session: AsyncSession, *, sending_lease_s: float) -> int:
    """How many there are, in every shop."""
    query = select(func.count()).select_from(Refund).where(_for_people(sending_lease_s))
    return int(await session.scalar(query) or 0)


async def count_open(session: AsyncSession) -> dict[str, tuple[int, float]]:
    """By state, the number of refunds without an end and the age of the oldest in seconds; 0 for none."""
    each = or_(*map(_is, OPEN))  # each of them has an index
    return await count_by_state(session, Refund, OPEN, each)
