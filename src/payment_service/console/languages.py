"""The languages of the console: Russian first, then Kazakh and English. The English texts are the keys of the others.

The catalogues are read from ``locale/*.po`` as they are, once, when the first page is shown.
"""

import gettext
import io
from functools import cache
from importlib.resources import files
from typing import Final

from babel.messages import mofile, pofile
from starlette.requests import Request

from payment_service.notifications.texts import Language

LANGUAGE_COOKIE: Final = "console_language"
NAMES: Final = {Language.RU: "Русский", Language.KK: "Қазақша", Language.EN: "English"}


@cache
def texts(language: Language) -> gettext.NullTranslations:
    """The texts of a language."""
    if language is Language.EN:
        return gettext.NullTranslations()
    source = files("payment_service.console") / "locale" / f"{language}.po"
    catalogue = pofile.read_po(io.BytesIO(source.read_bytes()), locale=language)
    compiled = io.BytesIO()
    mofile.write_mo(compiled, catalogue)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def language_of(request: Request) -> Language:
    """The language that the person chose; else the first that their browser asks for and we have; else Russian."""
    wanted = request.headers.get("Accept-Language", "").lower().split(",")[:10]
    chosen = [request.cookies.get(LANGUAGE_COOKIE, ""), *(one.strip().partition(";")[0][:2] for one in wanted)]
    return next((Language(one) for one in chosen if one in set(Language)), Language.RU)


def mark(text: str) -> str:
    """Mark a text of a table for the catalogues; it is translated where it is shown."""
    return text
