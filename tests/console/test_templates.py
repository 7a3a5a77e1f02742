"""What would die without a word under the policy, texts without a translation, files that are not what they were."""

import gettext
import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from payment_service.console import render
from payment_service.console.languages import texts
from payment_service.languages import Language
from tests.console.catalogues import CONSOLE, MESSAGES, catalogue, used

HTMX = "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
"""``dist/htmx.min.js`` of the npm package ``htmx.org`` 2.0.11."""
TEMPLATES = sorted((CONSOLE / "templates").glob("*.html"))
DIES = {
    "an inline handler": re.compile(r"\son[a-z]+\s*=", re.IGNORECASE),
    "hx-on": re.compile(r"\shx-on[:\-=]", re.IGNORECASE),
    "hx-vals or hx-headers with js": re.compile(
        r"hx-(?:vals|headers|vars)\s*=\s*['\"]?\s*(?:js|javascript):", re.IGNORECASE
    ),
    "a filter of a trigger": re.compile(r"hx-trigger\s*=\s*(?:'[^']*\[|\"[^\"]*\[)", re.IGNORECASE),
    "an inline style": re.compile(r"\sstyle\s*=|<style\b", re.IGNORECASE),
    "an inline script": re.compile(r"<script\b(?![^>]*\ssrc=)|javascript:", re.IGNORECASE),
    "another host": re.compile(r"(?:src|href|action)\s*=\s*['\"]?(?:https?:)?//", re.IGNORECASE),
    "markup that is not escaped": re.compile(r"\|\s*safe\b|autoescape\s+false", re.IGNORECASE),
}
PLANTED = {
    "an inline handler": '<a onclick="x()">',
    "hx-on": '<a hx-on:click="x()">',
    "hx-vals or hx-headers with js": "<a hx-vals='js:{a: 1}'>",
    "a filter of a trigger": "<a hx-trigger=\"keyup[key=='Enter']\">",
    "an inline style": '<a style="color: red">',
    "an inline script": "<script>x()</script>",
    "another host": '<script src="https://unpkg.com/htmx">',
    "markup that is not escaped": "{{ text|safe }}",
}


@pytest.mark.parametrize("what", DIES)
def test_no_template_holds_what_the_policy_forbids(what: str) -> None:
    assert TEMPLATES
    found = [file.name for file in TEMPLATES if DIES[what].search(file.read_text("utf-8"))]
    assert found == []
    assert DIES[what].search(PLANTED[what])


def test_scripts_evaluate_nothing() -> None:
    script = (CONSOLE / "static" / "console.js").read_text("utf-8")
    assert not re.search(r"\beval\b|new Function|innerHTML|document\.write|setTimeout\(['\"]", script)
    base = (CONSOLE / "templates" / "base.html").read_text("utf-8")
    for setting in (
        '"allowEval":false',
        '"includeIndicatorStyles":false',
        '"selfRequestsOnly":true',
        '"historyCacheSize":0',
    ):
        assert setting in base


def test_htmx_is_the_file_that_was_published() -> None:
    assert hashlib.sha256((CONSOLE / "static" / "htmx.min.js").read_bytes()).hexdigest() == HTMX


def test_styles_use_tokens_for_every_colour() -> None:
    """Dark and light come from one list: a colour elsewhere would be right in one of them only."""
    tokens, rest = (CONSOLE / "static" / "console.css").read_text("utf-8").split("}", 1)
    assert "light-dark(" in tokens
    without_shadow = re.sub(r"box-shadow:[^;]+light-dark\([^;]+;", "", rest)
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", without_shadow, re.IGNORECASE) == []


def test_styles_close_what_they_open() -> None:
    """After a brace that is left open every rule belongs to the one before, and hardly anything has a style."""
    styles = (CONSOLE / "static" / "console.css").read_text("utf-8")
    depths = [0]
    for brace in re.findall(r"[{}]", re.sub(r"/\*.*?\*/", "", styles, flags=re.DOTALL)):
        depths.append(depths[-1] + (1 if brace == "{" else -1))
    assert (min(depths), depths[-1]) == (0, 0)
    nested = re.findall(r"^[^@}\s/][^{}]*\{[^{}]*\{", styles, re.MULTILINE)
    assert nested == []


# --- texts


@pytest.mark.parametrize("language", ["ru", "kk"])
@pytest.mark.parametrize("package", [CONSOLE, MESSAGES], ids=lambda package: package.name)
def test_every_text_is_translated_and_no_translation_is_left_over(package: Path, language: str) -> None:
    shown = {message for message, _ in used(package)}
    assert shown
    read = catalogue(package, language)
    translated = {message.id if isinstance(message.id, str) else tuple(message.id) for message in read}
    assert translated - {""} == shown


@pytest.mark.parametrize("language", ["ru", "kk"])
@pytest.mark.parametrize("package", [CONSOLE, MESSAGES], ids=lambda package: package.name)
def test_translations_keep_their_placeholders_and_are_not_empty(package: Path, language: str) -> None:
    for message in catalogue(package, language):
        if not message.id:
            continue
        originals = [message.id] if isinstance(message.id, str) else list(message.id)
        given = [message.string] if isinstance(message.string, str) else list(message.string or ())
        places = {tuple(sorted(re.findall(r"%\(\w+\)s", text))) for text in (*originals, *given)}
        assert len(places) == 1, message.id
        assert all(given), message.id
        assert not message.fuzzy


@pytest.mark.parametrize(
    ("language", "forms"),
    [
        ("ru", {1: "1 день", 2: "2 дня", 4: "4 дня", 5: "5 дней", 11: "11 дней", 21: "21 день", 22: "22 дня"}),
        ("kk", {1: "1 күн", 2: "2 күн", 21: "21 күн"}),
        ("en", {1: "1 day", 2: "2 days", 21: "21 days"}),
    ],
)
def test_ages_have_their_plural_forms(language: str, forms: dict[int, str]) -> None:
    now = datetime(2026, 11, 29, tzinfo=UTC)
    for days, told in forms.items():
        assert render.age(now - timedelta(days=days, hours=3), Language(language), now=now) == told


def test_catalogues_are_loaded_as_they_are() -> None:
    assert isinstance(texts(Language.RU), gettext.GNUTranslations)
    assert texts(Language.RU).gettext("Search") == "Поиск"
    assert texts(Language.EN).gettext("Search") == "Search"


# --- sums and times


@pytest.mark.parametrize(
    ("tenge", "told"), [(17500, "17\u00a0500\u00a0₸"), (0, "0\u00a0₸"), (99.5, "99,50\u00a0₸"), (None, "?")]
)
def test_sums_are_written_as_people_read_them(tenge: float | None, told: str) -> None:
    assert render.sum_of(tenge) == told


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (datetime(2026, 11, 29, 9, 32, tzinfo=UTC), "14:32"),
        (datetime(2026, 11, 28, 20, 0, tzinfo=UTC), "01:00"),  # it is the 29th in Almaty
        (datetime(2026, 11, 28, 18, 0, tzinfo=UTC), "28.11, 23:00"),
        (datetime(2025, 1, 2, 0, 0, tzinfo=UTC), "02.01.2025, 05:00"),
    ],
)
def test_times_are_those_of_almaty_with_the_zone_in_the_title(at: datetime, told: str) -> None:
    shown = render.moment(at, now=datetime(2026, 11, 29, 12, 0, tzinfo=UTC))
    assert f">{told}</time>" in shown
    assert "Asia/Almaty (UTC+5)" in shown
