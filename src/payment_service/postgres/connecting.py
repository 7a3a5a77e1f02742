"""Reaching PostgreSQL: how its address is read, and the sentence for a person when it cannot be used.

Nothing in an address is ignored silently: a parameter is understood or refused by name. No sentence here holds a
password.
"""

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

import asyncpg

_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_VERIFYING: Final = frozenset({"require", "verify-ca", "verify-full"})
_SAME: Final = MappingProxyType({"dbname": "database", "ssl": "sslmode"})
"""Two names of one parameter."""
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_OF_TLS: Final = (*_FILES, "sslpassword", "ssl_min_protocol_version", "ssl_max_protocol_version")
_OF_THE_SESSION: Final = ("application_name", "options")
_NEVER_USED: Final = MappingProxyType({"channel_binding": ("prefer", "disable"), "gssencmode": ("prefer", "disable")})
"""What other drivers can do and this one cannot: accepted where the address leaves it open."""
_UNDERSTOOD: Final = frozenset(
    {"host", "port", "user", "password", "database", "sslmode", "target_session_attrs"}
    | {*_OF_TLS, *_OF_THE_SESSION, *_NEVER_USED}
)
WRITABLE: Final = frozenset({"read-write", "primary"})
"""Of several hosts the one is used that takes writes."""
_SCHEME: Final = re.compile(r"postgres(ql)?(\+[a-z0-9]+)?://", re.IGNORECASE)
_NAME: Final = re.compile(r"[a-z_]{1,40}")


class ConnectArgumentError(ValueError):
    """The address of a database cannot be understood; the text says why."""


class UnsuitableDatabaseError(Exception):
    """The database is there and must not be used; the text says why."""


def connect_arguments(database_url: str, *, name: str = "DATABASE_URL") -> dict[str, Any]:
    """What asyncpg needs to connect, from any common spelling of a PostgreSQL address.

    ``postgres://``, ``postgresql://`` and ``postgresql+asyncpg://`` mean the same; libpq's parameters are understood as
    far as asyncpg can honour them. ``name`` is the setting that the address came from.

    Raises:
        ConnectArgumentError: for anything else.
    """
    given = _given(database_url, name)
    mode = given.get("sslmode", "prefer")
    _check(given, mode, name)
    arguments: dict[str, Any] = {
        "host": given.get("host", "127.0.0.1"),
        "port": int(given.get("port", "5432").partition(",")[0]),
        "user": given.get("user", "postgres"),
        "password": given.get("password"),
        "database": given["database"],
        "ssl": mode,
    }
    if of_tls := [(parameter, given[parameter]) for parameter in _OF_TLS if parameter in given]:
        arguments["dsn"] = f"postgresql://?{urlencode(of_tls)}"  # asyncpg takes these only in this form
    if of_the_session := {parameter: given[parameter] for parameter in _OF_THE_SESSION if parameter in given}:
        arguments["server_settings"] = of_the_session
    if "target_session_attrs" in given:
        arguments["target_session_attrs"] = given["target_session_attrs"]
    if "," in arguments["host"]:
        several = arguments["host"].split(",")
        ports_of_all = [int(one) for one in given.get("port", "5432").split(",")]
        arguments["host"] = several
        arguments["port"] = ports_of_all * len(several) if len(ports_of_all) == 1 else ports_of_all
        arguments.setdefault("target_session_attrs", "read-write")
    return arguments


def _given(database_url: str, name: str) -> dict[str, str]:
    """What an address says, by the names of libpq's parameters, in whichever of its parts."""
    if not _SCHEME.match(database_url):
        raise ConnectArgumentError(f"{name} must start with postgresql://")
    try:
        parts, hosts, ports = _split(database_url)
    except ValueError:
        # Nothing of the cause is shown: a password with a '/' in it is read as the port.
        raise ConnectArgumentError(
            f"{name} cannot be read: what is special in its user or password must be percent-encoded, "
            "an IPv6 address stands in brackets, and the port is a number"
        ) from None
    given = _parameters(parts.query, name)
    stated = {
        "host": hosts,
        "port": ports,
        "user": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "database": unquote(parts.path.removeprefix("/")) or None,
    }
    for what, value in stated.items():
        if value is not None and given.setdefault(what, value) != value:
            raise ConnectArgumentError(f"{name} states its {what} twice, and not the same: leave one out")
    if "database" not in given:  # PostgreSQL would take the one that is there for its administrators
        raise ConnectArgumentError(f"{name} names no database: postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return given


def _split(database_url: str) -> tuple[SplitResult, str | None, str | None]:
    """The parts of an address, and its hosts and ports, separated by commas where there are several."""
    parts = urlsplit(database_url)
    # A password that is not percent-encoded may be cut at any of these, and what follows looks like something else.
    if parts.fragment or set("@/") & set(parts.path.removeprefix("/")) or "@" in parts.query:
        raise ValueError
    listed = parts.netloc.rpartition("@")[2]
    if "," not in listed:
        return parts, parts.hostname, str(parts.port) if parts.port else None
    hosts = [urlsplit(f"//{one}") for one in listed.split(",")]
    if not all(host.hostname for host in hosts):
        raise ValueError
    return parts, ",".join(str(host.hostname) for host in hosts), ",".join(str(host.port or 5432) for host in hosts)


def _parameters(query: str, name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        word, _, value = pair.partition("=")
        parameter = _SAME.get(word, word)
        if not _NAME.fullmatch(word):
            raise ConnectArgumentError(f"{name} has a parameter that cannot be read: percent-encode what is special")
        if parameter not in _UNDERSTOOD:
            raise ConnectArgumentError(f"{name} has the parameter {word}, which is not understood here: remove it")
        if not value:
            raise ConnectArgumentError(f"{name} gives no value to its parameter {word}: remove it or give one")
        if found.setdefault(parameter, unquote(value)) != unquote(value):
            raise ConnectArgumentError(f"{name} states its {parameter} twice, and not the same: leave one out")
    return found


def _check(given: Mapping[str, str], mode: str, name: str) -> None:
    if mode not in _MODES:
        raise ConnectArgumentError(f"{name} has an unknown sslmode '{mode}': use one of {', '.join(_MODES)}")
    hosts, ports = given.get("host", "").split(","), given.get("port", "5432").split(",")
    if not all(port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 65535 for port in ports):
        raise ConnectArgumentError(f"{name} cannot be read: the port is a number from 1 to 65535")
    if len(ports) not in {1, len(hosts)}:
        raise ConnectArgumentError(f"{name} names {len(hosts)} hosts and {len(ports)} ports: name one port, or each")
    if len(hosts) > 1 and given.get("target_session_attrs", "read-write") not in WRITABLE:
        raise ConnectArgumentError(
            f"{name} names several hosts: with them target_session_attrs is one of {', '.join(sorted(WRITABLE))}"
        )
    for parameter in ("sslrootcert", "sslcrl"):
        if parameter in given and mode not in _VERIFYING:
            raise ConnectArgumentError(f"{name} has {parameter}, which counts only with sslmode=verify-full (or less)")
    for parameter in _FILES:
        if parameter in given:
            _check_file(given[parameter], f"{name} names a file in {parameter} that cannot be read")
    for parameter, possible in _NEVER_USED.items():
        if given.get(parameter, possible[0]) not in possible:
            raise ConnectArgumentError(f"{name} asks for {parameter}, which this service's driver cannot do: remove it")


def _check_file(path: str, sentence: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConnectArgumentError(f"{sentence}: {path} ({error.strerror})") from None


def check_encoding(connection: asyncpg.Connection) -> None:
    """Refuse a database that cannot hold every text.

    Raises:
        UnsuitableDatabaseError: unless it is UTF-8.
    """
    encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")  # a pooler may not say
    if encoding != "UTF8":
        raise UnsuitableDatabaseError(
            f"The database that DATABASE_URL names keeps its texts in {encoding}, which cannot hold every name: "
            "make one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0."
        )


class ReadOnlyServerError(ConnectionError):
    """The server is a replica, or takes no writes for another reason."""


class UnguardedSessionError(ConnectionError):
    """No trigger fires in the sessions of this role, so that nothing guards the record."""


class ReplacedServerError(ConnectionError):
    """The server was replaced by another one, or has another database than this process uses."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a database cannot be used."""

    sentence: str
    may_pass: bool = False
    """Whether it may well be over in a moment, without anybody changing anything."""


def trouble_of(error: BaseException, *, name: str = "DATABASE_URL") -> Trouble | None:
    """Why the database that the setting names cannot be used; none for an error that says something else."""
    for one in _causes(error):
        match one:
            case ConnectArgumentError() | UnsuitableDatabaseError():
                return Trouble(str(one))
            case asyncpg.PostgresError():
                if found := _from_server_error(one, name):
                    return found
            case ssl.SSLCertVerificationError():
                return Trouble(
                    f"The certificate of the database that {name} names cannot be verified ({one.verify_message}): "
                    "check sslrootcert and the host's name."
                )
            case ssl.SSLError():
                return Trouble(f"The database that {name} names and this service agree on no TLS ({one.reason}).")
            case ConnectionError() if "rejected SSL upgrade" in str(one):
                return Trouble(f"The database that {name} names offers no TLS, and its sslmode asks for it.")
            case asyncpg.ClientConfigurationError():
                return Trouble(f"{name} cannot be used: {one}.")
            case ReadOnlyServerError():
                return Trouble(
                    f"{name} leads to a replica, or to a server that takes no writes: name the one that takes writes.",
                    may_pass=True,  # a replica is promoted
                )
            case ReplacedServerError() | UnguardedSessionError():
                return Trouble(str(one))
            case OSError() if one.filename is None:  # one with a name is about a file
                return Trouble(_away(name, type(one).__name__), may_pass=True)
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what is behind it, the one that a driver raised before what was made of it."""
    inner = (getattr(error, "orig", None), error.__cause__, *getattr(error, "exceptions", ()))
    for one in inner:
        if isinstance(one, BaseException):
            yield from _causes(one)
    yield error


def _away(name: str, why: str) -> str:
    return f"The database that {name} names cannot be reached ({why}): check that it runs, and its host and port."


_WHO_MAY: Final = "Migrating and retiring months are the owner's; all else needs the GRANTs of docs/deploy.md."


def _from_server_error(error: asyncpg.PostgresError, name: str) -> Trouble | None:
    message = str(error.args[0]).splitlines()[0] if error.args else ""
    match error.sqlstate:
        case "28P01":
            return Trouble(f"The database refuses the user or the password in {name}: correct them.")
        case "28000":
            return Trouble(f"The database does not let the user of {name} in: {message}.")
        case "3D000":
            return Trouble(
                f"The database that {name} names does not exist on its server: create it, or correct the name."
            )
        case "42501":
            return Trouble(f"The user of {name} lacks a right in the database: {message}. {_WHO_MAY}")
        case "08P01" if "startup parameter" in message:
            return Trouble(
                f"{name} leads to a pooler, such as PgBouncer, that refuses a parameter of the address ({message}): "
                "take it out, and give it to the role by ALTER ROLE ... SET."
            )
        case "08P01":
            return Trouble(f"What answers at the address in {name} refuses the connection: {message}.")
        case "26000" | "42P05":
            return Trouble(
                f"{name} leads to a pooler, such as PgBouncer, that shares sessions between transactions, and "
                "prepared statements and LISTEN need one that stays: set DATABASE_DIRECT_URL, see docs/deploy.md."
            )
        case "53300":
            sentence = f"The database that {name} names has no connection left ({message}): lower DATABASE_POOL_SIZE, "
            return Trouble(f"{sentence}or raise its max_connections or the role's CONNECTION LIMIT.", may_pass=True)
        case "25006":
            return Trouble(f"{name} leads to a copy that can only be read: name the server that takes writes.")
        case "53100":
            return Trouble(f"The disk of the database that {name} names is full.")
        case code if code and code.startswith(("08", "57P")):
            return Trouble(_away(name, message or type(error).__name__), may_pass=True)
    return None
