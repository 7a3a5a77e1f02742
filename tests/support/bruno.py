"""Requests of the Bruno collection, read from its files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from tests.support.documents import ROOT

COLLECTION: Final = ROOT / "clients" / "bruno"
_BLOCK: Final = re.compile(r"^([\w:-]+) \{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def blocks(text: str) -> dict[str, str]:
    """The blocks of a ``.bru`` file by their names."""
    return dict(_BLOCK.findall(text))


def pairs(block: str) -> dict[str, str]:
    """``name: value`` lines."""
    return {name: value for name, value in re.findall(r"^ +([\w-]+): (.+)$", block, re.MULTILINE)}  # noqa: C416


@dataclass(frozen=True, slots=True)
class Request:
    """One request, before its variables are filled in."""

    name: str
    seq: int
    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None
    tests: str

    @classmethod
    def read(cls, text: str) -> Self:
        """A request from its file's text."""
        found = blocks(text)
        [method] = [method for method in _METHODS if method in found]
        meta = pairs(found["meta"])
        headers = pairs(found.get("headers", ""))
        return cls(
            name=meta["name"],
            seq=int(meta["seq"]),
            method=method.upper(),
            url=pairs(found[method])["url"],
            headers=headers,
            body=found.get("body:json"),
            tests=found.get("tests", ""),
        )

    @property
    def expected(self) -> dict[str, Any]:
        """What its tests want to be equal: ``status`` and ``body.NAME``."""
        wanted = re.findall(r"expect\(res\.([\w.]+)\)\.to\.equal\((.+?)\);", self.tests)
        return {name: json.loads(value) for name, value in wanted}

    @property
    def remembers(self) -> dict[str, str]:
        """Variables that its tests set, and the fields of the answer that they are set from."""
        return dict(re.findall(r'bru\.setVar\("(\w+)", res\.body\.(\w+)\)', self.tests))


def requests() -> list[Request]:
    """The requests in the order in which Bruno runs them."""
    files = [file for file in COLLECTION.glob("*.bru") if file.name != "collection.bru"]
    return sorted((Request.read(file.read_text("utf-8")) for file in files), key=lambda one: one.seq)


def filled(text: str, variables: Mapping[str, str]) -> str:
    """A text with its ``{{variables}}``; one that is not set is an error."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: variables[found[1]], text)
