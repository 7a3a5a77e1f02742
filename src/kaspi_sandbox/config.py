"""What the stand-in is told at its start. Owns the checks that make it refuse to start; reads nothing itself."""

import ipaddress
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

#: A made-up account of the marketplace itself, with a valid checksum.
MARKETPLACE_BIN = "140540001231"

_BIN = re.compile(r"\d{12}")


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxConfig:
    """Settings of one stand-in; durations are in seconds.

    A host that others can reach, an empty access token or a BIN that is not 12 digits raises `ValueError`.
    """

    access_token: str = field(repr=False)
    #: BIN -> the device tokens registered for it.
    merchants: Mapping[str, AbstractSet[str]] = field(default_factory=dict, repr=False)
    #: JSON `{"<bin>": ["token", ...]}`, read again whenever it changes; may appear after the start.
    tokens_file: Path | None = None
    #: Who is paid when a call names no BIN: as the real proxy does, silently.
    default_merchant: str = MARKETPLACE_BIN
    host: str = "127.0.0.1"
    port: int = 8016
    #: How long the customer takes to pay.
    pay_after_s: float = 6.0
    #: The caller's total deadline: a late answer comes after 1.25 of it, a dripping one takes 1.5 of it.
    deadline_s: float = 8.0
    #: How long a call that is never answered is held before its connection is dropped.
    hang_s: float = 60.0
    #: JSON lines; what was applied survives a restart, and no id is ever given twice.
    ledger_file: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_loopback(self.host):
            raise ValueError(f"The stand-in listens on loopback only, not on {self.host}: use 127.0.0.1.")
        if not self.access_token:
            raise ValueError("The stand-in needs an access token: the one that the service sends.")
        if min(self.pay_after_s, self.deadline_s, self.hang_s) < 0:
            raise ValueError("pay_after_s, deadline_s and hang_s are seconds and cannot be negative.")
        for organization_bin in (*self.merchants, self.default_merchant):
            if not _BIN.fullmatch(organization_bin):
                raise ValueError(f"A BIN is 12 digits, {organization_bin!r} is not.")
