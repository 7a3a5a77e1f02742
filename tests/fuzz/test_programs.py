"""The programs that no other test starts from their command line begin, and end well."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("faults")]


@pytest.mark.parametrize("words", [("fuzz", "--cases", "300"), ("faults.flood", "300")], ids=lambda words: words[0])
def test_short_run_finds_nothing(words: tuple[str, ...]) -> None:
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-m", *words], cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
