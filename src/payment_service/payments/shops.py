"""How shops fare: their last payment, the last one that never reached its buyer, how today goes, what is under way.

One statement for as many shops as a page shows. Each part reaches few rows of a shop by an index, however many it has,
so what is counted is counted among the newest of today.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import select

from payment_service.payments.models import Payment
from payment_service.postgres.database import Database, raw

NEWEST: Final = 100
"""So many of today's payments of a shop are looked at, the newest."""
UNDER_WAY: Final = 50
"""Beyond so many nobody counts."""
FACTS: Final = f"""
SELECT shop.id, last.id AS last_id, trouble.id AS trouble_id, today.paid, today.ended, today.seen, under_way.many
FROM unnest($1::integer[]) AS shop (id)
LEFT JOIN LATERAL (
    SELECT id FROM payment WHERE shop_id = shop.id ORDER BY created_at DESC, id DESC LIMIT 1
) AS last ON true
LEFT JOIN LATERAL (
    SELECT id FROM payment WHERE shop_id = shop.id AND failure IN ('not_sent', 'refused', 'rejected')
    ORDER BY created_at DESC, id DESC LIMIT 1
) AS trouble ON true
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE state = 'paid') AS paid,
           count(*) FILTER (WHERE state IN ('paid', 'failed', 'cancelled')) AS ended, count(*) AS seen
    FROM (
        SELECT state FROM payment WHERE shop_id = shop.id AND created_at >= $2::timestamptz
        ORDER BY created_at DESC, id DESC LIMIT {NEWEST}
    ) AS newest
) AS today
CROSS JOIN LATERAL (
    SELECT count(*) AS many FROM (
        SELECT FROM payment WHERE shop_id = shop.id AND state IN ('sending', 'pending', 'unknown')
        LIMIT {UNDER_WAY + 1}
    ) AS not_ended
) AS under_way
"""  # noqa: S608 - our own numbers


@dataclass(frozen=True, slots=True)
class ShopFacts:
    """How one shop fares."""

    last: Payment | None
    trouble: Payment | None
    """The last one that was not sent, or that the proxy or the provider refused; not one that a buyer declined."""
    paid: int
    ended: int
    """Of today's newest payments, those that are paid, and those of which the end is known."""
    seen: int
    """How many of today's were looked at, at most ``NEWEST``."""
    under_way: int
    """Payments whose end is not known, at most ``UNDER_WAY`` + 1."""


async def facts_of(database: Database, shop_ids: Sequence[int], *, since: datetime) -> dict[int, ShopFacts]:
    """How these shops fare. ``since``: when today began."""
    async with database.reading() as session:
        rows = await (await raw(session)).fetch(FACTS, list(shop_ids), since)
        ids = {row[name] for row in rows for name in ("last_id", "trouble_id")} - {None}
        payments = {one.id: one for one in await session.scalars(select(Payment).where(Payment.id.in_(ids)))}
    return {
        row["id"]: ShopFacts(
            payments.get(row["last_id"]),
            payments.get(row["trouble_id"]),
            row["paid"],
            row["ended"],
            row["seen"],
            row["many"],
        )
        for row in rows
    }
