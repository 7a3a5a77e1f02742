"""What documents and docstrings point at is there: links, headings, files, the moves that the architecture draws."""

import re
from pathlib import Path
from typing import Final

import pytest

from payment_service.payments import lifecycle as payments
from payment_service.refunds import lifecycle as refunds

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("docs", "src", "tests", "migrations", "faults", "fuzz", "model", "benchmarks", "clients")
FILES: Final = sorted(
    [*ROOT.glob("*.md"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.is_file())]
)
DOCUMENTS: Final = [file for file in FILES if file.suffix == ".md" and "swagger_ui" not in file.parts]
SOURCES: Final = [file for file in FILES if file.suffix == ".py"]
PLACES: Final = ("", "src", "src/payment_service", "clients/php")
"""Where a path that is cited may begin, beside the folder of the file that cites it."""
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_EXPLAINING: Final = re.compile(r'^[ ]*"""(?s:.*?)"""|#.*$|-- .*$', re.MULTILINE)
"""Docstrings and comments, those of SQL too."""
_CITED: Final = re.compile(r"(?<![\w/.<-])(\w[\w-]*(?:/[\w.-]+)*\.(?:py|md|sql|toml|pml|csv))(?![\w/-])")


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def without_blocks(text: str) -> str:
    """A document without its fenced code, whose lines may look like headings."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(path: str, cited_by: Path) -> bool:
    return any((place / path).exists() for place in (cited_by.parent, *(ROOT / place for place in PLACES)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    links = _LINK.findall(without_blocks(document.read_text("utf-8")))
    for link in links:
        path, _, anchor = link.partition("#")
        if ":" in path:  # of another host
            continue
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_a_document_names_exist(document: Path) -> None:
    quoted = re.findall(r"`([^`\n]+)`", without_blocks(document.read_text("utf-8")))
    named = [path for words in quoted for path in _CITED.findall(words) if "/" in path]
    assert [path for path in named if not is_there(path, document)] == []


def test_files_that_docstrings_and_comments_name_exist() -> None:
    missing = [
        f"{name_of(source)}: {path}"
        for source in SOURCES
        for text in _EXPLAINING.findall(source.read_text("utf-8"))
        for path in _CITED.findall(text)
        if ("/" in path or path.endswith(".md")) and not is_there(path, source)
    ]
    assert missing == []


@pytest.mark.parametrize(("what", "moves"), [("payment", payments.MOVES), ("refund", refunds.MOVES)])
def test_architecture_draws_the_moves_of_the_code(what: str, moves: frozenset[tuple[str, str]]) -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    [block] = re.findall(rf"^A {what}:\n\n((?:    .+\n)+)", architecture, re.MULTILINE)
    lines = re.findall(r"^ +(\w+) +-> (\w+(?: \| \w+)*)", block, re.MULTILINE)
    assert {(before, after) for before, afters in lines for after in afters.split(" | ")} == moves
