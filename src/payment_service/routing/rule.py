"""Whether changes of where money goes need two people. The database enforces it; only its owner sets it."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.postgres.database import Database
from payment_service.routing.models import RouteRule


async def needs_two(session: AsyncSession) -> bool:
    """Whether a change of where money goes needs two people."""
    return bool(await session.scalar(select(RouteRule.needs_two)))


async def set_needs_two(database: Database, *, needs_two: bool) -> bool:
    """Record whether a change of where money goes needs two people; returns whether that is new.

    Only the owner of the tables may.
    """
    async with database.transaction() as session:
        rule = await session.get(RouteRule, 1, with_for_update=True)
        if needs_two == (rule is not None and rule.needs_two):
            return False
        if rule is None:
            rule = RouteRule(id=1)
            session.add(rule)
        rule.needs_two = needs_two
        await audit.record_change(session, "route-rule", rule)
    return True
