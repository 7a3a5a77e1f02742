"""Client reports of payments that they made themselves: recorded, and followed like ours.

A report is only a claim. It begins as unknown, its status is read at once, and it never keeps an external_id from a
payment of ours: then the report is merged into that payment.
"""

from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.audit.models import AuditEntry
from payment_service.identifiers import checked_bin, new_id
from payment_service.observability.logs import bind
from payment_service.payments import queries
from payment_service.payments.lifecycle import State
from payment_service.payments.models import Payment
from payment_service.payments.moves import alarm
from payment_service.postgres.database import Database, constraint_of
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.providers.interface import Providers
from payment_service.providers.registry import DEFAULT
from payment_service.routing.models import PaymentConfigHistory
from payment_service.scheduling.due import Kind, wake

_METHODS: Final = {"create": "phone", "create-link": "link"}
MAKING: Final = frozenset(_METHODS)
"""Operations that make a payment: their amount is the payment's, and not that of a refund."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A client's report of an operation that it made itself. ``amount`` is in tiyn."""

    shop_id: int
    operation_type: str
    provider: str = DEFAULT
    external_id: str | None = None
    organization_bin: str | None = None
    amount: int | None = None
    status: str | None = None
    error_message: str | None = None
    report_id: str | None = None
    """The client's own id of this report: sent again under it, the report is recorded once."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Takes client reports."""

    database: Database
    providers: Providers

    async def write(self, caller: Caller, report: Report) -> AuditEntry:
        """Record a report, and adopt the payment that it is about if it is not known yet.

        A caller of some shops cannot prove that the payment is of their shop, and could follow it once it is adopted.
        So such a report is recorded, and assigned to a payment only when that is known to be of the shop.

        Raises:
            ShopNotConfigured: when it is of a shop that the caller may not touch.
        """
        caller.require_shop(report.shop_id)
        try:
            return await self._write(caller, report)
        except DBAPIError as error:
            if constraint_of(error) != "payment_log_report":
                raise
        return await self._write(caller, report)  # it was sent twice at once; the other one is written by now

    async def _write(self, caller: Caller, report: Report) -> AuditEntry:
        async with self.database.transaction() as session:
            if report.report_id is not None:
                earlier = await audit.reported(session, asdict(report), actor=caller.name)
                if earlier is not None:
                    return earlier
            payment = await self.adopt(session, caller, report)
            if payment is not None:
                bind(payment_id=str(payment.id), shop_id=payment.shop_id)
            entry = await audit.record(
                session, **asdict(report), payment_id=payment.id if payment else None, source="client"
            )
            await session.refresh(entry)
        return entry

    async def adopt(self, session: AsyncSession, caller: Caller, report: Report) -> Payment | None:
        """The payment of that shop that a report is about. A later report may add what an earlier one left out."""
        if report.external_id is None or report.provider not in self.providers:
            return None
        payment = await queries.by_external_id(session, report.provider, report.external_id)
        if payment is None and caller.shops is not ALL_SHOPS:
            return None
        if payment is None:
            payment = await _insert(session, caller, report, report.external_id)
        if payment.shop_id != report.shop_id or not await queries.is_shown(session, payment, caller.shops):
            # A client named the wrong shop, now or before, or the shop has another owner.
            alarm("report_of_another_shop", payment.id, shop_id=str(payment.shop_id), reported_for=str(report.shop_id))
            return None
        if payment.source == "client":
            payment, _now = await queries.locked_resolved(session, payment.id)
        if payment.source == "client":
            await _complete(session, payment, report)
        return payment


async def _insert(session: AsyncSession, caller: Caller, report: Report, external_id: str) -> Payment:
    payment = Payment(
        id=new_id(),
        source="client",
        shop_id=report.shop_id,
        provider=report.provider,
        external_id=external_id,
        caller=caller.name,
        state=State.UNKNOWN,
        next_check_at=func.now(),
        checks=0,
        unread=0,
        refunded_amount=0,
        reserved_amount=0,
    )
    try:
        async with session.begin_nested():
            session.add(payment)
    except IntegrityError:
        # Another report of it, or the payment itself, was written first.
        known = await queries.by_external_id(session, report.provider, external_id)
        if known is None:
            raise
        return known
    wake(session, Kind.READINGS)
    return payment


async def _complete(session: AsyncSession, payment: Payment, report: Report) -> None:
    """Fill in what is still missing. Known values stay: the database would refuse others."""
    method = _METHODS.get(report.operation_type)
    if method is not None:
        payment.method = payment.method or method
        payment.amount = payment.amount or report.amount or None
    if payment.organization_bin is None and report.organization_bin is not None:
        await _pin_account(session, payment, report.organization_bin)
    await session.flush()


async def _pin_account(session: AsyncSession, payment: Payment, organization_bin: str) -> None:
    """Pin the account that the client reported; the device token is known if the shop ever had that BIN."""
    try:
        checked_bin(organization_bin)
    except ValueError:
        return  # the audit entry of the report has it as reported
    line = await session.scalar(
        select(PaymentConfigHistory)
        .where(
            PaymentConfigHistory.shop_id == payment.shop_id,
            PaymentConfigHistory.organization_bin == organization_bin,
            PaymentConfigHistory.provider == payment.provider,
        )
        .order_by(PaymentConfigHistory.version.desc())
        .limit(1)
    )
    # All at once: the database pins the account as soon as its BIN is there.
    payment.organization_bin = organization_bin
    if line is not None:
        payment.route_version, payment.device_token_id = line.version, line.device_token_id
    else:
        # The money of this shop went to an account that never was this shop's.
        alarm("foreign_bin_reported", payment.id, shop_id=str(payment.shop_id), organization_bin=organization_bin)
