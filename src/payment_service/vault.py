"""The vault: encryption of secrets at rest.

Owns the encryption keys (setting ``ENCRYPTION_KEYS``, Fernet keys, the newest first). The first key writes, every
key reads: that is what lets a key be rotated without downtime (docs: README, "Rotating the encryption key").
"""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class VaultError(Exception):
    """A ciphertext that none of the configured keys opens."""


class Vault:
    """Encrypts and decrypts with the keys it was given, newest first."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def encrypt(self, text: str) -> str:
        """Encrypt with the newest key."""
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, ciphertext: str) -> str:
        """Decrypt with whichever key fits.

        Raises:
            VaultError: when none does.
        """
        try:
            return self._fernet.decrypt(ciphertext).decode()
        except (InvalidToken, ValueError) as error:  # a ValueError when it is not even ASCII
            raise VaultError("none of the ENCRYPTION_KEYS opens a stored secret") from error

    def rotate(self, ciphertext: str) -> str:
        """Encrypt anew with the newest key.

        Raises:
            VaultError: when no key opens it.
        """
        return self.encrypt(self.decrypt(ciphertext))


def new_key() -> str:
    """A fresh key for ``ENCRYPTION_KEYS``."""
    return Fernet.generate_key().decode()
