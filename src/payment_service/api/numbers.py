"""Numbers of JSON, refused while they are read when no computation with them could be trusted to end.

A Decimal takes any exponent, and turning ``1e999999999999`` into an int runs until the memory is gone. What this
service is sent are amounts, ids and times: far fewer digits than the limits here.
"""

import re
from decimal import Decimal
from typing import Final

MAX_DIGITS: Final = 40
"""Of a number, before and after its point together."""
MAX_EXPONENT: Final = 30
_EXPONENT: Final = re.compile(r"[eE]([+-]?)0*([0-9]+)")


def exact_int(text: str) -> int:
    """Read a whole number of JSON.

    Raises:
        ValueError: a sentence, for one that is too long.
    """
    _check_digits(text)
    return int(text)


def exact_decimal(text: str) -> Decimal:
    """Read a number of JSON that has a point or an exponent, exactly.

    Raises:
        ValueError: a sentence, for one that is too long or whose exponent is beyond ±30.
    """
    mantissa, exponent = text, _EXPONENT.search(text)
    if exponent:
        mantissa = text[: exponent.start()]
        # By its length first: the exponent itself may have any number of digits.
        if len(exponent[2]) > len(str(MAX_EXPONENT)) or int(exponent[2]) > MAX_EXPONENT:
            raise ValueError(f"a number has an exponent beyond ±{MAX_EXPONENT}")
    _check_digits(mantissa)
    return Decimal(text)


def _check_digits(text: str) -> None:
    if len(text.lstrip("-").replace(".", "")) > MAX_DIGITS:
        raise ValueError(f"a number has more than {MAX_DIGITS} digits")
