"""Holds back payments and refunds while the database may have lost committed rows.

The rows are the only record of what was sent, so nothing new is sent from a database that no person has released: a
copy, a restored backup, a replica that was promoted. The database itself refuses the intents (migrations 0012, 0018
and 0027); this module says why, holds by hand and releases. Replayed requests are still answered, and status readings
go on.

Nor is a database used with another provider than before: a stand-in, or the proxy of a test environment, would report
its payments as paid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.idempotency.models import SendingHold
from payment_service.languages import mark
from payment_service.observability.context import origin
from payment_service.postgres.database import Database

NOT_HELD: Final = "sending_is_not_held"
"""The rule that an intent violates while sending is held."""


class OtherProviderError(Exception):
    """This database has the payments of a provider that is reached elsewhere."""


class NotSynchronousError(Exception):
    """Nothing waits for a replica here, so none has every row."""


class HoldReason(StrEnum):
    """Why sending is held."""

    HELD = "held"
    OTHER_SYSTEM = "other_system"
    OTHER_TIMELINE = "other_timeline"
    OTHER_DATABASE = "other_database"
    NOT_SYNCHRONOUS = "not_synchronous"


HOLD_TEXTS: Final[Mapping[HoldReason, str]] = MappingProxyType(
    {
        HoldReason.HELD: mark("held by a person"),
        HoldReason.OTHER_SYSTEM: mark("held: this is a copy of the database"),
        HoldReason.OTHER_TIMELINE: mark("held: a replica took over, or a backup was restored"),
        HoldReason.OTHER_DATABASE: mark("held: a dump was loaded, or this is a copy"),
        HoldReason.NOT_SYNCHRONOUS: mark("held: replication is not synchronous any more"),
    }
)
"""The reasons as people read them; the console's catalogues translate them."""


@dataclass(frozen=True, slots=True)
class SendingStatus:
    """Whether anything may be sent, and what the database is."""

    hold_reason: HoldReason | None
    """None: it may be sent."""
    latest: SendingHold
    system_identifier: int
    timeline: int
    fsync: bool
    """Whether PostgreSQL writes to the disk what it reports as committed."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Holds and releases payments and refunds, for every process of this database."""

    database: Database
    provider: str | None = None
    """Where the provider is reached; none for a stand-in on this machine, which is not remembered."""

    async def check_provider(self) -> None:
        """Check that the provider is the one that made this database's payments. The first one is remembered.

        Raises:
            OtherProviderError: when it is another one. A copy of a database, which sends nothing, may have any.
        """
        async with self.database.transaction() as session:
            if (await _latest(session)).provider == self.provider:
                return
            await session.execute(select(func.one_at_a_time("sending provider")))
            hold_reason, latest = await _hold_reason(session), await _latest(session)
            if hold_reason not in {None, HoldReason.HELD} or latest.provider == self.provider:
                return
            if latest.provider is not None:
                raise self._other_provider(latest.provider)
            if hold_reason is None:
                await _add(
                    session,
                    "the provider's first address",
                    replicas_have_all=latest.replicas_have_all,
                    provider=self.provider,
                )

    async def follow_promotion(self) -> None:
        """Remember a promoted replica that had every row, while PostgreSQL still knows it: until its next start.

        Where nothing waits for a replica of its own, the next promotion needs a release.
        """
        async with self.database.transaction() as session:
            if not await _is_promoted(session):
                return
            await session.execute(select(func.one_at_a_time("sending promoted")))
            if await _is_promoted(session) and await _hold_reason(session) is None:
                await _add(
                    session,
                    "a replica that had every row took over",
                    replicas_have_all=bool(await session.scalar(select(func.is_synchronous()))),
                    provider=(await _latest(session)).provider,
                )

    async def hold_reason(self) -> HoldReason | None:
        """Why nothing may be sent; none when it may."""
        async with self.database.reading() as session:
            return await _hold_reason(session)

    async def status(self) -> SendingStatus:
        """Whether anything may be sent, and what the database is."""
        async with self.database.reading() as session:
            hold_reason = await _hold_reason(session)
            latest = await _latest(session)
            facts = select(func.this_system(), func.this_timeline(), func.current_setting("fsync"))
            system_identifier, timeline, fsync = (await session.execute(facts)).one()
        return SendingStatus(hold_reason, latest, system_identifier, timeline, fsync == "on")

    async def hold(self, reason: str) -> None:
        """Send nothing once this transaction is committed. Each person who holds is recorded, with the reason."""
        async with self.database.transaction() as session:
            await hold(session, reason)

    async def release(
        self, reason: str, *, replicas_have_all: bool = False, proxy_moved: bool = False
    ) -> Sequence[SendingHold]:
        """Send again from the database as it is now: it holds all that was sent before.

        Returns the holds that it ends, of whomever they are. ``replicas_have_all``: replication is synchronous, so that
        a promoted replica needs no release of its own. ``proxy_moved``: the provider is reached elsewhere from now on.

        Raises:
            NotSynchronousError: when it is not.
            OtherProviderError: when the provider is another one, and has not moved.
        """
        async with self.database.transaction() as session:
            if replicas_have_all and not await session.scalar(select(func.is_synchronous())):
                raise NotSynchronousError(
                    "Replication is not synchronous: synchronous_standby_names is empty on this server, so that a "
                    "replica may lack what was sent. Set it, or release without --replicas-have-all."
                )
            await _one_at_a_time(session)
            provider = (await _latest(session)).provider
            if provider not in {None, self.provider} and not proxy_moved:
                raise self._other_provider(provider)
            released = select(func.max(SendingHold.id)).where(~SendingHold.is_held).scalar_subquery()
            holds = select(SendingHold).where(SendingHold.id > released).order_by(SendingHold.id)
            ended = (await session.scalars(holds)).all()
            await _add(session, reason, replicas_have_all=replicas_have_all, provider=self.provider)
        return ended

    def _other_provider(self, provider: str | None) -> OtherProviderError:
        return OtherProviderError(
            f"PRODUCTION_API_URL is {self.provider or 'a stand-in on this machine'}, and the payments in this "
            f"database were made at {provider}: states read elsewhere would be written over theirs. "
            "Set the right PRODUCTION_API_URL or DATABASE_URL. If the proxy has moved, say so with the new "
            "address set: payment-service sending release --proxy-moved --reason '...'"
        )


async def hold(session: AsyncSession, reason: str) -> None:
    """Send nothing once this transaction is committed. Who has said the same before does not hold twice."""
    await _one_at_a_time(session)
    latest = await _latest(session)
    if not (latest.is_held and (latest.actor, latest.reason) == (origin.get().actor, reason)):
        await _write(session, SendingHold(is_held=True, provider=latest.provider), reason)


async def _one_at_a_time(session: AsyncSession) -> None:
    """Serialise holding and releasing: the newest row counts, so none may be written beside another one."""
    await session.execute(select(func.one_at_a_time("sending hold")))


async def allow_restoring(session: AsyncSession) -> None:
    """Let this transaction write the intent of a call that was made, although sending is held."""
    await session.execute(select(func.set_config("payment_service.restoring", "on", True)))


async def _add(session: AsyncSession, reason: str, *, replicas_have_all: bool, provider: str | None) -> None:
    await _one_at_a_time(session)
    release = SendingHold(is_held=False, replicas_have_all=replicas_have_all, provider=provider)
    await _write(session, release, reason)


async def _hold_reason(session: AsyncSession) -> HoldReason | None:
    reason = await session.scalar(select(func.sending_held_because()))
    return None if reason is None else HoldReason(reason)


async def _latest(session: AsyncSession) -> SendingHold:
    # The migration wrote the first one, and rows are never deleted.
    return (await session.scalars(select(SendingHold).order_by(SendingHold.id.desc()).limit(1))).one()


async def _is_promoted(session: AsyncSession) -> bool:
    """Whether the timeline is another one than that of the last release, which said that replicas have every row."""
    latest = await _latest(session)
    return latest.replicas_have_all and latest.timeline != await session.scalar(select(func.this_timeline()))


async def _write(session: AsyncSession, row: SendingHold, reason: str) -> None:
    row.actor, row.reason = origin.get().actor, reason
    session.add(row)
    await audit.record(session, "sending-hold" if row.is_held else "sending-release", reason=reason)
