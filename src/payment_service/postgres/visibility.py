"""Whose rows may be shown: those of some shops, or all of them. Leaving it out never means all.

What a shop took belongs to the seller that it had then. So whoever is limited to shops sees the payments that were made
with a BIN of each shop's seller of today, which the database has in ``seller_bin``; see docs/decisions/0031.
"""

from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, and_, column, or_, select, table, true, tuple_


class _All(Enum):
    ALL = "all"


ALL_SHOPS: Final = _All.ALL
"""Every shop, and what belongs to none. Always named: an argument that is forgotten does not type-check."""
_SELLER_BIN: Final = table("seller_bin", column("shop_id"), column("organization_bin"))
Shops: TypeAlias = frozenset[int] | Literal[_All.ALL]
"""The shops that somebody may touch: a set, which may be empty, or ``ALL_SHOPS``."""


def of_shops(column: Any, shops: Shops) -> ColumnElement[bool]:
    """The condition that a row, by the column with its shop's id, is one of these shops' rows."""
    return true() if shops is ALL_SHOPS else column.in_(shops)


def of_sellers(table: Any, shops: Shops) -> ColumnElement[bool]:
    """The condition that a row of a table is one of these shops', and concerns money of their sellers of today.

    The table has ``shop_id``, and ``organization_bin``: the BIN that a payment was made with.
    """
    if shops is ALL_SHOPS:
        return true()
    return and_(of_shops(table.shop_id, shops), of_seller_today(table.shop_id, table.organization_bin))


def of_seller_today(shop_id: Any, organization_bin: Any) -> ColumnElement[bool]:
    """The condition that a payment, by these two columns, is of its shop's seller of today.

    One without a BIN is on nobody's account that is known: it is the shop's.
    """
    sellers = select(_SELLER_BIN.c.shop_id, _SELLER_BIN.c.organization_bin)
    return or_(organization_bin.is_(None), tuple_(shop_id, organization_bin).in_(sellers))


OF_SELLER_TODAY: Final = f"({of_seller_today(column('shop_id'), column('organization_bin'))})"
"""As ``of_seller_today``, in a statement that is written by hand over a table that has both columns."""
