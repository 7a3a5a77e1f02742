"""Never twice: who asked for this before? By Idempotency-Key for good, and by likeness for a short window.

Everything here runs inside the transaction that writes the intent, and holds a lock until it ends, so that of any
number of equal requests one goes on and the others find it. What is found is judged by ``idempotency``.
"""

from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.errors import IdempotencyKeyReused
from payment_service.idempotency.models import IdempotencyClaim


async def take_key(session: AsyncSession, caller: str, key: str, fingerprint: str) -> IdempotencyClaim:
    """Claim a key, or wait for whoever claims it and return that claim, locked.

    Raises:
        IdempotencyKeyReused: when the key stands for another request.
    """
    await session.execute(
        insert(IdempotencyClaim)
        .values(caller=caller, idempotency_key=key, fingerprint=fingerprint)
        .on_conflict_do_nothing()
    )
    claim = await session.get_one(IdempotencyClaim, (caller, key), with_for_update=True)
    if claim.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    return claim


async def find_key(session: AsyncSession, caller: str, key: str, fingerprint: str) -> IdempotencyClaim | None:
    """The claim of a key, without taking it.

    Raises:
        IdempotencyKeyReused: when the key stands for another request.
    """
    claim = await session.get(IdempotencyClaim, (caller, key))
    if claim is not None and claim.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    return claim


async def lock_fingerprint(session: AsyncSession, fingerprint: str) -> None:
    """Let equal requests pass one at a time."""
    await _lock(session, fingerprint)


async def lock_order(session: AsyncSession, shop_id: int, order_id: str) -> None:
    """Let requests for one order pass one at a time."""
    await _lock(session, f"order {shop_id} {order_id}")


async def _lock(session: AsyncSession, name: str) -> None:
    await session.execute(select(text("pg_advisory_xact_lock(hashtextextended(:name, 0))")), {"name": name})


def point_to(claim: IdempotencyClaim | None, operation_id: UUID) -> None:
    """Let the key stand for this operation."""
    if claim is not None:
        claim.operation_id = operation_id
