"""A keyed digest of the content of a request: equal requests have equal fingerprints.

Keyed, because the content includes a phone number, and there are few enough of those to try them all. The key is
random, made once, and kept in the database under the vault's encryption: it outlives every rotation of the vault's
keys, so every process recognises a request for as long as its payment is kept.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import SmallInteger, Text, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from payment_service.audit import service as audit
from payment_service.postgres.database import Base, Database, Stamp
from payment_service.postgres.vault import Vault

_CONTEXT: Final = "fingerprint_key/1"


class FingerprintKey(Base):
    """The one key, encrypted."""

    __tablename__ = "fingerprint_key"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    ciphertext: Mapped[str] = mapped_column(Text)
    created_at: Mapped[Stamp]


@dataclass(slots=True)
class Fingerprints:
    """Takes fingerprints of requests."""

    database: Database
    vault: Vault
    _key: bytes | None = field(default=None, repr=False)

    async def of(self, *values: object) -> str:
        """The fingerprint of these values, in this order: 64 hexadecimal digits.

        Raises:
            VaultError: when the vault's keys do not open the fingerprint key.
        """
        key = self._key or await self._load()
        text = json.dumps([None if value is None else str(value) for value in values], ensure_ascii=False)
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    async def _load(self) -> bytes:
        """Read the key, or create it: of several processes that start at once, one does."""
        made = {"id": 1, "ciphertext": self.vault.encrypt(secrets.token_hex(32), _CONTEXT)}
        make = insert(FingerprintKey).values(made).on_conflict_do_nothing().returning(FingerprintKey.id)
        async with self.database.transaction() as session:
            is_new = await session.scalar(make) is not None
            row = await session.get_one(FingerprintKey, 1)
            if is_new:
                await audit.record_change(session, "secrets-create", row)
        self._key = bytes.fromhex(self.vault.decrypt(row.ciphertext, _CONTEXT))
        return self._key

    async def rotate(self, session: AsyncSession) -> None:
        """Encrypt the key again with the newest key of the vault, in the caller's transaction."""
        row = await session.scalar(select(FingerprintKey).with_for_update())
        if row is not None:
            row.ciphertext = self.vault.rotate(row.ciphertext, _CONTEXT)
            await audit.record_change(session, "secrets-rotate", row)
