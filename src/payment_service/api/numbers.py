"""JSON read exactly: numbers as they were written, no duplicate names in an object, and nothing that is not JSON.

Numbers with very many digits or a large exponent are refused: turning ``1e999999999999`` into an int runs until the
memory is gone. Amounts, ids and times have far fewer digits than the limits here.
"""

import json
import re
from decimal import Decimal
from typing import Any, Final

MAX_DIGITS: Final = 40
"""Of a number, before and after its point together."""
MAX_EXPONENT: Final = 30
_LONGEST_NAME: Final = 60
_EXPONENT: Final = re.compile(r"[eE]([+-]?)0*([0-9]+)")


def exact_json(body: bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: a sentence, for what is not JSON or cannot be read exactly.
        RecursionError: when it is nested too deeply.
    """
    read = json.loads(
        body,
        parse_int=exact_int,
        parse_float=exact_decimal,
        parse_constant=_refuse_constant,
        object_pairs_hook=_unique,
    )
    # Pydantic reads the attributes of any object: a Decimal would pass for an empty body.
    return str(read) if isinstance(read, Decimal) else read


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice[:_LONGEST_NAME]} is given twice")
    return found


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
