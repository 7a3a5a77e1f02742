"""The texts of the console as the code and the templates have them, and as the catalogues translate them."""

import io
from collections.abc import Iterator
from pathlib import Path

from babel.messages import pofile
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir

CONSOLE = Path(__file__).parents[2] / "src" / "payment_service" / "console"
METHODS = [("**.py", "python"), ("**.html", "jinja2.ext.babel_extract")]
KEYWORDS = {"_": None, "gettext": None, "ngettext": (1, 2), "many": (1, 2), "mark": None}
OPTIONS = {"**.html": {"trimmed": "true", "newstyle_gettext": "true"}}


def used() -> Iterator[tuple[str | tuple[str, ...], str]]:
    """Every text that is shown, with where."""
    for file, line, message, _, _ in extract_from_dir(CONSOLE, METHODS, OPTIONS, KEYWORDS):
        yield message, f"{file}:{line}"


def catalogue(language: str) -> Catalog:
    """The translations of a language."""
    return pofile.read_po(io.BytesIO((CONSOLE / "locale" / f"{language}.po").read_bytes()), locale=language)
