"""``python -m payment_dev run``, which ``make run`` calls: tried with curl, stopped by Ctrl-C, started again."""

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.database import Server
from tests.support.processes import Process, clean_environment, free_port, is_free, run
from tests.support.shops import SHOPS
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.xdist_group("dev"), pytest.mark.thorough]

# docs/contract.md section 1, word for word but for the port and the id; what the answer shows stands beside it.
EXAMPLES: dict[str, tuple[str, Any]] = {
    "create": (
        """curl -X POST http://localhost:8015/payments/kaspi/create -H "Content-Type: application/json" \\
             -d '{"shop_id": 8, "amount": 100, "phone": "77015211545", "message": "Test payment"}'""",
        {"success": True, "status": "Wait", "organization_bin": "891027350515"},
    ),
    "status": (
        "curl http://localhost:8015/payments/kaspi/status/12800627774",
        {"success": True, "external_id": "12800627774", "status": "Processed"},
    ),
    "refund": (
        """curl -X POST http://localhost:8015/payments/kaspi/refund -H "Content-Type: application/json" \\
             -d '{"shop_id": 8, "external_id": "12800627774", "amount": 50}'""",
        {
            "success": True,
            "external_id": "12800627774",
            "refunded_amount": 50,
            "organization_bin": "891027350515",
        },
    ),
    "config": (
        'curl -s "http://localhost:8015/api/payment/config?shop_id=121038"',
        {"shop_id": 121038, "organization_bin": "920317450731", "is_active": True, "provider": "kaspi"},
    ),
    "configs": (
        "curl http://localhost:8015/admin/configs",
        [{"shop_id": 8, "organization_bin": "891027350515", "is_active": True, "provider": "kaspi"}],
    ),
    "add": (
        """curl -X POST http://localhost:8015/admin/configs -H "Content-Type: application/json" \\
             -d '{"shop_id": 9, "organization_bin": "991011000048", "device_token": "your-device-token-uuid",
                  "is_active": true}'""",
        {"shop_id": 9, "organization_bin": "991011000048", "device_token": "your-device-token-uuid", "is_active": True},
    ),
    "logs": (
        'curl "http://localhost:8015/admin/logs?shop_id=8&limit=100"',
        [
            {
                "shop_id": 8,
                "organization_bin": "891027350515",
                "operation_type": "create",
                "external_id": "12800627774",
                "amount": 10000,
                "status": "Wait",
            }
        ],
    ),
}


_NEED_MORE = {
    "import-legacy",
    "set-token",
    "settle",
    "settle-refund",
    "undo-settle",
    "replay",
    "--csv",
    "https://shop.example.kz/webhook",
}
"""An id, a terminal, a file, a host or another database that the reader has and a test has not."""
README = [
    words
    for line in re.findall(r"^payment-service (.+?)(?: +#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    if (words := shlex.split(line)) and not {*_NEED_MORE, "--help", "--install-completion"} & {*words}
]
"""The commands of the README that can be pasted as they are."""


class Dev:
    """A development server, as a person runs it in a terminal."""

    def __init__(self, folder: Path, *words: str, **settings: str) -> None:
        self.port, self.sandbox_port, self.data = free_port(), free_port(), folder / ".data"
        ports = ["--port", str(self.port), "--sandbox-port", str(self.sandbox_port)]
        self.program = Process(
            ["payment_dev", "run", "--data", str(self.data), *ports, *words],
            environment=clean_environment(folder, PYTHONUNBUFFERED="1", **settings),
            folder=folder,
            name=f"dev-{self.port}",
            port=self.port,
            fork=False,
        )
        self.url = f"http://localhost:{self.port}"

    async def welcomed(self) -> str:
        """Wait for the banner; returns it."""

        async def banner() -> str | None:
            assert self.program.alive, self.program.written
            found = re.search(r"^payment-service is ready.*?make demo$", self.program.written, re.DOTALL | re.MULTILINE)
            return found and found[0]

        return await until(banner, "the banner", within_s=60)

    def curl(self, command: str, external_id: str = "") -> Any:
        """Paste a command line into a shell, for this server and this payment."""
        command = command.replace("localhost:8015", f"localhost:{self.port}").replace("12800627774", external_id)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=20, check=True)
        return json.loads(done.stdout)

    def family(self) -> set[int]:
        """The processes that it started, and those that these started."""
        found, parents = {self.program.pid}, _parents()
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        if (file := self.data / "postgres" / "cluster" / "postmaster.pid").exists():
            found.add(int(file.read_text().split()[0]))
        return found

    async def ctrl_c(self) -> int:
        """Ctrl-C reaches the whole foreground group of the terminal."""
        os.killpg(self.program.pid, signal.SIGINT)
        return await self.program.ended(within_s=30)


def _parents() -> dict[int, int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    return {int(pid): int(parent) for pid, parent in (line.split() for line in listed.stdout.splitlines())}


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    shown = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True)
    lines = (line.split() for line in shown.stdout.splitlines())
    return {int(pid) for pid, status in lines if not status.startswith("Z")} & pids


@asynccontextmanager
async def running(folder: Path, *words: str, **settings: str) -> AsyncIterator[Dev]:
    dev = Dev(folder, *words, **settings)
    try:
        yield dev
    finally:
        await dev.program.stop(signal.SIGINT)


@dataclass
class Story:
    """Two starts of one development server, and what was tried in between."""

    folder: Path
    banner: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    banner_answers: list[Any] = field(default_factory=list)
    commands: "list[CompletedProcess[str]]" = field(default_factory=list)
    external_id: str = ""
    shops_in_view: int = 0
    seven: Any = None
    exit_code: int | None = None
    left_running: set[int] = field(default_factory=set)
    ports_free: list[bool] = field(default_factory=list)
    written: str = ""
    configs_again: Any = None
    status_again: Any = None


@pytest.fixture(scope="module")
async def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    story = Story(tmp_path_factory.mktemp("dev"))
    async with running(story.folder) as dev:
        story.banner = await dev.welcomed()
        await asyncio.to_thread(try_everything, dev, story)
        family = dev.family()
        story.exit_code = await dev.ctrl_c()
        story.left_running = alive(family)
        story.ports_free = [is_free(port) for port in (dev.port, dev.sandbox_port)]
        story.written = dev.program.written
    async with running(story.folder) as dev:
        await dev.welcomed()
        story.configs_again = await asyncio.to_thread(dev.curl, EXAMPLES["configs"][0])
        story.status_again = await asyncio.to_thread(dev.curl, EXAMPLES["status"][0], story.external_id)
    return story


def try_everything(dev: Dev, story: Story) -> None:
    answers = story.answers
    story.seven = dev.curl(f"curl {dev.url}/api/payment/config")
    answers["configs"] = dev.curl(EXAMPLES["configs"][0])
    answers["create"] = dev.curl(EXAMPLES["create"][0])
    story.external_id = answers["create"]["external_id"]
    # Somebody presses "Pay" on the stand-in's page: customers take some seconds by themselves.
    httpx.post(f"http://127.0.0.1:{dev.sandbox_port}/_payments/{story.external_id}/pay").raise_for_status()
    for name in ("status", "refund", "config", "add", "logs"):
        answers[name] = dev.curl(EXAMPLES[name][0], story.external_id)
    environment = clean_environment(story.folder)
    story.commands = [run(words, environment=environment, folder=story.folder) for words in README]
    story.banner_answers = [dev.curl(command) for command in _commands(story.banner)]


def _commands(banner: str) -> list[str]:
    return re.findall(r"^  (curl .*?)(?=\n\s*\n)", banner, re.DOTALL | re.MULTILINE)


def _shows(answer: Any, shown: Any, external_id: str) -> bool:
    """Whether an answer has the fields that the contract shows, with their values and types."""
    if isinstance(shown, list):
        return any(_shows(one, shown[0], external_id) for one in answer)
    wanted = {name: external_id if value == "12800627774" else value for name, value in shown.items()}
    return {name: answer.get(name) for name in wanted} == wanted


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_the_contract_is_answered_as_it_shows(story: Story, name: str) -> None:
    assert _shows(story.answers[name], EXAMPLES[name][1], story.external_id), story.answers[name]


def test_first_shop_of_the_list_is_the_one_of_the_examples(story: Story) -> None:
    assert story.answers["configs"][0]["shop_id"] == 8


def test_config_has_its_device_token_whole(story: Story) -> None:
    assert re.fullmatch(r"[0-9a-f-]{36}", story.answers["config"]["device_token"])


def test_seven_shops_and_shop_8_have_their_routing(story: Story) -> None:
    assert {shop["shop_id"]: shop["organization_bin"] for shop in story.seven} == SHOPS | {8: "891027350515"}


def test_every_line_of_the_banner_can_be_pasted(story: Story) -> None:
    created, payments, config = story.banner_answers
    assert created["success"] is True
    assert payments["items"]
    assert config["shop_id"] == 121038


def test_banner_shows_the_addresses(story: Story) -> None:
    assert re.search(r"http://localhost:\d+/docs", story.banner)
    assert len(set(re.findall(r"http://localhost:(\d+)", story.banner))) == 2


def test_commands_of_the_readme_run_beside_it(story: Story) -> None:
    assert ["payments", "tasks"] in README
    assert len(README) > 5
    for done in story.commands:
        assert done.returncode == 0, (done.args, done.stdout, done.stderr)
        assert "With the development server's settings" in done.stderr
        assert "Traceback" not in done.stderr


def test_settings_for_commands_go_with_the_server(story: Story) -> None:
    assert not (story.folder / ".data" / "settings.json").exists()


def test_ctrl_c_stops_everything_that_was_started(story: Story) -> None:
    assert story.left_running == set()
    assert story.ports_free == [True, True]
    assert not (story.folder / ".data" / "postgres" / "cluster" / "postmaster.pid").exists()


def test_ctrl_c_ends_well_and_without_a_traceback(story: Story) -> None:
    assert story.exit_code == 0
    assert "Traceback" not in story.written


def test_second_start_keeps_what_was_there(story: Story) -> None:
    assert {shop["shop_id"] for shop in story.configs_again} == {8, 9, *SHOPS}
    assert _shows(story.status_again, EXAMPLES["status"][1], story.external_id)


def test_server_writes_no_secret(story: Story) -> None:
    made_up = json.loads((story.folder / ".data" / "secrets.json").read_text())
    hidden = [made_up["access_token"], made_up["encryption_key"], *made_up["device_tokens"].values()]
    assert not [secret for secret in hidden if secret in story.written]
    assert "77015211545" not in story.written.replace(story.banner, "")


def test_made_up_secrets_are_for_their_owner_alone(story: Story) -> None:
    assert (story.folder / ".data" / "secrets.json").stat().st_mode & 0o077 == 0


async def test_database_url_is_used_instead_of_a_server_of_its_own(
    server: Server, worker_id: str, tmp_path: Path
) -> None:
    url = await server.make(f"dev_{worker_id}", empty=True)
    spelled = url.replace("postgresql://", "postgres://") + "?sslmode=disable"
    async with running(tmp_path, DATABASE_URL=spelled) as dev:
        await dev.welcomed()
        assert not (dev.data / "postgres").exists()
        connection = await asyncpg.connect(url)
        count = await connection.fetchval("SELECT count(*) FROM paymentconfig")
        await connection.close()
    assert count == 8


def one_sentence(program: Process) -> str:
    """The only thing that a program wrote."""
    lines = program.written.strip().splitlines()
    assert len(lines) == 1, program.written
    return lines[0]


@pytest.mark.parametrize("option", ["--port", "--sandbox-port"])
async def test_port_in_use_is_told_in_a_sentence(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        dev = Dev(tmp_path, option, str(port))
        assert await dev.program.ended() == 1
    sentence = one_sentence(dev.program)
    assert f"Port {port}" in sentence
    assert option in sentence
    assert not dev.data.exists()


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql://nobody:hidden-word@127.0.0.1:1/nowhere", id="nobody listens"),
        pytest.param("mysql://nobody:hidden-word@127.0.0.1/nowhere", id="no PostgreSQL", marks=pytest.mark.thorough),
    ],
)
async def test_unusable_database_url_is_told_in_a_sentence(tmp_path: Path, url: str) -> None:
    dev = Dev(tmp_path, DATABASE_URL=url)
    assert await dev.program.ended() == 1
    sentence = one_sentence(dev.program)
    assert "DATABASE_URL" in sentence
    assert "hidden-word" not in sentence
    assert is_free(dev.sandbox_port)
