"""Every command that a document shows is one that exists: of the service, of make, of Python, and what curl asks."""

import json
import re
import shlex
import uuid
from importlib.util import find_spec
from typing import Any, Final

import pytest

from tests.support.command_line import can_run, mistakes, tree, words_of
from tests.support.documents import ROOT, commands_of
from tests.support.rig import Rig

DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "docs" / "llms.txt"])
LINES: Final = [
    (str(document.relative_to(ROOT)), line)
    for document in DOCUMENTS
    if document.name != "CHANGELOG.md"  # tells of commands that are no more
    for line in commands_of(document.read_text("utf-8"))
]
OURS: Final = sorted({(document, *words) for document, line in LINES if (words := words_of(line))})
NOBODY: Final = "postgresql://reader@127.0.0.1:1/old"
STAY: Final = ("serve", "worker")
"""Commands that do not end by themselves; other tests start them."""
NEED_MORE: Final = [
    ("audit", "retire"),
    ("audit", "verify", "--expect"), ("audit", "verify", "--file"), ("audit", "verify", "--from-seal"),
    ("doctor",), ("events", "retire"), ("import-legacy",), ("notify", "test"), ("payments", "settle"),
    ("payments", "settle-refund"), ("payments", "undo-settle"), ("people", "link", "2", "--send"),
    ("sending", "release", "--replicas-have-all"), ("webhooks",),
]  # fmt: skip
"""How commands begin that need what is not here: a payment, an endpoint, another host, a replica, mail, a worker."""


@pytest.fixture(scope="module")
def commands() -> dict[tuple[str, ...], Any]:
    return dict(tree())


def test_commands_of_the_service_are_taken_by_its_command_line(commands: dict[tuple[str, ...], Any]) -> None:
    assert len(OURS) > 60
    wrong = {
        f"{document}: payment-service {shlex.join(words)}": found
        for document, *words in OURS
        if (found := mistakes(words, commands))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("shops lists", "there is no command 'lists' in shops"),
        ("shop list", "there is no command 'shop' in payment-service"),
        ("shops import --dry", "there is no option --dry"),
        ("keys create bitrix --scope payments:wirte", "--scope does not take 'payments:wirte'"),
        ("keys create bitrix", "--scope is missing"),
        ("shops set-token 121038 twice", "'twice' is one word too many"),
        ("shops set-token first", "shop_id does not take 'first'"),
    ],
)
def test_mistake_in_a_command_is_seen(line: str, mistake: str, commands: dict[tuple[str, ...], Any]) -> None:
    assert mistake in " ".join(mistakes(line.split(), commands))


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = [line for _, line in LINES if line.lstrip().startswith("make ")]
    named = {name for line in commands for name in re.findall(r"\bmake ([a-z]+)", line.partition("#")[0])}
    assert len(named) > 8
    assert named - targets == set()


def test_python_modules_that_are_run_exist() -> None:
    named = {name for _, line in LINES for name in re.findall(r"python -m ([\w.]+)", line)}
    assert {"faults", "kaspi_sandbox"} <= named
    assert {name for name in named - {"venv"} if find_spec(name) is None} == set()


def test_what_curl_asks_exists() -> None:
    """Every address of the service that a document asks is in the OpenAPI document, with its method."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text("utf-8"))["paths"]
    asked: set[tuple[str, str]] = set()
    for _, line in LINES:
        if not re.match(r"\s*curl ", line):
            continue
        method = re.search(r"-X (\w+)", line)
        address = re.search(r"(?:https?://[\w.:-]+|\$URL)(/[^\s\"'?#]*)", line)
        if address:
            asked.add((method[1] if method else "POST" if " -d " in line else "GET", address[1]))
    assert len(asked) > 8
    unknown = [
        (method, path)
        for method, path in asked
        if not any(
            re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(known)), path) and method.lower() in operations
            for known, operations in paths.items()
        )
    ]
    assert unknown == []


@pytest.mark.thorough
@pytest.mark.parametrize("document", sorted({document for document, *_ in OURS if not document.endswith(".ru.md")}))
async def test_commands_run_in_the_order_of_their_document(
    document: str, shell: Rig, commands: dict[tuple[str, ...], Any]
) -> None:
    """They end well, or say in a sentence what is not there; none is refused as a wrong command."""
    assert shell.run("shops", "import").returncode == 0
    for named, line in LINES:
        words = words_of(line) if named == document else None
        if not words or words[0] in STAY or not can_run(words, commands):
            continue
        done = shell.run(*words, text=f"{uuid.uuid4()}\n", TELEGRAM_BOT_TOKEN="42:anything", LEGACY_DATABASE_URL=NOBODY)
        needs_more = any(tuple(words[: len(each)]) == each for each in NEED_MORE)
        assert done.returncode in ((0, 1) if needs_more else (0,)), (words, done.stdout, done.stderr)
