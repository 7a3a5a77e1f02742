"""Which device token belongs to which BIN. Owns the tokens file; says nothing about payments."""

import json
import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

log = logging.getLogger(__name__)


class Merchants:
    """The registered merchants: those given at the start and those in the tokens file, as it is now.

    A token that the file no longer names stays known as inactive: Kaspi tells the two apart (-1501 and -1502).
    """

    def __init__(self, given: Mapping[str, AbstractSet[str]], tokens_file: Path | None) -> None:
        self._given = {organization_bin: frozenset(tokens) for organization_bin, tokens in given.items()}
        self._tokens_file = tokens_file
        self._stamp: tuple[int, int, int] | None = None
        self._active: dict[str, frozenset[str]] = dict(self._given)
        self._ever: set[str] = set().union(*self._given.values())

    def bins(self) -> list[str]:
        """All BINs that are registered now."""
        self._refresh()
        return sorted(self._active)

    def refusal(self, organization_bin: str, device_token: str | None) -> int | None:
        """Kaspi's code for a BIN or a token that does not fit, None when both do. A token is checked only if given."""
        self._refresh()
        tokens = self._active.get(organization_bin)
        if tokens is None:
            return -99000002
        if device_token is None or device_token in tokens:
            return None
        if any(device_token in others for others in self._active.values()):
            return -99000003
        return -1502 if device_token in self._ever else -1501

    def _refresh(self) -> None:
        if self._tokens_file is None:
            return
        try:
            stat = self._tokens_file.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            listed = _tokens(self._tokens_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            # A file caught half-written; what was known before still holds, and the next change is read again.
            log.warning("tokens file not read: %s", type(error).__name__)
            return
        self._active = {
            organization_bin: self._given.get(organization_bin, frozenset()) | listed.get(organization_bin, frozenset())
            for organization_bin in self._given.keys() | listed.keys()
        }
        self._ever.update(*self._active.values())


def _tokens(text: str) -> dict[str, frozenset[str]]:
    listed = json.loads(text)
    if not isinstance(listed, dict) or not all(isinstance(tokens, list) for tokens in listed.values()):
        raise ValueError("The tokens file must be a JSON object of lists.")
    return {organization_bin: frozenset(map(str, tokens)) for organization_bin, tokens in listed.items()}
