"""Identifiers: BIN, phone, order id, device token, our own ids. Pure checks, used by every interface."""

import re
import unicodedata
from secrets import choice
from typing import Final
from uuid import UUID

from uuid_utils.compat import uuid7

_BIN = re.compile(r"[0-9]{12}")
_WEIGHTS: Final = (range(1, 12), (3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2))
_DEVICE_TOKEN = re.compile(r"[A-Za-z0-9-]{8,50}")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_DECORATION: Final = frozenset({"Cf", "Zs", "Zl", "Zp", "Pd", "Ps", "Pe"})
"""Unicode categories of separators in phones, visible or not: spaces, dashes, brackets, direction marks."""
_MORE_DECORATION: Final = frozenset("\t\n\r.\u00b7\u2022\u2024\u2027\u2043\u2212\u3002\u30fb\uff0e\ufe0e\ufe0f")
"""Dots, the minus sign, and variation selectors."""
_PLUS: Final = frozenset("+\ufe62\uff0b")
_PHONE = re.compile(r"(?:\+?7|8)(7[0-9]{9})")
_UNSEEN: Final = re.compile(
    "^ | $|  |[\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Invisible characters and unusual spaces: listed, so that the result is the same on every version of Python."""
MASK: Final = "…"
_MASK_LENGTH: Final = 8
_CODE_ALPHABET: Final = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # nothing that reads like something else
_CODE_LENGTH: Final = 6


def checked_bin(text: str) -> str:
    """Return a BIN (or a sole trader's IIN) whose checksum holds.

    The last digit is the sum of the first eleven, weighted 1..11, mod 11; for a 10 the weights start at 3; a
    second 10 makes the number invalid (docs/kaspi-api.md section 1). The database checks the same.

    Raises:
        ValueError: with the reason, for anything else.
    """
    if not _BIN.fullmatch(text):
        raise ValueError("a BIN is 12 digits")
    if not text.strip("0"):
        raise ValueError("a BIN of zeros does not exist")  # its checksum holds
    *digits, last = (int(digit) for digit in text)
    sums = (sum(weight * digit for weight, digit in zip(weights, digits, strict=True)) % 11 for weights in _WEIGHTS)
    if last != next((check for check in sums if check < 10), None):
        raise ValueError("the BIN's last digit does not match its checksum: look for a typing error")
    return text


def checked_phone(text: str) -> str:
    """Return a Kazakh mobile number as 11 digits, ``77XXXXXXXXX``, from ``+7…``, ``8…`` or ``7…``.

    Spaces, dots, dashes, brackets and invisible characters are ignored.

    Raises:
        ValueError: when it is no such number.
    """
    if match := _PHONE.fullmatch("".join(map(_dialled, text))):
        return "7" + match[1]
    raise ValueError("a Kazakh mobile number has 11 digits, such as 77015211545")


def _dialled(sign: str) -> str:
    """What a character adds to a phone: a digit of any script, a plus, nothing for a separator, or itself."""
    digit = unicodedata.decimal(sign, None)
    if digit is not None:
        return str(digit)
    if sign in _PLUS:
        return "+"
    return "" if unicodedata.category(sign) in _DECORATION or sign in _MORE_DECORATION else sign


def checked_order_id(text: str) -> str:
    """Return an order id that cannot be confused with another, so that no order is paid twice.

    Its characters are in their composed form (NFC), and between them there is at most one ordinary space. The database
    checks the same of a new payment.

    Raises:
        ValueError: with the reason, for anything else.
    """
    if _UNSEEN.search(text):
        raise ValueError("an order id holds no invisible characters, no spaces at its ends and single spaces inside")
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError("an order id is written in the composed form of Unicode (NFC)")
    return text


def checked_device_token(text: str) -> str:
    """Return a device token: 8 to 50 letters, digits and dashes (Kaspi's are UUIDs).

    Raises:
        ValueError: when it is none.
    """
    if not _DEVICE_TOKEN.fullmatch(text):
        raise ValueError("a device token is 8 to 50 letters, digits and dashes")
    return text


def looks_like_uuid(device_token: str) -> bool:
    """Whether the token is a UUID, as Kaspi's are; pages and the command line warn when not."""
    return _UUID.fullmatch(device_token) is not None


def masked(device_token: str) -> str:
    """The beginning of a token, a third of it and at most 8 characters, and an ellipsis: enough to recognise it."""
    return device_token[: min(_MASK_LENGTH, len(device_token) // 3)] + MASK


def new_id() -> UUID:
    """A UUIDv7: sorts by the time it was made."""
    return uuid7()


def new_short_code() -> str:
    """Six letters and digits that go into a payment's message, to find it in the merchant cabinet."""
    return "".join(choice(_CODE_ALPHABET) for _ in range(_CODE_LENGTH))
