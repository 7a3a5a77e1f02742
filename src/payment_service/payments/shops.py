"""The recent activity of shops: last payment, last failure before the buyer, today's counts, open payments.

One statement for all the shops of a page. Each part reads few rows of a shop by an index, however many there are, so
only the newest payments of today are counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select

from payment_service.payments.models import Payment
from payment_service.postgres.database import Database, raw
from payment_service.postgres.visibility import ALL_SHOPS, OF_SELLER_TODAY, Shops

NEWEST: Final = 100
"""How many of today's payments of a shop are counted, the newest."""
UNDER_WAY: Final = 50
"""Open payments are counted up to this number."""
ACTIVITY: Final = f"""
SELECT shop.id, last.id AS last_id, failed.id AS failed_id, today.paid, today.ended, today.seen, under_way.many
FROM unnest($1::integer[]) AS shop (id)
LEFT JOIN LATERAL (
    SELECT id FROM payment WHERE shop_id = shop.id AND ($3::boolean OR {OF_SELLER_TODAY})
    ORDER BY created_at DESC, id DESC LIMIT 1
) AS last ON true
LEFT JOIN LATERAL (
    SELECT id FROM payment WHERE shop_id = shop.id AND failure IN ('not_sent', 'refused', 'rejected')
      AND ($3::boolean OR {OF_SELLER_TODAY})
    ORDER BY created_at DESC, id DESC LIMIT 1
) AS failed ON true
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'paid') AS paid,
           count(*) FILTER (WHERE state IN ('paid', 'failed', 'cancelled')) AS ended, count(*) AS seen
    FROM (
        SELECT state FROM payment WHERE shop_id = shop.id AND created_at >= $2::timestamptz
          AND ($3::boolean OR {OF_SELLER_TODAY})
        ORDER BY created_at DESC, id DESC LIMIT {NEWEST}
    ) AS newest
) AS today
CROSS JOIN LATERAL (
    SELECT count(*) AS many FROM (
        SELECT FROM payment WHERE shop_id = shop.id AND state IN ('sending', 'pending', 'unknown')
          AND ($3::boolean OR {OF_SELLER_TODAY})
        LIMIT {UNDER_WAY + 1}
    ) AS not_ended
) AS under_way
"""  # noqa: S608 - our own words


@dataclass(frozen=True, slots=True)
class ShopActivity:
    """The recent activity of one shop."""

    last: Payment | None
    last_failure: Payment | None
    """The last one that was not sent, or that the proxy or the provider refused; not one that a buyer declined."""
    paid: int
    ended: int
    """Of today's newest payments, how many are paid, and how many have ended."""
    seen: int
    """How many of today's payments were counted, at most ``NEWEST``."""
    under_way: int
    """Payments that have not ended, at most ``UNDER_WAY`` + 1."""


async def activity_of(
    database: Database, shops: Shops, shop_ids: Sequence[int], *, since: datetime
) -> dict[int, ShopActivity]:
    """The recent activity of these shops, for whoever may see ``shops``. ``since``: when today began."""
    async with database.reading() as session:
        rows = await (await raw(session)).fetch(ACTIVITY, list(shop_ids), since, shops is ALL_SHOPS)
        ids = {row[name] for row in rows for name in ("last_id", "failed_id")} - {None}
        payments = {one.id: one for one in await session.scalars(select(Payment).where(Payment.id.in_(ids)))}
    return {
        row["id"]: ShopActivity(
            payments.get(row["last_id"]),
            payments.get(row["failed_id"]),
            row["paid"],
            row["ended"],
            row["seen"],
            row["many"],
        )
        for row in rows
    }
