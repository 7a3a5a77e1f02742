"""Reading payments from the database."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import ColumnElement, String, and_, func, literal, or_, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from payment_service.payments.lifecycle import OPEN, State
from payment_service.payments.models import Payment
from payment_service.postgres.database import Database, RowLost
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import ALL_SHOPS, OF_SELLER_TODAY, Shops, of_seller_today, of_sellers

BY_ID: Final = "SELECT * FROM payment WHERE id = $1"
BY_EXTERNAL_ID: Final = "SELECT * FROM payment WHERE provider = $1 AND external_id = $2 AND same_as IS NULL"
OF_SELLER: Final = f" AND {OF_SELLER_TODAY}"
"""Appended to both for a caller of some shops: the payments of an earlier owner are not shown."""
_ATTRIBUTES: Final = {
    column.name: attribute.key for attribute in Payment.__mapper__.column_attrs for column in attribute.columns
}
_NOTHING_SET: Final = dict.fromkeys(_ATTRIBUTES.values())


def of_attributes(attributes: Mapping[str, Any]) -> Payment:
    """A payment with these attributes, the others none. It is attached to no session."""
    # As SQLAlchemy's own loader makes one: its constructor takes eight times as long.
    payment: Payment = Payment.__mapper__.class_manager.new_instance()
    payment.__dict__.update(_NOTHING_SET)
    payment.__dict__.update(attributes)
    return payment


def of_row(row: asyncpg.Record) -> Payment:
    """A payment from a row that a statement returned, which may have more columns. It is attached to no session."""
    held = dict(row.items())
    held["details"] = json.loads(held.pop("metadata"))
    return of_attributes(held)


async def locked(session: AsyncSession, payment_id: UUID) -> tuple[Payment, datetime]:
    """A payment that is known to exist, under its row lock, and the transaction's time."""
    query = (
        select(Payment, func.now())
        .where(Payment.id == payment_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        raise RowLost(f"payment {payment_id} is gone, and payments are never deleted")
    return row[0], row[1]


async def get_resolved(database: Database, payment_id: UUID) -> tuple[Payment, datetime]:
    """As ``get``; for a report that was merged, the payment that it turned out to be about."""
    payment, now = await get(database, payment_id)
    return (payment, now) if payment.same_as is None else await get(database, payment.same_as)


async def locked_resolved(session: AsyncSession, payment_id: UUID) -> tuple[Payment, datetime]:
    """As ``locked``; for a report that was merged, the payment that it turned out to be about."""
    payment, now = await locked(session, payment_id)
    return (payment, now) if payment.same_as is None else await locked(session, payment.same_as)


async def find(database: Database, payment_id: UUID) -> tuple[Payment, datetime] | None:
    """A payment as it is now, not locked, and the database's time; none when there is no such payment."""
    async with database.reading() as session:
        row = (await session.execute(select(Payment, func.now()).where(Payment.id == payment_id))).one_or_none()
    return None if row is None else (row[0], row[1])


async def get(database: Database, payment_id: UUID) -> tuple[Payment, datetime]:
    """A payment that is known to exist, as it is now, not locked, and the database's time."""
    found = await find(database, payment_id)
    if found is None:
        raise RowLost(f"payment {payment_id} is gone, and payments are never deleted")
    return found


async def by_external_id(session: AsyncSession, provider: str, external_id: str) -> Payment | None:
    """The payment that this provider knows by this id."""
    return await session.scalar(
        select(Payment).where(
            Payment.external_id == external_id, Payment.provider == provider, Payment.same_as.is_(None)
        )
    )


async def is_shown(session: AsyncSession, payment: Payment, shops: Shops) -> bool:
    """Whether a payment may be shown to whoever is limited to these shops."""
    if shops is ALL_SHOPS:
        return True
    organization_bin = literal(payment.organization_bin, String)
    of_seller = select(of_seller_today(literal(payment.shop_id), organization_bin))
    return payment.shop_id in shops and bool(await session.scalar(of_seller))


async def open_of_order(session: AsyncSession, shop_id: int, order_id: str) -> Payment | None:
    """The payment of an order that may still be paid."""
    return await session.scalar(
        select(Payment).where(Payment.shop_id == shop_id, Payment.order_id == order_id, Payment.state.in_(OPEN))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFilter:
    """Which payments to show. ``shops`` are those that the caller may see."""

    shops: Shops
    shop_id: int | None = None
    order_id: str | None = None
    external_id: str | None = None
    state: str | None = None
    phone_last4: str | None = None
    short_code: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def search(session: AsyncSession, wanted: PaymentFilter, *, limit: int, cursor: str | None) -> Page[Payment]:
    """Payments, newest first."""
    query = select(Payment).where(
        of_sellers(Payment, wanted.shops),
        matches(Payment.shop_id, wanted.shop_id),
        matches(Payment.order_id, wanted.order_id),
        matches(Payment.external_id, wanted.external_id),
        matches(Payment.state, wanted.state),
        matches(Payment.phone_last4, wanted.phone_last4),
        matches(Payment.short_code, wanted.short_code),
        within(Payment.created_at, wanted.since, wanted.until),
    )
    return await read_page(session, Payment, query, limit=limit, cursor=cursor)


async def stuck_in_sending(session: AsyncSession, lease_s: float) -> list[UUID]:
    """Payments whose sender must have died: sending for longer than a call can take. All of them, oldest first."""
    query = select(Payment.id).where(_sender_died(lease_s)).order_by(Payment.created_at, Payment.id)
    return list(await session.scalars(query))


def _sender_died(lease_s: float) -> ColumnElement[bool]:
    return and_(Payment.state == State.SENDING, is_over(Payment.created_at, lease_s))


def is_over(since: InstrumentedAttribute[datetime], seconds: float) -> ColumnElement[bool]:
    """The condition that more time has passed since then, or that nobody knows how much.

    What lies in the future was written while the database's clock was ahead: waiting for it could take for ever.
    """
    interval = func.make_interval(0, 0, 0, 0, 0, 0, seconds)
    return or_(since < func.now() - interval, since > func.now() + interval)


def _for_people(sending_lease_s: float) -> tuple[ColumnElement[bool], ...]:
    """Which payments people must look at: each of these is one reason."""
    return tuple(
        and_(reason, Payment.same_as.is_(None))
        for reason in (
            Payment.state == State.UNKNOWN,
            _sender_died(sending_lease_s),
            and_(Payment.state == State.PENDING, Payment.next_check_at.is_(None)),
        )
    )


async def for_people(session: AsyncSession, shops: Shops, *, sending_lease_s: float, limit: int) -> list[Payment]:
    """Payments that people must look at, oldest first: unknown, sending beyond the lease, open and no longer polled.

    Each kind is read by itself, oldest first and no more than are wanted: read together, all of them would be sorted.
    """
    oldest = union_all(
        *(
            select(Payment)
            .where(reason, of_sellers(Payment, shops))
            .order_by(Payment.moved_at, Payment.id)
            .limit(limit)
            for reason in _for_people(sending_lease_s)
        )
    )
    query = select(Payment).from_statement(oldest.order_by("moved_at", "id").limit(limit))
    return list(await session.scalars(query))


async def count_for_people(session: AsyncSession, *, sending_lease_s: float) -> int:
    """How many there are, in every shop."""
    query = select(func.count()).select_from(Payment).where(or_(*_for_people(sending_lease_s)))
    return int(await session.scalar(query) or 0)


async def count_open(session: AsyncSession) -> dict[str, tuple[int, float]]:
    """By state, the number of open payments and the age of the oldest in seconds; 0 for none."""
    return await count_by_state(session, Payment, OPEN, and_(Payment.state.in_(OPEN), Payment.same_as.is_(None)))


async def count_by_state(
    session: AsyncSession, table: Any, states: Iterable[str], condition: ColumnElement[bool]
) -> dict[str, tuple[int, float]]:
    """By state, how many rows of a table meet the condition, and the age of the oldest in seconds; 0 for none."""
    # One that lies in the future is older than anybody knows: it must not look young.
    oldest = func.greatest(func.now() - func.min(table.created_at), func.max(table.created_at) - func.now())
    query = select(table.state, func.count(), func.extract("epoch", oldest)).where(condition).group_by(table.state)
    found = {state: (number, float(oldest_s)) for state, number, oldest_s in await session.execute(query)}
    return dict.fromkeys(states, (0, 0.0)) | found
