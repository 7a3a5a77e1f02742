"""The languages of texts for people, and the catalogues of translations.

The English text is the key. A package with texts for people keeps the translations in ``locale/ru.po`` and
``locale/kk.po``, which are read once, when the first of them is needed.
"""

import gettext
import io
from enum import StrEnum
from functools import cache
from importlib.resources import files


class Language(StrEnum):
    """A language that there are texts in; Russian first."""

    RU = "ru"
    KK = "kk"
    EN = "en"


@cache
def catalogue(package: str, language: Language) -> gettext.NullTranslations:
    """The texts of a package in a language."""
    if language is Language.EN:
        return gettext.NullTranslations()
    from babel.messages import mofile, pofile  # noqa: PLC0415 - only where texts are translated

    source = files(package) / "locale" / f"{language}.po"
    read = pofile.read_po(io.BytesIO(source.read_bytes()), locale=language)
    compiled = io.BytesIO()
    mofile.write_mo(compiled, read)
    compiled.seek(0)
    return gettext.GNUTranslations(compiled)


def mark(text: str) -> str:
    """Mark a text for the catalogues; it is translated where it is shown."""
    return text
