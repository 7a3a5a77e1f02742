"""The Russian documents say what the English ones say: the same headings, the same code, the same links and rows."""

import re
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.support.documents import ROOT, Section, code_in, sections

TRANSLATED: Final = sorted(file for folder in (ROOT, ROOT / "docs") for file in folder.glob("*.ru.md"))
translated = pytest.mark.parametrize("russian", TRANSLATED, ids=lambda file: str(file.relative_to(ROOT)))
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_ITEM: Final = re.compile(r"^\s*(?:[-*]|\d+\.) ", re.MULTILINE)
_ROW: Final = re.compile(r"^\|.*\|$", re.MULTILINE)


def pair(russian: Path) -> list[tuple[Section, Section]]:
    """The sections of both, beside each other."""
    english = russian.with_name(russian.name.replace(".ru.md", ".md"))
    both = [sections(file.read_text("utf-8")) for file in (english, russian)]
    assert [one.level for one in both[0]] == [one.level for one in both[1]], [one.title for one in both[0]]
    return list(zip(*both, strict=True))


def targets(section: Section) -> Counter[str]:
    """Where links lead: to a document, of whichever language; anchors are words of their language."""
    return Counter(link.partition("#")[0].replace(".ru.md", ".md") for link in _LINK.findall(section.text))


def test_documents_are_translated() -> None:
    assert {file.name for file in TRANSLATED} >= {"README.ru.md", "bitrix.ru.md", "migrate.ru.md"}


@translated
def test_headings_are_translated(russian: Path) -> None:
    assert len(pair(russian)) > 5
    same = [ours.title for english, ours in pair(russian) if ours.title == english.title and ours.level > 1]
    assert same == []


@translated
def test_code_blocks_are_the_same(russian: Path) -> None:
    for english, ours in pair(russian):
        assert ours.blocks == english.blocks, english.title


@translated
def test_code_in_the_text_links_items_and_rows_are_the_same(russian: Path) -> None:
    for english, ours in pair(russian):
        assert Counter(code_in(ours.text)) == Counter(code_in(english.text)), english.title
        assert targets(ours) == targets(english), english.title
        assert [len(kind.findall(ours.text)) for kind in (_ITEM, _ROW)] == [
            len(kind.findall(english.text)) for kind in (_ITEM, _ROW)
        ], english.title
