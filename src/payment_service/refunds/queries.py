"""Reading refunds from the database."""

from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import ColumnElement, Float, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.idempotency.decisions import IN_FLIGHT, Earlier
from payment_service.payments.lifecycle import Failure
from payment_service.payments.models import Payment
from payment_service.postgres.visibility import Shops, of_shops
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import Refund


async def of_payment(session: AsyncSession, payment_id: UUID) -> list[Refund]:
    """The refunds of a payment, oldest first."""
    query = select(Refund).where(Refund.payment_id == payment_id).order_by(Refund.created_at, Refund.id)
    return list(await session.scalars(query))


Aged: TypeAlias = tuple[Refund, Earlier]
"""A refund and what of it matters for an equal request; its ages are by the clock of the database."""
_KNOWN_AT: Final = func.coalesce(Refund.known_at, Refund.created_at)
_AGES: Final = tuple(
    func.extract("epoch", func.now() - moment).cast(Float) for moment in (Refund.created_at, _KNOWN_AT)
)


async def aged(session: AsyncSession, refund_id: UUID) -> Aged | None:
    """A refund with its age."""
    return await _aged(session, select(Refund, *_AGES).where(Refund.id == refund_id))


async def _aged(session: AsyncSession, query: Select[Any]) -> Aged | None:
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    refund: Refund = row[0]
    return refund, Earlier(refund.state, refund.failure, age_s=row[1], known_s=row[2])


async def alike(session: AsyncSession, payment_id: UUID, caller: str, fingerprint: str) -> Aged | None:
    """The equal refund of this caller that counts, in the order of ``idempotency.foremost``. It may have left."""
    query = (
        select(Refund, *_AGES)
        .where(
            Refund.payment_id == payment_id,
            Refund.caller == caller,
            Refund.fingerprint == fingerprint,
            Refund.failure.is_distinct_from(Failure.NOT_SENT),
        )
        .order_by(Refund.state.not_in(IN_FLIGHT), _KNOWN_AT.desc())
        .limit(1)
    )
    return await _aged(session, query)


async def has_its_id(session: AsyncSession, refund: Refund, provider_refund_id: str) -> bool:
    """Whether another refund of the same payment has this id of the provider's."""
    query = (
        select(Refund.id)
        .where(
            Refund.payment_id == refund.payment_id,
            Refund.provider_refund_id == provider_refund_id,
            Refund.id != refund.id,
        )
        .limit(1)
    )
    return await session.scalar(query) is not None


async def stuck_in_sending(session: AsyncSession, lease_s: float) -> list[UUID]:
    """Refunds whose sender must have died: sending for longer than a call can take. All of them, oldest first."""
    query = select(Refund.id).where(_sender_died(lease_s)).order_by(Refund.created_at, Refund.id)
    return list(await session.scalars(query))


def _sender_died(lease_s: float) -> ColumnElement[bool]:
    oldest = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, lease_s)
    return and_(Refund.state == RefundState.SENDING, Refund.created_at < oldest)


async def for_people(
    session: AsyncSession, shops: Shops, *, sending_lease_s: float, limit: int = 1000
) -> list[tuple[Refund, Payment]]:
    """Refunds that people must look at, oldest first, each with its payment: unknown, or sending beyond the lease."""
    query = (
        select(Refund, Payment)
        .join(Payment, Payment.id == Refund.payment_id)
        .where(
            or_(Refund.state == RefundState.UNKNOWN, _sender_died(sending_lease_s)), of_shops(Payment.shop_id, shops)
        )
        .order_by(Refund.moved_at, Refund.id)
        .limit(limit)
    )
    return [(refund, payment) for refund, payment in await session.execute(query)]
