"""Device tokens, encrypted at rest, each bound to its row. A payment refers to its token for ever."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from payment_service.audit import service as audit
from payment_service.identifiers import masked
from payment_service.postgres.vault import Vault
from payment_service.routing.models import DeviceToken


@dataclass(frozen=True, slots=True)
class DeviceTokens:
    """The device tokens of all shops."""

    vault: Vault

    async def of(self, session: AsyncSession, device_token_id: int | None) -> str | None:
        """A token that a payment or a proposed change refers to, in the clear; none without one."""
        if device_token_id is None:
            return None
        return self.open(await session.get_one(DeviceToken, device_token_id))

    def open(self, token: DeviceToken) -> str:
        """A token in the clear."""
        return self.vault.decrypt(token.ciphertext, _context(token.id))

    async def add(self, session: AsyncSession, shop_id: int, device_token: str) -> DeviceToken:
        """Store a token, encrypted, in the caller's transaction."""
        # Its id first: the token is encrypted for this row and no other.
        token_id = await session.scalar(select(func.nextval(func.pg_get_serial_sequence("device_token", "id"))))
        ciphertext = self.vault.encrypt(device_token, _context(token_id))
        token = DeviceToken(id=token_id, ciphertext=ciphertext, masked=masked(device_token))
        session.add(token)
        await audit.record_change(session, "token-create", DeviceToken.__tablename__, token_id, shop_id=shop_id)
        return token

    async def rotate(self, session: AsyncSession) -> int:
        """Encrypt every token again with the newest key, in the caller's transaction; returns how many."""
        tokens = list(await session.scalars(select(DeviceToken).with_for_update()))
        for token in tokens:
            token.ciphertext = self.vault.rotate(token.ciphertext, _context(token.id))
            await audit.record_change(session, "secrets-rotate", DeviceToken.__tablename__, token.id)
        return len(tokens)


def _context(token_id: int | None) -> str:
    return f"{DeviceToken.__tablename__}/{token_id}"
