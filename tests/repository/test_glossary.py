"""The words of docs/glossary.md are those of the console's catalogues and of the Russian documents."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.console.catalogues import CONSOLE, catalogue
from tests.support.documents import ROOT, sections

SECTIONS: Final = sections((ROOT / "docs" / "glossary.md").read_text("utf-8"))
ROWS: Final = [
    tuple(cell.strip() for cell in line.strip("|").split("|"))
    for section in SECTIONS
    for line in section.text.splitlines()
    if line.startswith("| ") and not line.startswith(("| English", "| Instead"))
]
WORDS: Final = {row[0]: {"ru": row[1], "kk": row[2]} for row in ROWS if len(row) == 4}
NOT_USED: Final = [row[0].partition(" (")[0] for row in ROWS if len(row) == 2]
RUSSIAN: Final = [
    ROOT / "README.ru.md",
    *(ROOT / "docs").glob("*.ru.md"),
    ROOT / "src" / "payment_service" / "console" / "locale" / "ru.po",
    ROOT / "src" / "payment_service" / "notifications" / "texts.py",
]


def test_every_meaning_has_one_word() -> None:
    assert len(WORDS) > 30
    assert len(NOT_USED) > 5
    for language in ("ru", "kk"):
        words = [translated[language] for translated in WORDS.values()]
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("language", ["ru", "kk"])
def test_console_says_what_the_glossary_says(language: str) -> None:
    texts = {str(message.id): str(message.string) for message in catalogue(CONSOLE, language) if message.id}
    said = {word: texts.get(word, texts.get(word.capitalize(), "")).lower() for word in WORDS}
    compared = {word: text for word, text in said.items() if text}
    assert compared.keys() >= {"refund", "order", "code", "paid", "waiting", "unknown", "settled by hand", "BIN"}
    assert compared == {word: WORDS[word][language].lower() for word in compared}


@pytest.mark.parametrize("document", RUSSIAN, ids=lambda document: document.name)
def test_words_that_are_not_used_are_not_used(document: Path) -> None:
    text = document.read_text("utf-8").lower()
    assert [word for word in NOT_USED if re.search(rf"\b{word}", text)] == []
