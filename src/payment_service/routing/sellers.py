"""Which earlier BINs of a shop belong to its present seller.

A shop that gets another BIN counts as another seller's, unless an operator records that the seller is the same. Keys,
accounts, webhooks and chats of the shop then show the payments of the earlier BIN too (``postgres.visibility``).
"""

from sqlalchemy import select

from payment_service.audit import service as audit
from payment_service.errors import InvalidInput, ShopNotConfigured
from payment_service.postgres.database import Database
from payment_service.routing.models import PaymentConfig, PaymentConfigHistory, SameSeller


async def set_same_seller(
    database: Database, shop_id: int, earlier_bin: str, present_bin: str, *, is_same: bool, reason: str
) -> None:
    """Record whether an earlier BIN of a shop belongs to its present seller, whose BIN is named too.

    Raises:
        ShopNotConfigured: when there is no such shop.
        InvalidInput: when the shop never had the earlier BIN, or has another BIN than the present one today: by now the
            shop may be somebody else's.
    """
    async with database.transaction() as session:
        shop = await session.scalar(select(PaymentConfig).where(PaymentConfig.shop_id == shop_id).with_for_update())
        if shop is None:
            raise ShopNotConfigured(shop_id)
        if present_bin != shop.organization_bin:
            raise InvalidInput("present_bin", f"is not the shop's today, which is {shop.organization_bin}")
        had = select(PaymentConfigHistory.version).where(
            PaymentConfigHistory.shop_id == shop_id, PaymentConfigHistory.organization_bin == earlier_bin
        )
        if earlier_bin == shop.organization_bin or await session.scalar(had.limit(1)) is None:
            raise InvalidInput("earlier_bin", "is a BIN that the shop had before, and has not today")
        row = await session.scalar(
            select(SameSeller).where(
                SameSeller.shop_id == shop_id,
                SameSeller.organization_bin == shop.organization_bin,
                SameSeller.earlier_bin == earlier_bin,
            )
        )
        if row is None:
            row = SameSeller(shop_id=shop_id, organization_bin=shop.organization_bin, earlier_bin=earlier_bin)
            session.add(row)
        row.is_same = is_same
        await session.flush()
        await audit.record_change(session, "same-seller", row, reason=reason)
