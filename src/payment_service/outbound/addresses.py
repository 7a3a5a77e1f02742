"""What the URL of a user may look like, and which IP addresses are public. Pure: no name is looked up.

A URL is parsed once, here, and the result is what is called: no second parser can read it differently. Ambiguous URLs
are refused. Refusals are sentences for people and never quote the URL: it may hold secrets.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, TypeAlias

import httpx

IPAddress: TypeAlias = IPv4Address | IPv6Address

MAX_URL_LENGTH: Final = 2000
_PORTS: Final = {"https": 443, "http": 80}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_SIGN = r"[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2}"
# PHP's names of lists, "orders[]", are written as they are by everybody, though the RFC would have them escaped.
_TARGET = re.compile(rf"(?P<path>(?:/(?:{_SIGN})*)?)(?P<query>(?:\?(?:{_SIGN}|[?\[\]])*)?)")
_NAME = re.compile(r"(?=.{1,253}\Z)(?:(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.|\Z)){2,}(?<!\.)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# Names that by their standards exist only inside (RFC 6761, 6762, 8375; ICANN for "internal").
_PRIVATE_NAMES: Final = ("localhost", "local", "internal", "home.arpa")

# The IANA registries of special addresses, not those tables of the ipaddress module that change with its version.
_NOT_PUBLIC: Final = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network, and "any address"
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # behind a carrier's NAT; a cloud's metadata (100.100.100.200)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's inner services, within a public range
        "169.254.0.0/16",  # link-local; every other cloud's metadata (169.254.169.254)
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata (192.0.0.192)
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
        "2001::/23",  # protocol assignments; Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address inside
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_IPV6_PUBLIC: Final = ip_network("2000::/3")
"""All of IPv6 that is assigned. Outside of it lie loopback, link-local, unique local (fd00:ec2::254), multicast,
and the forms that hold an IPv4 address: mapped, compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48)."""


def is_public(address: IPAddress) -> bool:
    """Whether the address is an ordinary one of the public Internet."""
    if address.version == 6 and address not in _IPV6_PUBLIC:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def _is_public_or_loopback(address: IPAddress) -> bool:
    return is_public(address) or address.is_loopback


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be called; by default only what production may call."""

    may_call: Callable[[IPAddress], bool] = is_public
    plain_http: bool = False
    """Also ``http://``, and the name ``localhost``."""


PRODUCTION: Final = Rules()
DEVELOPMENT: Final = Rules(may_call=_is_public_or_loopback, plain_http=True)


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL, parsed."""

    scheme: str
    host: str
    """ASCII, lower case, without a dot at its end; an IPv6 address without brackets."""
    port: int
    target: str
    """Path and query, as they are sent. May hold secrets."""
    address: IPAddress | None
    """The host, where it is an address and no name."""

    @property
    def authority(self) -> str:
        """What the ``Host`` header says."""
        host = in_url(self.address) if self.address else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def in_url(address: IPAddress) -> str:
    """An address as a URL writes it."""
    return f"[{address}]" if address.version == 6 else str(address)


def read_url(url: str, rules: Rules) -> Destination:
    """Read a URL that may be called, unless its name turns out to mean an address that may not.

    Raises:
        ValueError: a sentence that says what is wrong.
    """
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"The URL must not be longer than {MAX_URL_LENGTH} characters.")
    parts = _URL.fullmatch(url)
    if not parts:
        raise ValueError("The URL must be complete, like https://shop.example.kz/webhook.")
    scheme = parts["scheme"].lower()
    if scheme != "https" and not (scheme == "http" and rules.plain_http):
        raise ValueError("The URL must begin with https://.")
    if "@" in parts["authority"]:
        raise ValueError("The URL must hold no user name or password.")
    if "#" in parts["rest"]:
        raise ValueError("The URL must have no fragment: leave out the # and what follows.")
    target = _TARGET.fullmatch(parts["rest"])
    if not target:
        raise ValueError("The URL's path and query must be percent-encoded.")
    authority = _AUTHORITY.fullmatch(parts["authority"])
    if not authority:
        raise ValueError("The URL's host and port cannot be read.")
    port = int(authority["port"] or _PORTS[scheme])
    # Below 1024 are mail, files and administration: no receivers, and nothing to connect to on behalf of a user.
    if port > 65535 or (port < 1024 and port != _PORTS[scheme]):
        raise ValueError("The URL's port must be 443, or 1024 and above.")
    host, address = _read_host(authority["host"], rules)
    return Destination(scheme, host, port, (target["path"] or "/") + target["query"], address)


def _read_host(written: str, rules: Rules) -> tuple[str, IPAddress | None]:
    """The host's name, and its address if it is one."""
    try:
        # IDNA 2008 as browsers write it for names of the world's letters; nothing else is mapped to anything.
        host = written.lower() if written.isascii() else httpx.URL(scheme="https", host=written).raw_host.decode()
    except httpx.InvalidURL:
        raise ValueError("The URL's host is not a name that can exist.") from None
    host = host.removesuffix(".")
    if address := _read_address(host):
        if not rules.may_call(address):
            raise ValueError("The URL's host is an address that is not on the public Internet.")
        return str(address), address
    if host == "localhost" and rules.plain_http:
        return host, None
    if not _NAME.fullmatch(host):
        raise ValueError("The URL's host must be a full name, like shop.example.kz.")
    if any(host == name or host.endswith(f".{name}") for name in _PRIVATE_NAMES):
        raise ValueError("The URL's host is a name that exists only inside a network.")
    return host, None


def _read_address(host: str) -> IPAddress | None:
    """The address that a host is; None for a name. What some program reads as an IPv4 address must be a plain one."""
    is_ipv6 = host.startswith("[")
    if not is_ipv6 and not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        address = ip_address(host[1:-1] if is_ipv6 else host)
    except ValueError:
        address = None
    if address is None or is_ipv6 != (address.version == 6) or "%" in host:
        raise ValueError("The URL's host is an address that is written in an unusual way.")
    return address
