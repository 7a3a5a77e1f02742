"""Pages, newest first, by a cursor: the place of the last row shown, so that a deep page costs what the first does."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, and_, true, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.errors import InvalidInput

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and the cursor that asks for the next ones; none after the last."""

    rows: Sequence[Row]
    next_cursor: str | None


def matches(column: Any, value: object) -> ColumnElement[bool]:
    """The condition that a column has a value that is looked for; none is looked for when it is None."""
    condition: ColumnElement[bool] = true() if value is None else column == value
    return condition


def within(column: Any, since: datetime | None, until: datetime | None) -> ColumnElement[bool]:
    """The condition that a time is ``since`` or later, and before ``until``; None is no limit."""
    from_then = true() if since is None else column >= since
    before = true() if until is None else column < until
    return and_(from_then, before)


async def read_page(
    session: AsyncSession, table: type[Row], query: Select[Row], *, limit: int, cursor: str | None, skip: int = 0
) -> Page[Row]:
    """Read one page of a query of ``table``, a model with ``created_at`` and ``id``.

    Raises:
        InvalidInput: for a cursor that is not ours.
    """
    columns: Any = table
    query = query.order_by(columns.created_at.desc(), columns.id.desc()).limit(limit + 1).offset(skip)
    if cursor is not None:
        moment, row_id = _decoded(cursor, columns.id.type.python_type)
        query = query.where(tuple_(columns.created_at, columns.id) < tuple_(moment, row_id))
    rows: Sequence[Any] = (await session.scalars(query)).all()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(rows, _encoded(rows[-1].created_at, rows[-1].id) if more else None)


def _encoded(moment: datetime, row_id: object) -> str:
    return base64.urlsafe_b64encode(f"{moment.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def _decoded(cursor: str, id_type: type) -> tuple[datetime, Any]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        moment, _, row_id = text.partition("|")
        when = datetime.fromisoformat(moment)
        if when.tzinfo is None:
            raise ValueError("a cursor's time has its offset")
        place = id_type(row_id)
        if isinstance(place, int) and not 0 < place < 2**63:
            raise ValueError("a cursor's id is one that a row may have")
        return when.astimezone(UTC), place
    except (ValueError, binascii.Error, OverflowError) as error:
        raise InvalidInput("cursor", "is not a cursor that this service gave out") from error
