"""Which characters a text may hold, in every interface.

Refused are control characters C0 and C1 (such as NUL, which PostgreSQL cannot store, line feeds and escape sequences),
halves of surrogate pairs, and characters that reverse the direction of text. Everything else is accepted, also what the
Unicode tables of this Python do not know yet, such as new emoji. Pure, and the same on every version of Python.
"""

import re
from typing import Final

_REFUSED: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
REFUSAL: Final = "must not hold control characters, or characters that change the direction of the text"


def checked_text(text: str) -> str:
    """Return a text without refused characters.

    Raises:
        ValueError: for any other.
    """
    if _REFUSED.search(text):
        raise ValueError(REFUSAL)
    return text


def one_line(text: str) -> str:
    """A text on one line, for texts that must be kept: refused characters and white space become single spaces."""
    return " ".join(_REFUSED.sub(" ", text).split())
