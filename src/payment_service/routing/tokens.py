"""Device tokens, encrypted at rest, each bound to its row. A payment refers to its token for ever."""

from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.identifiers import MASK, masked
from payment_service.postgres.vault import Vault, VaultError
from payment_service.routing.models import DeviceToken


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A device token that none of the ENCRYPTION_KEYS opens.

    It is not a missing one: without a token Kaspi would be asked for a payment all the same.
    """

    masked: str


Token: TypeAlias = str | Unreadable
"""A device token in the clear, or what is left of it."""


def masked_token(token: Token | None) -> str | None:
    """What is shown of a device token; none for none."""
    match token:
        case None:
            return None
        case Unreadable():
            return token.masked
        case _:
            return masked(token)


@dataclass(frozen=True, slots=True)
class DeviceTokens:
    """The device tokens of all shops."""

    vault: Vault

    async def of(self, session: AsyncSession, device_token_id: int | None) -> Token | None:
        """A token that a payment or a proposed change refers to; none without one."""
        if device_token_id is None:
            return None
        return self.open(await session.get_one(DeviceToken, device_token_id))

    def open(self, token: DeviceToken) -> Token:
        """A token in the clear, where the keys open it."""
        try:
            return self.vault.open(token.ciphertext, _context(token.id))
        except VaultError:
            return Unreadable(token.masked)

    async def add(self, session: AsyncSession, shop_id: int, device_token: str) -> DeviceToken:
        """Store a token, encrypted, in the caller's transaction."""
        # Its id first: the token is encrypted for this row and no other.
        token_id = await session.scalar(select(func.nextval(func.pg_get_serial_sequence("device_token", "id"))))
        ciphertext = self.vault.encrypt(device_token, _context(token_id))
        token = DeviceToken(id=token_id, ciphertext=ciphertext, masked=masked(device_token))
        session.add(token)
        await audit.record_change(session, "token-create", token, shop_id=shop_id)
        return token

    async def rotate(self, session: AsyncSession) -> tuple[int, int]:
        """Encrypt every token again with the newest key, in the caller's transaction.

        Returns how many were, and how many stay as they are: no key opens them, and payments refer to them for ever.
        """
        tokens = [(token, self.open(token)) for token in await session.scalars(select(DeviceToken).with_for_update())]
        readable = [(token, opened) for token, opened in tokens if isinstance(opened, str)]
        for token, opened in readable:
            token.ciphertext = self.vault.encrypt(opened, _context(token.id))
            await audit.record_change(session, "secrets-rotate", token)
        return len(readable), len(tokens) - len(readable)


def may_be_same(one: Token, other: Token) -> bool:
    """Whether two are one token: a UUID may be read without its dashes, and in either case.

    Of one that cannot be read the beginning is known.
    """
    ones, others = _known_of(one), _known_of(other)
    if isinstance(one, Unreadable) or isinstance(other, Unreadable):
        return ones.startswith(others) or others.startswith(ones)
    return ones == others


def _known_of(token: Token) -> str:
    text = token.masked.removesuffix(MASK) if isinstance(token, Unreadable) else token
    return text.replace("-", "").lower()


def _context(token_id: int | None) -> str:
    return f"{DeviceToken.__tablename__}/{token_id}"
