"""What the service is made of: licences, bounds of versions, the list of parts and the look-up of vulnerabilities."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from payment_dev import licences
from payment_dev.licences import LicenceError

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / licences.LOCK).read_text("utf-8")
PAGE = (ROOT / licences.DOCUMENT).read_text("utf-8")
NAMES = re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE)


def make(target: str, *variables: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A target of the Makefile, with the tools that run this test."""
    command = ["make", "-o", ".venv/.installed", target, f"BIN={Path(sys.executable).parent}", *variables]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


# --- licences


def test_page_of_licences_is_what_the_installed_packages_declare() -> None:
    assert licences.page(LOCK) == PAGE, "run  make licences"


def test_no_locked_package_is_missing_and_none_is_there_twice() -> None:
    listed = re.findall(r"^\| ([a-z0-9-]+) \| \S", PAGE, re.MULTILINE)
    assert sorted([*listed, *licences.left_out(LOCK)]) == sorted(NAMES)
    assert licences.left_out(LOCK) == ["colorama"]


def test_every_exception_is_needed() -> None:
    for name, version in licences.locked(LOCK).items():
        assert (name in licences.EXCEPTIONS) != licences.is_permissive(licences.licence_of(name, version))
    assert licences.EXCEPTIONS.keys() <= set(NAMES)


def test_permissive_licences_leave_out_each_copyleft_one() -> None:
    assert not [name for name in licences.PERMISSIVE if re.search(r"GPL|General Public|MPL|EPL|SSPL|SA", name)]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("License-Expression: AGPL-3.0-or-later", "is under AGPL-3.0-or-later"),
        ("License-Expression: MIT AND GPL-2.0-only", "is under MIT AND GPL-2.0-only"),
        ("License: GPLv3", "is under GPLv3"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", "is under GNU General"),
        ("License: UNKNOWN", "is under UNKNOWN"),
        ("Classifier: License :: OSI Approved", "declares no licence"),
        ("Summary: says nothing", "declares no licence"),
    ],
)
def test_package_that_might_bind_us_is_refused(
    lines: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "made_up-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: made-up\nVersion: 1.0\n{lines}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LicenceError, match=f"^made-up {re.escape(says)}"):
        licences.page("made-up==1.0 \\\n    --hash=sha256:0\n")


@pytest.mark.parametrize("line", ["no-such-package==1.0", "fastapi==0.1"])
def test_package_that_is_not_here_in_its_locked_version_is_refused(line: str) -> None:
    with pytest.raises(LicenceError, match=r"is not installed|and 0\.1 in requirements-extras\.lock"):
        licences.page(line + "\n")


# --- versions


def test_every_upper_bound_says_why() -> None:
    lines = (ROOT / "pyproject.toml").read_text("utf-8").splitlines()
    project = tomllib.loads("\n".join(lines))
    extras = [one for extra in project["project"]["optional-dependencies"].values() for one in extra]
    listed = [*project["project"]["dependencies"], *extras, *project["dependency-groups"]["dev"]]
    bounded = [one for one in listed if "<" in one]
    assert bounded
    for one in bounded:
        (number,) = (number for number, line in enumerate(lines) if line.strip().startswith(f'"{one}"'))
        assert lines[number - 1].strip().startswith("# "), one


def test_lock_file_of_the_extras_holds_all_that_every_image_does() -> None:
    every_image = licences.locked((ROOT / "requirements.lock").read_text("utf-8"))
    assert every_image.items() <= licences.locked(LOCK).items()
    assert {"authlib", "opentelemetry-sdk", "sentry-sdk"} <= licences.locked(LOCK).keys() - every_image.keys()


# --- the base image


@pytest.fixture
def dockerfile(tmp_path: Path) -> Path:
    """Ours with a tag alone, and a docker beside it that knows the digest of that and writes down what it builds."""
    file = tmp_path / "Dockerfile"
    file.write_text(re.sub(r"^(ARG PYTHON=[^@\n]*).*$", r"\1", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" = build ] && echo "$@" >> "$DONE" || printf "%s\\n" "$DIGEST"\n')
    docker.chmod(0o755)
    return file


def test_image_is_built_only_from_a_digest_which_is_asked_for(dockerfile: Path) -> None:
    done = dockerfile.parent / "done"
    environment = {"PATH": f"{dockerfile.parent}:{os.environ['PATH']}", "DONE": str(done)}
    tag = dockerfile.read_text()
    refused = make("image", f"DOCKERFILE={dockerfile}", **environment)
    assert (refused.returncode, done.exists()) == (2, False)
    assert "make pin" in refused.stdout
    for nothing in ("", "sha256:", "sha256:" + "a" * 63, "error: no such image"):
        assert make("pin", f"DOCKERFILE={dockerfile}", DIGEST=nothing, **environment).returncode == 2
        assert dockerfile.read_text() == tag
    for letter in "ab":  # the second replaces the first
        assert make("pin", f"DOCKERFILE={dockerfile}", DIGEST="sha256:" + letter * 64, **environment).returncode == 0
    assert re.search(r"^ARG PYTHON=python:3\.11\.\d+-slim-\w+@sha256:b{64}$", dockerfile.read_text(), re.MULTILINE)
    assert make("image", f"DOCKERFILE={dockerfile}", **environment).returncode == 0
    assert "build --tag payment-service" in done.read_text()


# --- vulnerabilities


@pytest.mark.thorough
def test_audit_without_network_fails_and_calls_nothing_clean(tmp_path: Path) -> None:
    done = make("audit", HTTPS_PROXY="http://127.0.0.1:1", HOME=str(tmp_path))
    assert done.returncode != 0
    assert "nothing is known" in done.stdout
    assert "No known vulnerabilities" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
