"""The vault: encryption of secrets at rest.

Owns the encryption keys (setting ``ENCRYPTION_KEYS``, Fernet keys, the newest first). The first key writes, every
key reads: that is what lets a key be rotated without downtime (docs: README, "Rotating the encryption key").

A secret is bound to its place: the name of its row and of its purpose is encrypted with it, so that a ciphertext that
was copied into another row does not open there. What was written before that is still read, until it is rotated.
"""

from collections.abc import Sequence
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_BOUND: Final = "v2:"
_EDGE: Final = "\0"
"""Begins and ends the place. No secret of before began so."""


class VaultError(Exception):
    """A ciphertext that none of the configured keys opens, or that was written for another place."""


class Vault:
    """Encrypts and decrypts with the keys it was given, newest first."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def encrypt(self, text: str, place: str) -> str:
        """Encrypt with the newest key, for one place: the row and the purpose, such as ``device_token/7``."""
        return _BOUND + self._fernet.encrypt(f"{_EDGE}{place}{_EDGE}{text}".encode()).decode()

    def decrypt(self, ciphertext: str, place: str) -> str:
        """Decrypt with whichever key fits what was encrypted for this place, or before secrets had places.

        Raises:
            VaultError: when no key fits, or the place is another one.
        """
        try:
            text = self._fernet.decrypt(ciphertext.removeprefix(_BOUND)).decode()
        except (InvalidToken, ValueError) as error:  # a ValueError when it is not even ASCII
            raise VaultError(f"None of the ENCRYPTION_KEYS opens {place}: use the key that wrote it.") from error
        if not ciphertext.startswith(_BOUND) and not text.startswith(_EDGE):
            return text
        bound = f"{_EDGE}{place}{_EDGE}"
        if not (ciphertext.startswith(_BOUND) and text.startswith(bound)):
            raise VaultError(f"The stored secret of {place} was written for another row and was moved here.")
        return text.removeprefix(bound)

    def rotate(self, ciphertext: str, place: str) -> str:
        """Encrypt again with the newest key, bound to its place.

        Raises:
            VaultError: when no key opens it there.
        """
        return self.encrypt(self.decrypt(ciphertext, place), place)


def new_key() -> str:
    """A new key for ``ENCRYPTION_KEYS``."""
    return Fernet.generate_key().decode()
