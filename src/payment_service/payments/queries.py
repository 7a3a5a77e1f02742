"""Reading payments from the database."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Float, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.idempotency.decisions import IN_FLIGHT, Earlier
from payment_service.payments.lifecycle import OPEN, Failure, State
from payment_service.payments.models import Payment
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import Shops, of_shops


async def locked_if_there(session: AsyncSession, payment_id: UUID) -> tuple[Payment, datetime] | None:
    """A payment under its row lock, and the transaction's time; none when there is no such payment."""
    query = (
        select(Payment, func.now())
        .where(Payment.id == payment_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    row = (await session.execute(query)).one_or_none()
    return None if row is None else (row[0], row[1])


async def locked(session: AsyncSession, payment_id: UUID) -> tuple[Payment, datetime]:
    """A payment that is known to be there, under its row lock, and the transaction's time."""
    found = await locked_if_there(session, payment_id)
    if found is None:
        raise LookupError(f"payment {payment_id} is gone, and payments are never deleted")
    return found


async def locked_itself(session: AsyncSession, payment_id: UUID) -> tuple[Payment, datetime]:
    """As ``locked``; of a report that was merged meanwhile, the payment that it turned out to be of."""
    payment, now = await locked(session, payment_id)
    return (payment, now) if payment.same_as is None else await locked(session, payment.same_as)


async def by_external_id(session: AsyncSession, external_id: str) -> Payment | None:
    """The payment that a provider knows by this id."""
    return await session.scalar(select(Payment).where(Payment.external_id == external_id, Payment.same_as.is_(None)))


Aged: TypeAlias = tuple[Payment, Earlier]
"""A payment and what of it matters for an equal request; its ages are by the clock of the database."""
_KNOWN_AT: Final = func.coalesce(Payment.known_at, Payment.created_at)
_AGES: Final = tuple(
    func.extract("epoch", func.now() - moment).cast(Float) for moment in (Payment.created_at, _KNOWN_AT)
)


async def aged(session: AsyncSession, payment_id: UUID) -> Aged | None:
    """A payment with its age."""
    return await _aged(session, select(Payment, *_AGES).where(Payment.id == payment_id))


async def _aged(session: AsyncSession, query: Select[Any]) -> Aged | None:
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    payment: Payment = row[0]
    return payment, Earlier(payment.state, payment.failure, age_s=row[1], known_s=row[2])


async def alike(session: AsyncSession, caller: str, fingerprint: str) -> Aged | None:
    """The payment of this caller with the same words that counts, in the order of ``idempotency.foremost``.

    One that provably never left does not count: asking again is what its answer invited.
    """
    query = (
        select(Payment, *_AGES)
        .where(
            Payment.fingerprint == fingerprint,
            Payment.caller == caller,
            Payment.failure.is_distinct_from(Failure.NOT_SENT),
        )
        .order_by(Payment.state.not_in(IN_FLIGHT), _KNOWN_AT.desc())
        .limit(1)
    )
    return await _aged(session, query)


async def open_of_order(session: AsyncSession, shop_id: int, order_id: str) -> Aged | None:
    """The payment of an order that may still be paid."""
    query = select(Payment, *_AGES).where(
        Payment.shop_id == shop_id, Payment.order_id == order_id, Payment.state.in_(OPEN)
    )
    return await _aged(session, query)


async def paid_of_order(session: AsyncSession, shop_id: int, order_id: str, amount: int) -> Payment | None:
    """A paid payment of the order with the same amount (tiyn), not refunded in full."""
    query = (
        select(Payment)
        .where(
            Payment.shop_id == shop_id,
            Payment.order_id == order_id,
            Payment.state == State.PAID,
            Payment.amount == amount,
            Payment.refunded_amount < Payment.amount,
        )
        .limit(1)
    )
    return await session.scalar(query)


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
        of_shops(Payment.shop_id, wanted.shops),
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
    oldest = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, lease_s)
    return and_(Payment.state == State.SENDING, Payment.created_at < oldest)


async def overdue(session: AsyncSession, late_s: float, *, limit: int = 500) -> list[tuple[UUID, int]]:
    """Payments that somebody should have asked about ``late_s`` seconds ago, with their count of checks."""
    query = (
        select(Payment.id, Payment.checks)
        .where(Payment.next_check_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, late_s))
        .order_by(Payment.next_check_at)
        .limit(limit)
    )
    return [(payment_id, checks) for payment_id, checks in await session.execute(query)]


async def for_people(
    session: AsyncSession, shops: Shops, *, sending_lease_s: float, limit: int = 1000
) -> list[Payment]:
    """Payments that people must look at, oldest first: unknown, sending beyond the lease, open and not asked about."""
    query = (
        select(Payment)
        .where(
            or_(
                Payment.state == State.UNKNOWN,
                _sender_died(sending_lease_s),
                and_(Payment.state == State.PENDING, Payment.next_check_at.is_(None)),
            ),
            Payment.same_as.is_(None),
            of_shops(Payment.shop_id, shops),
        )
        .order_by(Payment.moved_at, Payment.id)
        .limit(limit)
    )
    return list(await session.scalars(query))
