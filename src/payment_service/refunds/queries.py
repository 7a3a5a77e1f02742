"""Reading refunds from the database."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.payments.lifecycle import Failure
from payment_service.payments.models import Payment
from payment_service.refunds.lifecycle import RefundState
from payment_service.refunds.models import Refund


async def of_payment(session: AsyncSession, payment_id: UUID) -> list[Refund]:
    """The refunds of a payment, oldest first."""
    query = select(Refund).where(Refund.payment_id == payment_id).order_by(Refund.created_at, Refund.id)
    return list(await session.scalars(query))


async def alike(session: AsyncSession, payment_id: UUID, caller: str, fingerprint: str, window_s: int) -> Refund | None:
    """The latest equal refund of this caller within the last ``window_s`` seconds, or unknown, that may have left."""
    query = (
        select(Refund)
        .where(
            Refund.payment_id == payment_id,
            Refund.caller == caller,
            Refund.fingerprint == fingerprint,
            or_(
                Refund.created_at > func.now() - func.make_interval(0, 0, 0, 0, 0, 0, window_s),
                Refund.state == RefundState.UNKNOWN,
            ),
            Refund.failure.is_distinct_from(Failure.NOT_SENT),
        )
        .order_by(Refund.created_at.desc())
        .limit(1)
    )
    return await session.scalar(query)


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


async def stuck_in_sending(session: AsyncSession, lease_s: float, *, limit: int = 100) -> list[UUID]:
    """Refunds whose sender must have died: sending for longer than a call can take."""
    query = (
        select(Refund.id)
        .where(
            Refund.state == RefundState.SENDING,
            Refund.created_at < func.now() - func.make_interval(0, 0, 0, 0, 0, 0, lease_s),
        )
        .limit(limit)
    )
    return list(await session.scalars(query))


async def for_people(
    session: AsyncSession, shops: Collection[int] | None, *, limit: int = 1000
) -> list[tuple[Refund, Payment]]:
    """Unknown refunds, oldest first, each with its payment."""
    query = (
        select(Refund, Payment)
        .join(Payment, Payment.id == Refund.payment_id)
        .where(Refund.state == RefundState.UNKNOWN)
        .order_by(Refund.moved_at, Refund.id)
        .limit(limit)
    )
    if shops is not None:
        query = query.where(Payment.shop_id.in_(shops))
    return [(refund, payment) for refund, payment in await session.execute(query)]
