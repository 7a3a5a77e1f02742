"""The licences of what the service is installed with, read from the metadata of the installed packages.

Owns docs/licences.md, which ``make licences`` writes: every package that requirements-extras.lock puts into an image
with all optional extras, with the licence that it declares. A licence that is not known to be permissive stands there
with the reason why we may use it, or there is no page.
"""

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

LOCK: Final = Path("requirements-extras.lock")
DOCUMENT: Final = Path("docs/licences.md")
IMAGE: Final = {"sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython"}
"""What the markers of the lock file are asked about, whatever this machine is."""
PERMISSIVE: Final = frozenset(
    {
        "Apache Software License",
        "Apache-2.0",
        "BSD License",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "3-Clause BSD License",
        "ISC License",
        "MIT",
    }
    | {"MIT License", "MIT-0", "PSF-2.0"}
)
"""As SPDX names them, or as older packages write them. They ask that their text stays with the code, as it does in the
package's own folder."""
EXCEPTIONS: Final = {
    "certifi": "it binds only its own files, which are installed as they come",
}
"""Packages under another licence, and why it does not bind the service."""
_HEAD: Final = """\
# Licences of what the image holds

Made by `make licences` from what the installed packages of `requirements-extras.lock` declare: the image with every
optional extra; a test compares. A licence other than MIT, BSD, Apache, ISC or Python's own needs an exception with its
reason in `src/payment_dev/licences.py`: GPL or AGPL cannot come in unseen.

| Package | Licence |
|---|---|
"""
_FOOT: Final = """
Files of others in our own package: htmx 2.0.11 (0BSD) in the console; Swagger UI 5.35.0 (Apache-2.0; its bundle names
what it holds of others) for `/docs`. Not listed: what a wheel was compiled with, which the packages name in their
folders `sboms` and `licenses` where they do; Python and Debian in the base image (`/usr/share/doc`); and what only
developers install.
"""


class LicenceError(Exception):
    """A package whose licence cannot be listed; the message is a sentence that says what to do."""


def locked(lock: str, environment: Mapping[str, str] = IMAGE) -> dict[str, str]:
    """The packages that a lock file installs in an environment, each with its version."""
    return {
        each.name: str(each.specifier).removeprefix("==")
        for each in _requirements(lock)
        if each.marker is None or each.marker.evaluate(dict(environment))
    }


def left_out(lock: str) -> list[str]:
    """The packages of a lock file that the image does not install."""
    return [each.name for each in _requirements(lock) if each.name not in locked(lock)]


def licence_of(name: str, version: str) -> str:
    """The licence that an installed package declares.

    Raises:
        LicenceError: when another version is installed, or none; when no licence is declared; when it is neither
            permissive nor among the exceptions.
    """
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise LicenceError(f"{name} is not installed: install what requirements-dev.lock lists.") from None
    if package.version != version:
        raise LicenceError(f"{name} is {package.version} here and {version} in {LOCK}: run  make lock  and install it.")
    licence = declared(package.metadata.json)
    if not licence:
        raise LicenceError(f"{name} declares no licence: read its source, and decide whether we may use it.")
    if name not in EXCEPTIONS and not is_permissive(licence):
        raise LicenceError(f"{name} is under {licence}: replace it, or add an exception that says why it may be used.")
    return licence


def declared(metadata: Mapping[str, str | list[str]]) -> str:
    """The licence of a package's metadata, by the newest of three ways to declare it; empty when there is none."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    classifiers = [str(each).split(" :: ") for each in metadata.get("classifier", [])]
    names = sorted({each[-1] for each in classifiers if each[0] == "License" and each[-1] != "OSI Approved"})
    text = str(metadata.get("license", "")).strip()
    return text if text and "\n" not in text and len(names) < 2 else " OR ".join(names)


def is_permissive(licence: str) -> bool:
    """Whether every licence of an expression is known to be permissive."""
    return all(name in PERMISSIVE for name in re.split(r" (?:OR|AND) ", licence))


def page(lock: str) -> str:
    """The text of docs/licences.md.

    Raises:
        LicenceError: see ``licence_of``.
    """
    rows = []
    for name, version in locked(lock).items():
        cell = ": ".join(filter(None, [licence_of(name, version), EXCEPTIONS.get(name)]))
        rows.append(f"| {name} | {cell} |\n")
    elsewhere = ", ".join(left_out(lock))
    return _HEAD + "".join(rows) + (f"\nLocked for other systems only: {elsewhere}.\n" if elsewhere else "") + _FOOT


def _requirements(lock: str) -> Iterator[Requirement]:
    for line in re.findall(r"^[a-z].*$", lock, re.MULTILINE):
        yield Requirement(line.rstrip(" \\"))
