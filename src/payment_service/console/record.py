"""The record: the audit log, newest first, with filters in the address, and as CSV.

Entries about payments and refunds need the right to read the record. Entries about routing, keys, people, webhooks and
chats are for administrators alone.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Final

from starlette.responses import Response

from payment_service.access.people import Right
from payment_service.almaty import midnight, today
from payment_service.audit import checking
from payment_service.audit import service as audit
from payment_service.audit.models import AuditEntry
from payment_service.audit.service import LogFilter
from payment_service.audit.views import as_csv, lines_of
from payment_service.console.lists import cursor_of, sellers
from payment_service.console.payment_status import Tone
from payment_service.console.web import HOME, PageContext, address, csv_file, number_of, signed_in
from payment_service.errors import InvalidInput
from payment_service.languages import mark
from payment_service.payments.views import tenge
from payment_service.postgres.paging import Page

AT_ONCE: Final = 50
CSV_ROWS_AT_ONCE: Final = 500
OPERATIONS: Final[Mapping[str, str]] = {
    "create": mark("Invoice to a phone"),
    "create-link": mark("Payment link"),
    "status": mark("Status"),
    "refund": mark("Refund"),
    audit.SETTLE: mark("Settled by hand"),
    audit.UNDO_SETTLE: mark("Settlement undone"),
    "config-create": mark("Seller added"),
    "config-change": mark("Route changed"),
    "route-propose": mark("Change of a route proposed"),
    "route-confirm": mark("Change of a route confirmed"),
    "route-refuse": mark("Change of a route refused"),
}
"""The operations in words; any other is shown as it is."""
STATES: Final[Mapping[str, tuple[Tone, str]]] = {
    "sending": ("wait", mark("being sent")),
    "pending": ("wait", mark("waiting")),
    "paid": ("good", mark("paid")),
    "succeeded": ("good", mark("refunded")),
    "failed": ("bad", mark("failed")),
    "cancelled": ("quiet", mark("cancelled")),
    "unknown": ("warn", mark("unknown")),
}
"""The states of payments and refunds in words."""
_TEXTS: Final = ("operation", "external_id", "status", "request", "subject")
_FIELDS: Final = ("shop", *_TEXTS, "since", "until", "changes")


async def record(context: PageContext) -> Response:
    """The entries that match the filters, and how far the log is sealed and was checked."""
    page = await _search(context, limit=AT_ONCE, cursor=cursor_of(context))
    lines = lines_of(page.rows)
    filters = {name: context.query(name) for name in _FIELDS if context.query(name)}
    return context.page(
        "record.html",
        lines=[(line, tenge(line.amount)) for line in lines],
        sellers=await sellers(context, (line.shop_id for line in lines)),
        filters=filters,
        operations=OPERATIONS,
        states=STATES,
        may_changes=context.me.may(Right.CHANGES),
        sealing=await checking.sealing_status(context.services.database),
        csv_address=address(f"{HOME}/record.csv", filters),
        older=page.next_cursor and address(f"{HOME}/record", {**filters, "cursor": page.next_cursor}),
        is_first=not context.query("cursor"),
    )


async def as_file(context: PageContext) -> Response:
    """All matching entries as CSV: page by page, each in its own transaction, as long as the session is valid."""
    first = await _search(context, limit=CSV_ROWS_AT_ONCE, cursor=None)
    return csv_file(f"record-{today():%F}.csv", _pages(context, first))


async def _pages(context: PageContext, page: Page[AuditEntry]) -> AsyncIterator[bytes]:
    yield await _written(page, with_head=True)
    while page.next_cursor is not None:
        context.who = await signed_in(context.request, context.services)  # another role ends the session too
        page = await _search(context, limit=CSV_ROWS_AT_ONCE, cursor=page.next_cursor)
        yield await _written(page, with_head=False)


async def _written(page: Page[AuditEntry], *, with_head: bool) -> bytes:
    """A page as CSV, made in a thread: no payment waits for it."""
    return await asyncio.to_thread(lambda: as_csv(lines_of(page.rows), with_head=with_head))


async def _search(context: PageContext, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
    wanted = _wanted(context)
    # A filter by operation, row or request includes changes.
    changes = any(context.query(name) for name in ("changes", "subject", "operation", "request"))
    async with context.services.database.reading() as session:
        return await audit.search(
            session, wanted, changes=changes and context.me.may(Right.CHANGES), limit=limit, cursor=cursor
        )


def _wanted(context: PageContext) -> LogFilter:
    """The filters of the address.

    Raises:
        InvalidInput: for one that is not valid.
    """
    texts: dict[str, Any] = {name: context.query(name) or None for name in _TEXTS}
    shop_id = number_of(context.query("shop"))
    if context.query("shop") and not shop_id:
        raise InvalidInput("shop", "is a number")
    until = _day(context, "until")
    return LogFilter(
        shops=context.me.caller.shops,
        shop_id=shop_id,
        operation_type=texts["operation"],
        external_id=texts["external_id"],
        status=texts["status"],
        subject=texts["subject"],
        request_id=texts["request"],
        since=_day(context, "since"),
        until=None if until is None else until + timedelta(days=1),
    )


def _day(context: PageContext, name: str) -> datetime | None:
    """When a day of the address begins in Almaty."""
    if not (text := context.query(name)):
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput("day", "is none") from error
    if not 2000 <= day.year <= 2100:
        raise InvalidInput("day", "is none")
    return midnight(day)
