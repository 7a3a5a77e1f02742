"""Write and read the record. Writing takes the caller's transaction: nothing is done without its entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import and_, func, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from payment_service.audit.models import AuditEntry, ReportTaken
from payment_service.observability.context import origin
from payment_service.postgres.paging import Page, matches, read_page, within
from payment_service.postgres.visibility import Shops, of_shops


async def record(
    session: AsyncSession,
    operation_type: str,
    *,
    shop_id: int | None = None,
    organization_bin: str | None = None,
    external_id: str | None = None,
    amount: int | None = None,
    status: str | None = None,
    state: str | None = None,
    error_message: str | None = None,
    provider: str,
    payment_id: UUID | None = None,
    refund_id: UUID | None = None,
    source: Literal["service", "client"] = "service",
    reason: str | None = None,
    report_id: str | None = None,
) -> AuditEntry:
    """Add one line to the record, in the caller's transaction. ``amount`` is in tiyn."""
    who = origin.get()
    entry = AuditEntry(
        shop_id=shop_id,
        organization_bin=organization_bin,
        operation_type=operation_type,
        external_id=external_id,
        amount=amount,
        status=status,
        state=state,
        error_message=error_message[:500] if error_message else None,
        provider=provider,
        payment_id=payment_id,
        refund_id=refund_id,
        actor=who.actor,
        source=source,
        request_id=who.request_id,
        reason=reason,
        report_id=report_id,
    )
    session.add(entry)
    await session.flush()
    return entry


async def record_change(
    session: AsyncSession,
    operation_type: str,
    table: str,
    row_id: object,
    *,
    shop_id: int | None = None,
    organization_bin: str | None = None,
    reason: str | None = None,
) -> None:
    """Add what a row of routing, keys, endpoints, chats or secrets holds from now on, in the caller's transaction.

    The database refuses to commit a change of such a row without. What was added already is not added twice.
    """
    await session.flush()
    subject = f"{table}:{row_id}"
    content = await session.scalar(select(func.audited_content(table, str(row_id))))
    added = select(AuditEntry.id).where(
        AuditEntry.subject == subject, AuditEntry.content == content, AuditEntry.created_at == func.now()
    )
    if await session.scalar(added.limit(1)) is not None:
        return
    who = origin.get()
    session.add(
        AuditEntry(
            operation_type=operation_type,
            subject=subject,
            content=content,
            shop_id=shop_id,
            organization_bin=organization_bin,
            actor=who.actor,
            source="service",
            request_id=who.request_id,
            reason=reason[:500] if reason else None,
        )
    )
    await session.flush()


async def record_deed(session: AsyncSession, operation_type: str, reason: str) -> None:
    """Add what a person did to the service as a whole, in the caller's transaction."""
    who = origin.get()
    entry = AuditEntry(
        operation_type=operation_type, actor=who.actor, source="service", request_id=who.request_id, reason=reason
    )
    session.add(entry)
    await session.flush()


SETTLE: Final = "settle"
UNDO_SETTLE: Final = "settle-undo"
"""Operations by which people settle what is unknown, and undo that again."""


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


async def reported(
    session: AsyncSession,
    report_id: str,
    *,
    actor: str,
    shop_id: int,
    operation_type: str,
    external_id: str | None,
    provider: str,
    said: Mapping[str, object],
) -> AuditEntry | None:
    """The entry of a report that this client made before, under the same id of its own.

    When it has left the record with its month: what is still known of it, with a reason that says so. A report of
    another actor is the same one if it is of the same payment and ``said`` the same: an API key was replaced.
    """
    its_line = and_(AuditEntry.id == ReportTaken.log_id, AuditEntry.created_at == ReportTaken.created_at)
    query = (
        select(ReportTaken, AuditEntry)
        .outerjoin(AuditEntry, its_line)
        .where(
            ReportTaken.report_id == report_id,
            ReportTaken.shop_id == shop_id,
            ReportTaken.operation_type == operation_type,
            func.coalesce(ReportTaken.external_id, "") == (external_id or ""),
        )
    )
    rows = (await session.execute(query)).all()
    own = next((row for row in rows if row[0].actor == actor), None)
    if own is None:
        others = [entry for _, entry in rows if external_id and entry is not None]
        return next((one for one in others if all(getattr(one, name) == said[name] for name in said)), None)
    taken, entry = own
    if entry is not None:
        return entry
    return AuditEntry(
        id=taken.log_id,
        shop_id=shop_id,
        operation_type=operation_type,
        external_id=external_id,
        provider=provider,
        actor=actor,
        source="client",
        report_id=report_id,
        created_at=taken.created_at,
        reason="It was taken before. Its line has left the record with its month.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter:
    """Which lines of the record to show. ``shops`` are those that the caller may see."""

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
    """Lines of the record, newest first; ``changes`` are those of routing, keys, endpoints, chats and secrets too."""
    entry = AuditEntry if wanted.request_id is None else _of_request(wanted.request_id)
    query = select(entry).where(
        of_shops(entry.shop_id, wanted.shops),
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
    """The lines of a request, found first: looked for from the newest line on, its few might be the last ones."""
    lines = select(AuditEntry).where(AuditEntry.request_id == request_id).cte("of_request").prefix_with("MATERIALIZED")
    return aliased(AuditEntry, lines)


async def of_payment(session: AsyncSession, payment_id: UUID) -> list[AuditEntry]:
    """The history of one payment and its refunds, oldest first."""
    query = select(AuditEntry).where(AuditEntry.payment_id == payment_id).order_by(AuditEntry.id)
    return list(await session.scalars(query))
