"""Checks of settings that are texts, with sentences about the common mistakes in writing them."""

import codecs
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography.fernet import Fernet

_ORIGIN_HOST: Final = re.compile(r"[a-z0-9_.-]+|\[[0-9a-f:.]+\]")
_ORIGINS: Final = (
    "must be origins separated by commas, such as https://admin.example.kz,https://shop.example.kz: "
    "without brackets, quotes, spaces or wildcards"
)
_USUAL_PORT: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")
_FERNET_KEY_LENGTH: Final = 44
_E_MAIL: Final = re.compile(r"[^@\s<>]+@[^@\s<>]+")
_BOT_TOKEN: Final = re.compile(r"[0-9]+:[A-Za-z0-9_-]+")
_QUOTES: Final = frozenset("\"'`\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019")
_MARKS: Final = (  # the longer one first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class UnreadableFileError(Exception):
    """A file of settings cannot be read; the text says why."""


def split_at_commas(value: object) -> object:
    """The parts of a text, without the spaces around them; anything else as it is."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def check_secret(value: object, *, spaces: bool = False) -> object:
    """Check the text of a secret for what a shell, a YAML file or a secret store may have added around it.

    Raises:
        ValueError: for such a secret. Its text quotes nothing of it.
    """
    if not isinstance(value, str):
        return value
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise ValueError("holds a line feed or another control character: set it without")
    if len(value) > 1 and {value[0], value[-1]} <= _QUOTES:
        raise ValueError("has quotation marks around it: set it without them")
    if value != value.strip() and not spaces:
        raise ValueError("has spaces around it: set it without them")
    if " #" in value:  # a file for containers knows no comments behind a value
        raise ValueError("ends with a comment: set it without")
    return value


def check_origin(origin: str) -> str:
    """An origin in the only spelling that a browser uses (RFC 6454, section 6.2), or ``*``.

    Raises:
        ValueError: for anything that no browser ever sends; it says what to write.
    """
    if origin == "*":
        return origin
    try:
        parts = urlsplit(origin)
        port, host = parts.port, (parts.hostname or "").encode("idna").decode()
    except ValueError:
        raise ValueError(_ORIGINS) from None
    host = f"[{host}]" if ":" in host else host
    if parts.scheme not in _USUAL_PORT or not _ORIGIN_HOST.fullmatch(host) or "@" in origin:
        raise ValueError(_ORIGINS)
    sent = f"{parts.scheme}://{host}" + (f":{port}" if port not in {None, _USUAL_PORT[parts.scheme]} else "")
    if sent != origin:
        raise ValueError(f"has {origin}, and browsers send {sent}: write it so")
    return origin


def check_host(host: str) -> str:
    """An address or a name to listen on.

    Raises:
        ValueError: for none. An empty one would mean every address of the machine.
    """
    if not host.strip():
        raise ValueError("is empty: set 127.0.0.1 for this machine alone, 0.0.0.0 or :: for every address of it")
    if not _HOST.fullmatch(host):
        raise ValueError("must be an address or a name of this machine, such as 127.0.0.1, 0.0.0.0 or ::")
    return host


def check_proxies(text: str) -> str:
    """Addresses and networks, separated by commas; ``*`` alone for every one; empty for none.

    Raises:
        ValueError: for anything else, which uvicorn would take for a name that nobody ever has.
    """
    proxies = [part.strip() for part in text.split(",") if part.strip()]
    try:
        if proxies != ["*"]:
            for proxy in proxies:
                ip_network(proxy)
    except ValueError:
        raise ValueError(
            "must be addresses or networks separated by commas, such as 10.0.0.5,10.1.0.0/16, or * alone"
        ) from None
    return ",".join(proxies)


def encoding_of(file: Path) -> str | None:
    """How a file of settings is encoded, by its byte order mark, or UTF-8; none when there is no file.

    Raises:
        UnreadableFileError: for one that cannot be read.
    """
    if not file.is_file():
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"{file} cannot be read: {error.strerror}.") from None
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        is_text = "\0" not in content.decode(encoding)
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise UnreadableFileError(f"{file} is no text in UTF-8: save it anew in that encoding.")
    return encoding


def trace_headers_of(value: str) -> dict[str, str]:
    """Read ``name=value`` pairs between commas.

    Raises:
        ValueError: for anything else. Its text quotes nothing of it.
    """
    pairs = [[part.strip() for part in pair.partition("=")] for pair in value.split(",")]
    if not all(name and content for name, _, content in pairs):
        raise ValueError("must be NAME=VALUE pairs separated by commas")
    return {name: content for name, _, content in pairs}


def check_bot_token(value: str) -> str:
    """Check the token of a Telegram bot, which becomes part of an address.

    Raises:
        ValueError: for anything else.
    """
    if not _BOT_TOKEN.fullmatch(value):
        raise ValueError("must be a bot's token as BotFather gives it: digits, a colon, letters")
    return value


def check_sender(value: str) -> str:
    """Check the address that mails come from.

    Raises:
        ValueError: for one with a name, or none.
    """
    if not _E_MAIL.fullmatch(value):
        raise ValueError("must be an e-mail address alone, such as pay@example.kz")
    return value


def check_encryption_key(value: str) -> str:
    """Check a key of ENCRYPTION_KEYS.

    Raises:
        ValueError: for none.
    """
    try:
        Fernet(value)
    except ValueError:
        usable = False
    else:
        # Fernet ignores what follows a key's padding: two keys without a comma would be one, silently.
        usable = len(value) == _FERNET_KEY_LENGTH
    if not usable:
        raise ValueError("must be Fernet keys: make one with 'payment-service secrets new-key'")
    return value


def check_secure_url(value: str) -> str:
    """Check the address of a service that is told secrets.

    Raises:
        ValueError: as for any address, and for one that is not encrypted, unless it is on this machine.
    """
    parts = urlsplit(check_url(value))
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("must be https:// unless it is on this machine: what is asked of it carries secrets")
    return value


def check_url(value: str) -> str:
    """Check the address of a service.

    Raises:
        ValueError: for anything that is none. Its text quotes nothing of it.
    """
    if any(char <= " " or char == "\x7f" for char in value):  # urlsplit takes some of them out, and only there
        raise ValueError("holds a space, a line feed or another control character: set it without")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("must be an http:// or https:// address") from None  # the cause may quote a password
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0:
        raise ValueError("must be an http:// or https:// address")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must have no query, fragment or user name")
    return value


def is_loopback(host: str) -> bool:
    """Whether the host name can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
