"""CSV files that people open in a spreadsheet."""

import re
from typing import Final

ENCODING = "utf-8-sig"
"""UTF-8 with a byte order mark: without it Excel reads Cyrillic letters in another encoding."""
_BEGINS: Final = r"(^|[;\t\r\n])"
"""Where a cell begins. With Russian or Kazakh settings Excel splits our lines at semicolons, not at commas, so that the
quotes around a cell do not hold its line breaks together."""
_FORMULA: Final = re.compile(rf"""{_BEGINS}(?='*"*[=+\-@\t\r])""")
_GUARDED: Final = re.compile(rf"""{_BEGINS}'(?='*"*[=+\-@\t\r])""")


def cell(value: object) -> object:
    """A cell that no spreadsheet reads as a formula, nor any part of it."""
    return _FORMULA.sub(r"\1'", value) if isinstance(value, str) else value


def value_of(written: str) -> str:
    """The text that ``cell`` was given."""
    return _GUARDED.sub(r"\1", written)
