"""Changes of a shop's routing that one administrator proposes and another one confirms.

A proposal is never edited, is decided once, and is applied only to the version of the route that it was proposed for.
The database enforces the same: nobody confirms a change of their own, and where two people are needed there is no other
way to change a route.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from payment_service.access.models import Person
from payment_service.access.service import Caller
from payment_service.audit import service as audit
from payment_service.errors import (
    InvalidInput,
    ProposedByCaller,
    RouteChangeNotFound,
    RouteChangeOver,
    RouteChangeWaits,
    ShopNotConfigured,
)
from payment_service.events import outbox
from payment_service.events.outbox import EventType
from payment_service.identifiers import new_id
from payment_service.observability.context import origin
from payment_service.postgres.database import Database, constraint_of, is_duplicate
from payment_service.postgres.visibility import of_shops
from payment_service.routing.models import PaymentConfig, RouteChange
from payment_service.routing.service import Routing, checked_fields, one_at_a_time
from payment_service.routing.versions import ROUTING_FIELDS

EXPIRES_AFTER: Final = timedelta(days=3)
"""How long a change waits for its second administrator."""


IN_TIME: Final = "route_change_in_time"
"""The rule that a change violates which expired, or whose proposer is no administrator any more."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed change, with the names of the people who proposed and decided it."""

    change: RouteChange
    proposed_by: str
    decided_by: str | None


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """The proposed changes of all shops."""

    database: Database
    routing: Routing

    async def waiting(self, caller: Caller) -> dict[int, Proposal]:
        """What waits for a second administrator and can still be applied, by shop."""
        query = (
            _proposals()
            .join(PaymentConfig, PaymentConfig.shop_id == RouteChange.shop_id)
            .where(
                RouteChange.state == "waiting",
                RouteChange.expires_at > func.now(),
                RouteChange.on_version == PaymentConfig.version,
                of_shops(RouteChange.shop_id, caller.shops),
            )
        )
        async with self.database.reading() as session:
            return {row[0].shop_id: Proposal(*row) for row in await session.execute(query)}

    async def of_shop(self, caller: Caller, shop_id: int) -> list[Proposal]:
        """The newest 50 proposals for a shop, newest first."""
        caller.require_shop(shop_id)
        query = _proposals().where(RouteChange.shop_id == shop_id)
        newest = query.order_by(RouteChange.created_at.desc(), RouteChange.id.desc()).limit(50)
        async with self.database.reading() as session:
            return [Proposal(*row) for row in await session.execute(newest)]

    async def propose(
        self, caller: Caller, person_id: int, shop_id: int, fields: Mapping[str, Any], *, version: int, reason: str
    ) -> RouteChange:
        """Record the change that a person wants on this version of a shop's route; nothing is changed yet.

        Raises:
            ShopNotConfigured: when there is no routing that the caller may change.
            InvalidInput, TokenOfAnotherBin: for a field that is wrong, and for a version that is not today's.
            RouteChangeWaits: when another change of the shop waits.
        """
        caller.require_shop(shop_id)
        checked = checked_fields(fields, self.routing.providers)
        try:
            async with self.database.transaction() as session:
                await one_at_a_time(session)
                row, now = await _locked(session, shop_id)
                if row.version != version:
                    raise InvalidInput("version", "has changed: look at the route of today")
                await self._end_overdue(session, row, now)
                change = RouteChange(
                    id=new_id(),
                    shop_id=shop_id,
                    on_version=row.version,
                    reason=reason[:500],
                    proposed_by=person_id,
                    expires_at=now + EXPIRES_AFTER,
                    device_token=row.device_token,
                    device_token_id=row.device_token_id,
                    **{name: checked.get(name, getattr(row, name)) for name in ROUTING_FIELDS},
                )
                today = await self.routing.tokens.of(session, row.device_token_id)
                token = checked.get("device_token", today)
                await self.routing.check_token(session, shop_id, change.organization_bin, token)
                if token != today:
                    kept = token and await self.routing.tokens.add(session, shop_id, token)
                    change.device_token_id, change.device_token = (kept.id, kept.masked) if kept else (None, None)
                session.add(change)
                await session.flush()
                await _record(session, "route-propose", change)
                _tell(session, EventType.ROUTE_PROPOSED, row, change)
        except IntegrityError as error:
            if is_duplicate(error):
                raise RouteChangeWaits(shop_id) from error
            raise
        return change

    async def confirm(self, caller: Caller, person_id: int, change_id: UUID) -> None:
        """Apply a change that somebody else proposed.

        Raises:
            RouteChangeNotFound: when there is none that the caller may see.
            ProposedByCaller: when the same person proposed it.
            RouteChangeOver: when it was decided, has expired, the route has changed since, or who proposed it is no
                administrator any more.
        """
        shop_id = await self._shop_of(caller, change_id)
        try:
            async with self.database.transaction() as session:
                await one_at_a_time(session)
                change, row, now = await self._decidable(session, shop_id, change_id)
                if change.proposed_by == person_id:
                    raise ProposedByCaller
                await _decide(session, change, "applied", now, person_id)
                await self.routing.apply(session, row, change)
        except IntegrityError as error:
            if constraint_of(error) != IN_TIME:
                raise
            raise RouteChangeOver from error
        self.routing.cache.forget(shop_id)

    async def refuse(self, caller: Caller, person_id: int, change_id: UUID) -> None:
        """End a change without applying it. Its proposer withdraws it this way.

        Raises:
            RouteChangeNotFound, RouteChangeOver: as for confirming.
        """
        shop_id = await self._shop_of(caller, change_id)
        async with self.database.transaction() as session:
            change, row, now = await self._decidable(session, shop_id, change_id)
            await _decide(session, change, "refused", now, person_id)
            _tell(session, EventType.ROUTE_REFUSED, row, change)

    # --- steps

    async def _shop_of(self, caller: Caller, change_id: UUID) -> int:
        async with self.database.reading() as session:
            shop_id = await session.scalar(select(RouteChange.shop_id).where(RouteChange.id == change_id))
        if shop_id is None or not caller.may_touch(shop_id):
            raise RouteChangeNotFound(change_id)
        return shop_id

    async def _decidable(
        self, session: AsyncSession, shop_id: int, change_id: UUID
    ) -> tuple[RouteChange, PaymentConfig, datetime]:
        """A change that waits, with the route that it is for, both locked, and the transaction's time."""
        row, now = await _locked(session, shop_id)
        change = await session.get_one(RouteChange, change_id, with_for_update=True)
        if change.state != "waiting" or _is_overdue(change, row, now):
            raise RouteChangeOver
        return change, row, now

    async def _end_overdue(self, session: AsyncSession, row: PaymentConfig, now: datetime) -> None:
        """End a change that can no longer be applied, so that it does not block a new one."""
        waiting = select(RouteChange).where(RouteChange.shop_id == row.shop_id, RouteChange.state == "waiting")
        change = await session.scalar(waiting.with_for_update())
        if change is not None and _is_overdue(change, row, now):
            await _decide(session, change, "overdue", now)


def _proposals() -> Select[RouteChange, str, str | None]:
    proposer, decider = aliased(Person), aliased(Person)
    return (
        select(RouteChange, proposer.email, decider.email)
        .join(proposer, proposer.id == RouteChange.proposed_by)
        .outerjoin(decider, decider.id == RouteChange.decided_by)
    )


async def _locked(session: AsyncSession, shop_id: int) -> tuple[PaymentConfig, datetime]:
    query = select(PaymentConfig, func.now()).where(PaymentConfig.shop_id == shop_id).with_for_update()
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise ShopNotConfigured(shop_id)
    return found[0], found[1]


def _is_overdue(change: RouteChange, row: PaymentConfig, now: datetime) -> bool:
    return now >= change.expires_at or row.version != change.on_version


async def _decide(
    session: AsyncSession,
    change: RouteChange,
    state: Literal["applied", "refused", "overdue"],
    now: datetime,
    person_id: int | None = None,
) -> None:
    operations = {"applied": "route-confirm", "refused": "route-refuse", "overdue": "route-overdue"}
    change.state, change.decided_at, change.decided_by = state, now, person_id
    await _record(session, operations[state], change)


async def _record(session: AsyncSession, operation_type: str, change: RouteChange) -> None:
    await audit.record_change(session, operation_type, change, reason=change.reason)


def _tell(session: AsyncSession, kind: EventType, row: PaymentConfig, change: RouteChange) -> None:
    """Write the event that a change was proposed or refused. Of a device token it says only whether it differs.

    Applying a change writes ``route.changed``, as any other change does.
    """
    shown = ("id", "shop_id", "on_version", "organization_bin", "provider", "is_active", "reason", "expires_at")
    outbox.write(
        session,
        kind,
        change.id,
        version=1 if kind is EventType.ROUTE_PROPOSED else 2,
        shop_id=change.shop_id,
        data={
            **{name: getattr(change, name) for name in shown},
            "organization_bin_today": row.organization_bin,
            "has_other_device_token": change.device_token_id != row.device_token_id,
            "actor": origin.get().actor,
        },
    )
