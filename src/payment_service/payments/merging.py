"""Merges a client's report into our payment that it turned out to be about, and can undo that."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.payments import queries
from payment_service.payments.models import Payment
from payment_service.payments.record import add_entry
from payment_service.scheduling.due import Kind, wake


async def merge_report(session: AsyncSession, payment: Payment, external_id: str) -> bool:
    """Give the ``external_id`` of a client's report to our payment, if the report can be about it.

    Returns false when the report keeps its id, which the database then refuses for our payment: when it is of another
    shop, amount or BIN, was refunded already, or was there before our payment was written. In the last case the
    provider's payment existed before our call, so the reply that names it is crossed or cached.
    """
    report = await queries.by_external_id(session, payment.provider, external_id)
    if report is None or report.source != "client":
        return False
    report, _now = await queries.locked(session, report.id)
    fits = (
        report.same_as is None
        and report.shop_id == payment.shop_id
        and report.amount in {None, payment.amount}
        and report.organization_bin in {None, payment.organization_bin}
        and not report.refunded_amount
        and not report.reserved_amount
        and not _was_there_before(report, payment)
    )
    if not fits:
        return False
    report.same_as, report.next_check_at = payment.id, None
    await session.flush()
    await add_entry(session, report, "merge", error_message=f"This report was of payment {payment.id}.")
    return True


def _was_there_before(report: Payment, payment: Payment) -> bool:
    """Whether a report came before our payment, by the database's clock and by those that made the ids (UUIDv7)."""
    return report.created_at < payment.created_at and report.id < payment.id


async def unmerge_reports(session: AsyncSession, payment: Payment, external_id: str) -> None:
    """Separate reports from a payment that they turned out not to be about; they are followed again."""
    merged = select(Payment).where(Payment.same_as == payment.id, Payment.external_id == external_id)
    for report in await session.scalars(merged.with_for_update()):
        report.same_as, report.next_check_at = None, func.now()
        await session.flush()
        await add_entry(session, report, "unmerge", error_message=f"This report was not of payment {payment.id}.")
        wake(session, Kind.READINGS)
