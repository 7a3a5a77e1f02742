"""Passwords: which are accepted, and their Argon2id hashes. Imported when somebody signs in, not when a program starts.

Hashing is expensive by design and shares the machine with payments: it runs in a thread, one at a time, with the least
memory and the one lane that OWASP's password storage cheat sheet gives (19 MiB, two passes: about 27 ms).
"""

import asyncio
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from payment_service.errors import InvalidInput

SHORTEST: Final = 10
LONGEST: Final = 200
_SHORT_NAME: Final = 3
"""A name as short as this may be in a password by chance."""
_hasher: Final = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_DUMMY_HASH: Final = _hasher.hash("the password of nobody")
"""Verified when there is no account, so that the answer takes as long as with one."""
_one_at_a_time: Final = asyncio.Semaphore(1)


def checked_password(password: str, *, email: str) -> str:
    """Return a password that may be used.

    Raises:
        InvalidInput: for one that is too short, too long, or holds the name of the account.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise InvalidInput("password", f"has {SHORTEST} to {LONGEST} characters")
    name = email.partition("@")[0]
    if (len(name) > _SHORT_NAME and name in password.lower()) or len(set(password)) < SHORTEST // 2:
        raise InvalidInput("password", "is too easy to guess: it repeats itself, or holds the name of the account")
    return password


async def hash_of(password: str) -> str:
    """The hash of a password, for storing."""
    async with _one_at_a_time:
        return await asyncio.to_thread(_hasher.hash, password)


async def is_right(password_hash: str | None, password: str) -> bool:
    """Whether it is the password; never when there is none."""
    async with _one_at_a_time:
        verified = await asyncio.to_thread(_verify, password_hash or _DUMMY_HASH, password[:LONGEST])
    return verified and password_hash is not None


def _verify(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
