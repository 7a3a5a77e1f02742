"""The vault: encryption of secrets at rest.

Owns the encryption keys (setting ``ENCRYPTION_KEYS``, Fernet keys, the newest first). The first key writes, every
key reads: that is what lets a key be rotated without downtime (docs: README, "Rotating the encryption key").

A secret is bound to its context, which names its row and its purpose and is encrypted with it: a ciphertext that was
copied into another row cannot be decrypted there. Secrets written before that are still read, until they are rotated.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_BOUND: Final = "v2:"
_EDGE: Final = "\0"
"""Begins and ends the context. No secret from before there were contexts begins with it."""
_REMEMBERED: Final = 1000


class VaultError(Exception):
    """A ciphertext that none of the configured keys opens, or that was written for another context."""


class Vault:
    """Encrypts and decrypts with the keys it was given, newest first."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self.open = lru_cache(_REMEMBERED)(self.decrypt)
        """As ``decrypt``, and it remembers: for secrets that are used again and again."""

    def encrypt(self, text: str, context: str) -> str:
        """Encrypt with the newest key, for one context: the row and the purpose, such as ``device_token/7``."""
        return _BOUND + self._fernet.encrypt(f"{_EDGE}{context}{_EDGE}{text}".encode()).decode()

    def decrypt(self, ciphertext: str, context: str) -> str:
        """Decrypt with whichever key fits what was encrypted for this context, or before there were contexts.

        Raises:
            VaultError: when no key fits, or the context is another one.
        """
        try:
            text = self._fernet.decrypt(ciphertext.removeprefix(_BOUND)).decode()
        except (InvalidToken, ValueError) as error:  # a ValueError when it is not even ASCII
            raise VaultError(f"None of the ENCRYPTION_KEYS opens {context}: use the key that wrote it.") from error
        if not ciphertext.startswith(_BOUND) and not text.startswith(_EDGE):
            return text
        bound = f"{_EDGE}{context}{_EDGE}"
        if not (ciphertext.startswith(_BOUND) and text.startswith(bound)):
            raise VaultError(f"The stored secret of {context} was written for another row and was moved here.")
        return text.removeprefix(bound)

    def rotate(self, ciphertext: str, context: str) -> str:
        """Encrypt again with the newest key, bound to its context.

        Raises:
            VaultError: when no key opens it in that context.
        """
        return self.encrypt(self.decrypt(ciphertext, context), context)


def new_key() -> str:
    """A new key for ``ENCRYPTION_KEYS``."""
    return Fernet.generate_key().decode()
