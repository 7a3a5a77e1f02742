"""Rate limits of sign-in attempts: per account and per address over all processes, and in total per process.

The total is counted in memory, before anything else is done: hashing a password is expensive. Accounts and addresses
are rows named by a digest; an account that does not exist is counted alike.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy import Float, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.access.models import SignInLimit
from payment_service.access.service import digest_of
from payment_service.errors import RateLimited
from payment_service.postgres.database import Database
from payment_service.rates import Exceeded, Rate, RateLimiter, network_of

_WINDOW_S: Final = 900
OF_ACCOUNT: Final = Rate(10, _WINDOW_S)
OF_ADDRESS: Final = Rate(30, _WINDOW_S)
IN_ALL: Final = Rate(120, 60)
_FORGOTTEN_AT_ONCE: Final = 100
"""More than one attempt inserts, so that there are never more rows than attempts of one window."""


@dataclass(frozen=True, slots=True)
class SignInLimits:
    """Counts attempts to sign in."""

    database: Database
    on: bool = True
    _in_all: RateLimiter = field(default_factory=lambda: RateLimiter(IN_ALL))

    async def take(self, address: str, email: str | None = None) -> None:
        """Count an attempt, for its address and, where it is known, its account.

        Raises:
            RateLimited: when it is one too many; then it is not counted.
        """
        if not self.on:
            return
        if (exceeded := self._in_all.take("")) is not None:
            raise _limited(exceeded)
        async with self.database.transaction() as session:
            for name, rate in _buckets(address, email):
                if (exceeded := await _take(session, name, rate)) is not None:
                    raise _limited(exceeded)
            await _forget(session)

    async def give_back(self, address: str, email: str | None = None) -> None:
        """Undo the count of an attempt that succeeded."""
        if not self.on:
            return
        async with self.database.transaction() as session:
            for name, rate in _buckets(address, email):
                undone = SignInLimit.full_at - _step(rate)
                await session.execute(update(SignInLimit).where(SignInLimit.name == name).values(full_at=undone))


def _buckets(address: str, email: str | None) -> list[tuple[str, Rate]]:
    """The buckets of an attempt, in a fixed order, so that two attempts never deadlock."""
    of_account = [] if email is None else [(digest_of(f"account {email}"), OF_ACCOUNT)]
    return sorted([(digest_of(f"address {network_of(address)}"), OF_ADDRESS), *of_account])


async def _take(session: AsyncSession, name: str, rate: Rate) -> Exceeded | None:
    """Take one from a bucket, unless it is empty (as ``rates.RateLimiter`` does). Its row is locked from here on."""
    now = func.now()
    locked = insert(SignInLimit).values(name=name, full_at=now)
    locked = locked.on_conflict_do_update(index_elements=["name"], set_={"full_at": SignInLimit.full_at})
    left_s = func.extract("epoch", SignInLimit.full_at - now).cast(Float)
    held_s: float = (await session.execute(locked.returning(left_s))).scalar_one()
    # Further ahead than a window: written while the clock was ahead.
    begins_s = held_s if 0 < held_s <= rate.window_s else 0
    full_s = begins_s + _step(rate).total_seconds()
    if full_s > rate.window_s:
        return Exceeded(rate, full_s - rate.window_s)
    taken = update(SignInLimit).where(SignInLimit.name == name).values(full_at=now + timedelta(seconds=full_s))
    await session.execute(taken)
    return None


async def _forget(session: AsyncSession) -> None:
    """Delete some of the buckets that are full again, except those that are locked."""
    full = select(SignInLimit.name).where(SignInLimit.full_at < func.now()).limit(_FORGOTTEN_AT_ONCE)
    await session.execute(delete(SignInLimit).where(SignInLimit.name.in_(full.with_for_update(skip_locked=True))))


def _step(rate: Rate) -> timedelta:
    return timedelta(seconds=rate.window_s / rate.quota)


def _limited(exceeded: Exceeded) -> RateLimited:
    return RateLimited("sign-in", "Attempts to sign in", exceeded)
