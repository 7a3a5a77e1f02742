"""Payments that the old service made, adopted from its log: followed here, and refundable.

A line of that log is only a claim, like a report: the payment begins as unknown, and its status is read at once. It
belongs to the account that the line names, whatever the shop's routing is today.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import Caller
from payment_service.audit.models import AuditEntry
from payment_service.payments import queries
from payment_service.payments.record import add_entry
from payment_service.reports.service import MAKING, Report, Reports

PAGE: Final = 500
OPERATION: Final = "adopt"


@dataclass(slots=True)
class Adoption:
    """The result of adopting the payments of the old log."""

    adopted: int = 0
    known: int = 0
    """Known already: adopted earlier, reported, or made by this service."""
    without_account: int = 0
    """Of those adopted: the line names no BIN, so nobody can refund them here."""
    problems: list[str] = field(default_factory=list)
    """Payments that are of another shop here."""


async def adopt_legacy(
    reports: Reports, caller: Caller, *, days: float, advance: Callable[[int], None] = lambda _done: None
) -> Adoption:
    """Adopt the payments that the imported log names in its last ``days``.

    Idempotent. ``advance`` is called with the number of lines done.
    """
    adoption, after_id = Adoption(), 0
    since = datetime.now(UTC) - timedelta(days=days)
    while True:
        async with reports.database.reading() as session:
            lines = list(
                await session.scalars(
                    select(AuditEntry)
                    .where(
                        AuditEntry.id > after_id,
                        AuditEntry.source == "legacy",
                        AuditEntry.created_at >= since,
                        AuditEntry.operation_type.in_(MAKING),
                        AuditEntry.external_id.is_not(None),
                        AuditEntry.shop_id.is_not(None),
                    )
                    .order_by(AuditEntry.id)
                    .limit(PAGE)
                )
            )
        for line in lines:
            async with reports.database.transaction() as session:
                await _adopt(session, reports, caller, line, adoption)
        advance(len(lines))
        if len(lines) < PAGE:
            return adoption
        after_id = lines[-1].id


async def _adopt(session: AsyncSession, reports: Reports, caller: Caller, line: AuditEntry, adoption: Adoption) -> None:
    external_id, shop_id = line.external_id or "", line.shop_id or 0
    known = await queries.by_external_id(session, line.provider, external_id)
    if known is not None:
        adoption.known += 1
        if known.shop_id != shop_id:
            adoption.problems.append(f"Payment {external_id} is of shop {shop_id} there, and of {known.shop_id} here.")
        return
    report = Report(
        shop_id=shop_id,
        operation_type=line.operation_type,
        provider=line.provider,
        external_id=external_id,
        organization_bin=line.organization_bin,
        amount=line.amount,
    )
    payment = await reports.adopt(session, caller, report)
    if payment is None:
        adoption.problems.append(f"Payment {external_id} is of a provider that is not set up here: {line.provider}.")
        return
    adoption.adopted += 1
    adoption.without_account += payment.organization_bin is None
    await add_entry(session, payment, OPERATION, state=payment.state, reason="made by the old service")
