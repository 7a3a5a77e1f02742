"""The texts of a package as its code and its templates have them, and as its catalogues translate them."""

import io
from collections.abc import Iterator
from pathlib import Path

from babel.messages import pofile
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir, extract_from_file

_SERVICE = Path(__file__).parents[2] / "src" / "payment_service"
CONSOLE, MESSAGES = _SERVICE / "console", _SERVICE / "notifications"
SHOWN_BY_THE_CONSOLE = [_SERVICE / "idempotency" / "holding.py"]
"""Modules below it whose texts it shows."""
METHODS = [("**.py", "python"), ("**.html", "jinja2.ext.babel_extract")]
KEYWORDS = {"_": None, "say": None, "gettext": None, "ngettext": (1, 2), "many": (1, 2), "mark": None}
OPTIONS = {"**.html": {"trimmed": "true", "newstyle_gettext": "true"}}


def used(package: Path) -> Iterator[tuple[str | tuple[str, ...], str]]:
    """Every text that is shown, with where."""
    for file, line, message, _, _ in extract_from_dir(package, METHODS, OPTIONS, KEYWORDS):
        yield message, f"{file}:{line}"
    for module in SHOWN_BY_THE_CONSOLE if package == CONSOLE else ():
        for line, message, _, _ in extract_from_file("python", module, KEYWORDS):
            yield message, f"{module.name}:{line}"


def catalogue(package: Path, language: str) -> Catalog:
    """The translations of a language."""
    return pofile.read_po(io.BytesIO((package / "locale" / f"{language}.po").read_bytes()), locale=language)
