"""Whose rows may be shown: those of some shops, or all of them. Leaving it out never means all."""

from enum import Enum
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, true


class _All(Enum):
    ALL = "all"


ALL_SHOPS: Final = _All.ALL
"""Every shop, and what belongs to none. Always named: an argument that is forgotten does not type-check."""
Shops: TypeAlias = frozenset[int] | Literal[_All.ALL]
"""The shops that somebody may touch: a set, which may be empty, or ``ALL_SHOPS``."""


def of_shops(column: Any, shops: Shops) -> ColumnElement[bool]:
    """The condition that a row, by the column with its shop's id, is one of these shops' rows."""
    return true() if shops is ALL_SHOPS else column.in_(shops)
