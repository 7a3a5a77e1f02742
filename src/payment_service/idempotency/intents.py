"""What the intent statements of payments and refunds have in common (migration 0009)."""

import asyncpg

from payment_service.errors import DatabaseUnavailable, IdempotencyKeyReused, NotAuthenticated
from payment_service.idempotency.decisions import Earlier


def earlier_of(intent: asyncpg.Record) -> Earlier:
    """The earlier request that is the obstacle to an intent.

    Raises:
        NotAuthenticated: the key was revoked meanwhile.
        IdempotencyKeyReused: the Idempotency-Key stands for another request.
        DatabaseUnavailable: it took too long, and nothing was inserted.
    """
    match intent["obstacle"]:
        case "api_key_revoked":
            raise NotAuthenticated
        case "key_reused":
            raise IdempotencyKeyReused(intent["earlier"], intent["state"])
        case "too_late":
            raise DatabaseUnavailable
    return Earlier(intent["state"], intent["failure"], age_s=intent["age_s"], known_s=intent["known_s"])
