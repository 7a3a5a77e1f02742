"""Pages, newest first, by a cursor: the place of the last row shown, so that a deep page costs what the first does."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.errors import InvalidInput

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows, and the cursor that asks for the next ones; none after the last."""

    rows: Sequence[Row]
    next_cursor: str | None


async def read_page(
    session: AsyncSession, query: Select[Row], table: Any, *, limit: int, cursor: str | None, skip: int = 0
) -> Page[Row]:
    """Read one page of a query over ``table`` (a model with ``created_at`` and ``id``)."""
    query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1).offset(skip)
    if cursor is not None:
        moment, row_id = _decoded(cursor, table.id.type.python_type)
        query = query.where(tuple_(table.created_at, table.id) < tuple_(moment, row_id))
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
