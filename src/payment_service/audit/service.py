"""Writes and reads the audit log. An entry is written in the transaction of what it records."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import and_, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from payment_service.audit.models import AuditEntry, ReportTaken
from payment_service.observability.context import origin
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import Shops, of_sellers, of_shops

_LONGEST: Final = 500
"""The maximum length of a reason, and of a message of a provider or a client."""


async def record(
    session: AsyncSession,
    operation_type: str,
    *,
    source: Literal["service", "client"] = "service",
    error_message: str | None = None,
    reason: str | None = None,
    **facts: Any,
) -> AuditEntry:
    """Add an entry by the caller of this context, in the given transaction; ``facts`` are its other columns."""
    who = origin.get()
    entry = AuditEntry(
        operation_type=operation_type,
        actor=who.actor,
        source=source,
        request_id=who.request_id,
        error_message=error_message[:_LONGEST] if error_message else None,
        reason=reason[:_LONGEST] if reason else None,
        **facts,
    )
    session.add(entry)
    await session.flush()
    return entry


async def record_change(
    session: AsyncSession,
    operation_type: str,
    row: Any,
    *,
    row_id: object = None,
    shop_id: int | None = None,
    reason: str | None = None,
) -> None:
    """Record what a row of routing, keys, endpoints, chats or secrets holds from now on, in the caller's transaction.

    ``row_id`` and ``shop_id`` where they are not the row's ``id`` and ``shop_id``. The database refuses to commit a
    change of such a row without it. An equal entry is not added twice.
    """
    await session.flush()
    table, named = row.__tablename__, str(row_id or row.id)
    subject = f"{table}:{named}"
    content = await session.scalar(select(func.audited_content(table, named)))
    added = select(AuditEntry.id).where(
        AuditEntry.subject == subject, AuditEntry.content == content, AuditEntry.created_at == func.now()
    )
    if await session.scalar(added.limit(1)) is not None:
        return
    await record(
        session,
        operation_type,
        subject=subject,
        content=content,
        shop_id=shop_id or getattr(row, "shop_id", None),
        organization_bin=getattr(row, "organization_bin", None),
        reason=reason,
    )


SETTLE: Final = "settle"
UNDO_SETTLE: Final = "settle-undo"
"""Operations of people who settle by hand, and undo it."""


async def settlement_of(session: AsyncSession, payment_id: UUID, refund_id: UUID | None = None) -> AuditEntry | None:
    """The latest settlement by hand of a payment or of a refund, unless it was undone."""
    query = (
        select(AuditEntry)
        .where(
            AuditEntry.payment_id == payment_id,
            AuditEntry.refund_id.is_not_distinct_from(refund_id),
            AuditEntry.source == "service",
            AuditEntry.operation_type.in_((SETTLE, UNDO_SETTLE)),
            AuditEntry.reason.is_not(None),
        )
        .order_by(AuditEntry.id.desc())
        .limit(1)
    )
    latest = await session.scalar(query)
    return latest if latest is not None and latest.operation_type == SETTLE else None


async def reported(session: AsyncSession, report: Mapping[str, Any], *, actor: str) -> AuditEntry | None:
    """The entry of a report that this client made before under the same id. ``report`` has the columns of an entry.

    If that entry was retired with its month: what is still known of it, with a reason that says so. A report by
    another actor is the same one if it is equal and names a payment: an API key was replaced.
    """
    its_entry = and_(AuditEntry.id == ReportTaken.log_id, AuditEntry.created_at == ReportTaken.created_at)
    query = (
        select(ReportTaken, AuditEntry)
        .outerjoin(AuditEntry, its_entry)
        .where(
            ReportTaken.report_id == report["report_id"],
            ReportTaken.shop_id == report["shop_id"],
            ReportTaken.operation_type == report["operation_type"],
            func.coalesce(ReportTaken.external_id, "") == (report["external_id"] or ""),
        )
    )
    rows = (await session.execute(query)).all()
    own = next((row for row in rows if row[0].actor == actor), None)
    if own is None:
        others = [entry for _, entry in rows if report["external_id"] and entry is not None]
        return next((one for one in others if all(getattr(one, name) == report[name] for name in report)), None)
    taken, entry = own
    if entry is not None:
        return entry
    return AuditEntry(
        id=taken.log_id,
        **{name: report[name] for name in ("shop_id", "operation_type", "external_id", "provider", "report_id")},
        actor=actor,
        source="client",
        created_at=taken.created_at,
        reason="It was taken before. Its line has left the record with its month.",
    )


async def oldest_time_since(session: AsyncSession, moment: datetime) -> datetime:
    """The earliest time in any line that was added after those of this moment; the moment itself if none is earlier.

    Lines are numbered in the order in which they were added. A line that is later by its number and earlier by its time
    was added after the database's clock had been set back.
    """
    of_moment = select(func.min(AuditEntry.id)).where(AuditEntry.created_at == moment).scalar_subquery()
    # Read by their numbers: looked for by its time, the earliest would be behind all that are older.
    later = select(AuditEntry.created_at).where(AuditEntry.id > of_moment).offset(0).subquery()
    earliest: datetime | None = await session.scalar(select(func.min(later.c.created_at)))
    return moment if earliest is None else min(earliest, moment)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which audit entries to show. ``shops`` are those that the caller may see."""

    shops: Shops
    shop_id: int | None = None
    operation_type: str | None = None
    external_id: str | None = None
    status: str | None = None
    provider: str | None = None
    subject: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def search(
    session: AsyncSession,
    wanted: LogFilter,
    *,
    changes: bool = True,
    limit: int,
    cursor: str | None = None,
    skip: int = 0,
) -> Page[AuditEntry]:
    """Audit entries, newest first; ``changes`` includes those of routing, keys, endpoints, chats and secrets."""
    entry = AuditEntry if wanted.request_id is None else _of_request(wanted.request_id)
    query = select(entry).where(
        of_shops(entry.shop_id, wanted.shops),
        or_(entry.subject.is_not(None), of_sellers(entry, wanted.shops)),
        matches(entry.shop_id, wanted.shop_id),
        matches(entry.operation_type, wanted.operation_type),
        matches(entry.external_id, wanted.external_id),
        matches(entry.status, wanted.status),
        matches(entry.provider, wanted.provider),
        matches(entry.subject, wanted.subject),
        within(entry.created_at, wanted.since, wanted.until),
        true() if changes else entry.subject.is_(None),
    )
    return await read_page(session, entry, query, limit=limit, cursor=cursor, skip=skip)


def _of_request(request_id: str) -> type[AuditEntry]:
    """The entries of a request, selected first: a scan from the newest entry on might find its few only at the end."""
    lines = select(AuditEntry).where(AuditEntry.request_id == request_id).cte("of_request").prefix_with("MATERIALIZED")
    return aliased(AuditEntry, lines)


async def of_payment(session: AsyncSession, payment_id: UUID) -> list[AuditEntry]:
    """The history of one payment and its refunds, oldest first."""
    query = select(AuditEntry).where(AuditEntry.payment_id == payment_id).order_by(AuditEntry.id)
    return list(await session.scalars(query))
