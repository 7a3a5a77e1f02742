"""The languages of the console: Russian first, then Kazakh and English."""

import gettext
from typing import Final

from starlette.requests import Request

from payment_service.languages import Language, catalogue

LANGUAGE_COOKIE: Final = "console_language"
NAMES: Final = {Language.RU: "Русский", Language.KK: "Қазақша", Language.EN: "English"}


def texts(language: Language) -> gettext.NullTranslations:
    """The texts of a language."""
    return catalogue("payment_service.console", language)


def language_of(request: Request) -> Language:
    """The language that the person chose; else the first of their browser's that we have; else Russian."""
    wanted = request.headers.get("Accept-Language", "").lower().split(",")[:10]
    chosen = [request.cookies.get(LANGUAGE_COOKIE, ""), *(one.strip().partition(";")[0][:2] for one in wanted)]
    return next((Language(one) for one in chosen if one in set(Language)), Language.RU)
