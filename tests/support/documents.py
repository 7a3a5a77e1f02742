"""Markdown documents of the repository, taken apart: sections, code blocks, code in the text, commands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
_HEADING: Final = re.compile(r"(#+) (.+)")
_FENCE: Final = re.compile(r"\s*```")
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Part:
    """A run of lines of one kind."""

    is_code: bool
    text: str
    """Of a fenced block with its fences, so that the language counts too."""


def parts(document: str) -> Iterator[Part]:
    """A document as text and blocks of code, fenced or indented by four spaces, in order."""
    lines = document.splitlines()
    at = begin = 0
    after_blank = True
    while at < len(lines):
        end = _end_of_code(lines, at, after_blank)
        if end is None:
            after_blank = not lines[at].strip()
            at += 1
            continue
        if begin < at:
            yield Part(is_code=False, text="\n".join(lines[begin:at]))
        yield Part(is_code=True, text="\n".join(lines[at:end]).rstrip())
        at = begin = end
        after_blank = False
    if begin < at:
        yield Part(is_code=False, text="\n".join(lines[begin:at]))


def _end_of_code(lines: list[str], at: int, after_blank: bool) -> int | None:
    if _FENCE.match(lines[at]):
        return next((end + 1 for end in range(at + 1, len(lines)) if _FENCE.match(lines[end])), len(lines))
    if not (after_blank and lines[at].startswith("    ")):
        return None
    end = at
    while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
        end += 1
    while not lines[end - 1].strip():
        end -= 1
    return end


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands below it, up to the next heading of any level."""

    level: int
    title: str
    text: str
    blocks: tuple[str, ...]


def sections(document: str) -> list[Section]:
    """The sections of a document. What stands before the first heading has level 0."""
    found: list[tuple[int, str, list[str], list[str]]] = [(0, "", [], [])]
    for part in parts(document):
        if part.is_code:
            found[-1][3].append(part.text)
            continue
        for line in part.text.splitlines():
            if heading := _HEADING.fullmatch(line):
                found.append((len(heading[1]), heading[2], [], []))
            else:
                found[-1][2].append(line)
    return [Section(level, title, "\n".join(text), tuple(blocks)) for level, title, text, blocks in found]


def code_in(text: str) -> list[str]:
    """What stands in backticks, each in one line."""
    return [" ".join(code.split()) for code in _CODE.findall(text)]


def commands_of(document: str) -> Iterator[str]:
    """Every line of a document that may be a command: of blocks, joined where they go on, and in backticks."""
    for part in parts(document):
        if part.is_code:
            yield from part.text.replace("\\\n", " ").splitlines()
        else:
            yield from code_in(part.text)
