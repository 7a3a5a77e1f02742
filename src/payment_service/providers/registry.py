"""The providers by name: which there are, and which one makes and reads each payment."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from payment_service.providers import kaspi
from payment_service.providers.interface import Provider, Remedy
from payment_service.providers.kaspi.mapping import remedy_of as remedy_of_kaspi

DEFAULT: Final = kaspi.NAME
"""The provider of whatever names none: a shop's routing, a report, a path from before there were several."""
NAMES: Final = (kaspi.NAME,)
"""Every provider that this code has a client for."""


_REMEDIES: Final[Mapping[str, Callable[[str | None], Remedy | None]]] = {kaspi.NAME: remedy_of_kaspi}


def remedy_of(provider: str, code: str | None) -> Remedy | None:
    """What helps against a provider's refusal with this code; none when that is not known."""
    return _REMEDIES[provider](code) if provider in _REMEDIES else None


class Registry(Mapping[str, Provider]):
    """The providers of this process, and the secrets that their hints are signed with."""

    def __init__(self) -> None:
        self._providers: dict[str, Provider] = {}
        self._hint_secrets: dict[str, str] = {}

    def register(self, name: str, provider: Provider, *, hint_secret: str | None = None) -> None:
        """Add a provider. Without a secret its hints are not accepted.

        Raises:
            ValueError: when there is one of that name.
        """
        if name in self._providers:
            raise ValueError(f"there is a provider {name} already")
        self._providers[name] = provider
        if hint_secret is not None:
            self._hint_secrets[name] = hint_secret

    def hint_secret(self, name: str) -> str | None:
        """The secret that signs the hints of this provider; none when it has none, or is unknown."""
        return self._hint_secrets.get(name)

    def __getitem__(self, name: str) -> Provider:
        return self._providers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)
