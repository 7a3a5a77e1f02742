"""Renders templates, with one environment per language, and formats sums, times and ages."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from payment_service.almaty import ALMATY
from payment_service.console.languages import NAMES, texts
from payment_service.console.menu import ALWAYS, WHERE_IT_FITS, menu_of
from payment_service.languages import Language
from payment_service.money import TIYN_PER_TENGE
from payment_service.notifications.texts import NO_BREAK, money

MINUS: Final = "\N{MINUS SIGN}"
_MINUTE: Final = timedelta(minutes=1)


def page(template: str, language: Language, **more: Any) -> str:
    """Render a template."""
    return _environment(language).get_template(template).render(more)


def sum_of(tenge: float | None) -> str:
    """A sum, formatted: 17 500 ₸."""
    return money(tenge, ",")


def sum_of_tiyn(tiyn: int) -> str:
    """A sum of many payments, which may be larger than any amount, or negative, formatted."""
    whole, rest = divmod(abs(tiyn), TIYN_PER_TENGE)
    grouped = f"{whole:,}".replace(",", NO_BREAK)
    return f"{MINUS if tiyn < 0 else ''}{grouped}{f',{rest:02d}' if rest else ''}{NO_BREAK}₸"


def difference_of_tiyn(tiyn: int) -> str:
    """The difference of two sums, formatted with its sign: +17 500 ₸."""
    return f"{'+' if tiyn > 0 else ''}{sum_of_tiyn(tiyn)}"


def percent(share: int | None) -> str:
    """A change in per cent, formatted: +12 %, and a dash where the earlier value was 0."""
    if share is None:
        return "—"
    return f"{'+' if share > 0 else MINUS if share < 0 else ''}{abs(share)}{NO_BREAK}%"


def seconds(seconds: float, language: Language) -> str:
    """A short time: 0,4 s."""
    shown = f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
    return texts(language).gettext("%(n)s s") % {"n": shown if language is Language.EN else shown.replace(".", ",")}


def moment(at: datetime, *, now: datetime | None = None) -> Markup:
    """A time in Almaty: today's as hours and minutes, others with the day; in full in the title."""
    here, today = at.astimezone(ALMATY), (now or datetime.now(UTC)).astimezone(ALMATY)
    if here.date() == today.date():
        shown = f"{here:%H:%M}"
    elif here.year == today.year:
        shown = f"{here:%d.%m, %H:%M}"
    else:
        shown = f"{here:%d.%m.%Y, %H:%M}"
    title = f"{here:%d.%m.%Y %H:%M:%S} Asia/Almaty (UTC+5)"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(at.isoformat(timespec="seconds"), title, shown)


def age(since: datetime, language: Language, *, now: datetime | None = None) -> str:
    """How long ago, in full minutes, hours or days."""
    passed = max((now or datetime.now(UTC)) - since, _MINUTE)
    many = texts(language).ngettext
    minutes = passed // _MINUTE
    hours, days = minutes // 60, passed.days
    if days:
        return many("%(n)s day", "%(n)s days", days) % {"n": days}
    if hours:
        return many("%(n)s hour", "%(n)s hours", hours) % {"n": hours}
    return many("%(n)s minute", "%(n)s minutes", minutes) % {"n": minutes}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load."""

    content: bytes
    compressed: bytes
    media_type: str
    digest: str


_MEDIA_TYPES: Final[Mapping[str, str]] = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@cache
def assets() -> dict[str, Asset]:
    """The files that pages load, by name."""
    found = {}
    for file in sorted((files("payment_service.console") / "static").iterdir(), key=lambda file: file.name):
        content = file.read_bytes()
        media_type = _MEDIA_TYPES[file.name.rpartition(".")[2]]
        digest = hashlib.sha256(content).hexdigest()[:16]
        found[file.name] = Asset(content, gzip.compress(content, mtime=0), media_type, digest)
    return found


def address_of(name: str) -> str:
    """The address of such a file. It changes with the content, so that browsers may cache it for ever."""
    return f"/console/static/{name}?v={assets()[name].digest}"


@cache
def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PackageLoader("payment_service.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
        auto_reload=False,
    )
    environment.install_gettext_translations(texts(language), newstyle=True)  # type: ignore[attr-defined]
    environment.filters |= {"money": sum_of, "moment": moment, "age": lambda since: age(since, language)}
    environment.filters |= {"tiyn": sum_of_tiyn, "seconds": lambda given: seconds(given, language)}
    environment.filters |= {"difference": difference_of_tiyn, "percent": percent}
    environment.globals |= {
        "language": language,
        "languages": NAMES,
        "static": address_of,
        "sentence": texts(language).gettext,
        "menu_of": menu_of,
        "menu_bar": (ALWAYS, WHERE_IT_FITS),
    }
    return environment
