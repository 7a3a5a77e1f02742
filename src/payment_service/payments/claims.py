"""Never twice: who asked for this before? By Idempotency-Key for good, and by likeness for a short window.

Everything here runs inside the transaction that writes the intent, and holds a lock until it ends, so that of any
number of equal requests one goes on and the others find it.
"""

import json
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.errors import IdempotencyKeyReused
from payment_service.payments.models import IdempotencyClaim


@dataclass(frozen=True, slots=True)
class Likeness:
    """What makes two requests the same: a keyed digest of their words, once for each key of the vault."""

    digests: tuple[str, ...]

    @property
    def written(self) -> str:
        """The digest to keep: that of the newest key."""
        return self.digests[0]


def canonical(*words: object) -> str:
    """Words as one text that no other words give."""
    return json.dumps([None if word is None else str(word) for word in words], ensure_ascii=False)


async def take_key(session: AsyncSession, caller: str, key: str, likeness: Likeness) -> IdempotencyClaim:
    """Claim a key, or wait for whoever claims it and return that claim, locked.

    Raises:
        IdempotencyKeyReused: when the key stands for another request.
    """
    await session.execute(
        insert(IdempotencyClaim)
        .values(caller=caller, idempotency_key=key, fingerprint=likeness.written)
        .on_conflict_do_nothing()
    )
    claim = await session.get_one(IdempotencyClaim, (caller, key), with_for_update=True)
    if claim.fingerprint not in likeness.digests:
        raise IdempotencyKeyReused
    return claim


async def find_key(session: AsyncSession, caller: str, key: str, likeness: Likeness) -> IdempotencyClaim | None:
    """The claim of a key, without taking it.

    Raises:
        IdempotencyKeyReused: when the key stands for another request.
    """
    claim = await session.get(IdempotencyClaim, (caller, key))
    if claim is not None and claim.fingerprint not in likeness.digests:
        raise IdempotencyKeyReused
    return claim


async def lock_likeness(session: AsyncSession, likeness: Likeness) -> None:
    """Let equal requests without a key pass one at a time."""
    # The digest of the oldest key: processes that differ in the newest one must still take the same lock.
    await _lock(session, likeness.digests[-1])


async def lock_order(session: AsyncSession, shop_id: int, order_id: str) -> None:
    """Let requests for one order pass one at a time."""
    await _lock(session, canonical("order", shop_id, order_id))


async def _lock(session: AsyncSession, name: str) -> None:
    await session.execute(select(text("pg_advisory_xact_lock(hashtextextended(:name, 0))")), {"name": name})


def point_to(claim: IdempotencyClaim | None, operation_id: UUID) -> None:
    """Let the key stand for this operation."""
    if claim is not None:
        claim.operation_id = operation_id
