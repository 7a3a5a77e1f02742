"""Writes what belongs to each version of a shop's routing: the history row, the audit entry, the event."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.observability.context import origin
from payment_service.routing.models import PaymentConfig, PaymentConfigHistory

ROUTING_FIELDS = ("organization_bin", "is_active", "provider", "name", "city", "description")


async def record_change(session: AsyncSession, operation_type: str, row: PaymentConfig, reason: str) -> None:
    """Add the audit entry of a change."""
    await audit.record_change(session, operation_type, row, row_id=row.shop_id, reason=reason)


async def write_version(session: AsyncSession, row: PaymentConfig, reason: str) -> None:
    """Write a changed row, with its history row, event and audit entry."""
    row.version += 1
    row.updated_at = func.now()
    session.add(version_of(row, reason))
    await session.flush()
    await session.refresh(row, ["updated_at"])
    announce(session, row, reason)
    await record_change(session, "config-change", row, reason)


def put(row: PaymentConfig, checked: Mapping[str, Any]) -> None:
    """Set the fields that are given."""
    for name in ROUTING_FIELDS:
        if name in checked:
            setattr(row, name, checked[name])


def announce(session: AsyncSession, row: PaymentConfig, reason: str) -> None:
    """Write the event that the routing of a shop has changed. The device token is masked."""
    data = {name: getattr(row, name) for name in (*ROUTING_FIELDS, "shop_id", "version", "device_token", "updated_at")}
    outbox.write(
        session,
        EventType.ROUTE_CHANGED,
        row.shop_id,
        version=row.version,
        shop_id=row.shop_id,
        data={**data, "actor": origin.get().actor, "reason": reason[:500]},
    )


def version_of(row: PaymentConfig, reason: str) -> PaymentConfigHistory:
    """A row as a version of the history."""
    copied = {name: getattr(row, name) for name in (*ROUTING_FIELDS, "shop_id", "version", "device_token")}
    return PaymentConfigHistory(
        **copied, device_token_id=row.device_token_id, actor=origin.get().actor, reason=reason[:500]
    )
