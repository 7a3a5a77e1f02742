"""Which characters a text may hold, for every way in.

Refused are those that steer whatever shows or stores the text: the controls C0 and C1 (NUL, which PostgreSQL cannot
keep, line feeds and escape sequences among them), halves of surrogate pairs, and what reverses the direction of the
text around it. Everything else is taken, also what the Unicode tables of this Python do not know yet: new emoji are
made every year. Pure; no table of the standard library is asked, so that the answer is the same on every Python.
"""

import re
from typing import Final

_REFUSED: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
REFUSAL: Final = "must not hold control characters, or characters that change the direction of the text"


def checked_text(text: str) -> str:
    """Return a text that holds nothing that is refused.

    Raises:
        ValueError: for any other.
    """
    if _REFUSED.search(text):
        raise ValueError(REFUSAL)
    return text


def one_line(text: str) -> str:
    """A text that is worth more than its form: what would be refused, and every white space, becomes a space."""
    return " ".join(_REFUSED.sub(" ", text).split())
