"""``payment-service reconcile`` as a process, over made payments of the stand-in; no worker follows them."""

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payment_service.cli.reconcile import _Progress, moment
from payment_service.reconciliation.service import Walk
from tests.support.database import Server
from tests.support.rig import Rig
from tests.support.shops import SHOPS
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("reconcile")

PAID, OPEN, UNTOLD = "77015219011", "77015219017", "77015219027"
"""Phones whose owner pays at once, waits, or whose create is applied and its answer lost."""
SHOP, OTHER_SHOP = 121038, 75509
PAYMENTS = 24
SINCE = "2026-01-01"


@pytest.fixture(scope="module")
async def books(server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """A service without a worker: every second payment is paid there and open here, one is unknown."""
    folder, database = tmp_path_factory.mktemp("books"), await server.make(f"books_{worker_id}")
    async with Rig(folder, database) as rig:
        rig.services = [await rig.serve()]
        rig.clients = [rig.client(rig.services[0])]
        await rig.route_all()
        for number in range(PAYMENTS):
            shop_id = OTHER_SHOP if number % 3 == 0 else SHOP
            answer = await rig.create(
                shop_id, phone=PAID if number % 2 else OPEN, amount=f"{number}.01" if number else "0.01"
            )
            assert answer.status_code == 200
        assert (await rig.create(SHOP, phone=UNTOLD)).status_code == 202
        yield rig


def reconcile(rig: Rig, *words: str) -> "subprocess.CompletedProcess[str]":
    return rig.run("reconcile", "--since", SINCE, *words)


def lines_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_bytes().decode("utf-8-sig"))))


def test_differences_are_printed_and_the_sums_are_written(books: Rig, tmp_path: Path) -> None:
    file = tmp_path / "sums.csv"
    done = reconcile(books, "--csv", str(file))
    assert done.returncode == 1, done.stderr
    assert "paid_there_open_here (12)" in done.stdout
    assert "unknown_without_id (1)" in done.stdout
    assert f"{PAYMENTS + 1} payments made from 2026-01-01 00:00:00+05:00" in done.stdout
    assert "12 differ, 0 were put right, 1 only people can tell, 0 could not be read" in done.stdout
    other, shop, total = lines_of(file)
    assert (other["organization_bin"], other["payments"], other["differing"]) == (SHOPS[OTHER_SHOP], "8", "4")
    assert (shop["payments"], shop["differing"], shop["unknown"]) == ("17", "8", "1")
    assert (total["paid"], total["differing"]) == ("0.00", "12")
    assert not (books.folder / "reconcile.state").exists()


def test_scripts_read_json(books: Rig) -> None:
    done = reconcile(books, "--shop", str(OTHER_SHOP), "--json")
    shown = json.loads(done.stdout)
    assert (done.returncode, shown["payments"], len(shown["findings"])) == (1, 8, 4)
    finding = shown["findings"][0]
    assert (finding["kind"], finding["here"], finding["there"]) == ("paid_there_open_here", "pending", "Processed")
    assert (finding["amount"], finding["differs"], shown["total"]["payments"]) == ("3.01", True, 8)


def test_period_where_all_agrees_ends_well(books: Rig) -> None:
    done = reconcile(books, "--until", "2026-01-02T00:00:00+05:00")
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 differ" in done.stdout


def done_of(state: Path) -> int:
    """How many payments a run keeps as done."""
    return int(json.loads(state.read_bytes())["walk"]["done"]) if state.exists() else -1


class Walking:
    """A run in a process of its own, with a terminal for what it tells, which is in the middle of its payments."""

    def __init__(self, rig: Rig, *words: str) -> None:
        self.master, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "payment_service", "reconcile", "--since", SINCE, *words],
            env=rig.environment(TERM="xterm", COLUMNS="100"),
            cwd=rig.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    async def beyond(self, count: int, state: Path) -> "Walking":
        """Wait until more than so many payments are kept as done."""

        async def far() -> bool:
            assert self.process.poll() is None, self.told()
            return done_of(state) > count

        await until(far, "the run is in the middle")
        return self

    def end(self, sign: signal.Signals) -> int:
        self.process.send_signal(sign)
        return self.process.wait(20)

    def told(self) -> str:
        """What it wrote to its terminal."""
        text = b""
        try:
            while chunk := os.read(self.master, 65536):
                text += chunk
        except OSError:  # the other side is closed
            os.close(self.master)
        return text.decode()


@pytest.mark.thorough
async def test_killed_and_stopped_runs_taken_up_again_write_the_same_sums(books: Rig, tmp_path: Path) -> None:
    """Stopped by SIGKILL, taken up, stopped by SIGTERM, taken up."""
    undisturbed, disturbed, state = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "state"
    until_now = ["--until", (await now(books)).isoformat(), "--state", str(state)]
    assert reconcile(books, *until_now, "--csv", str(undisturbed)).returncode == 1
    words = [*until_now, "--csv", str(disturbed)]

    await slow_down_after_six(books)
    killed = await Walking(books, *words).beyond(0, state)
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    killed.told()

    await slow_down_after_six(books)
    stopped = await Walking(books, *words, "--resume").beyond(done_of(state), state)
    assert stopped.end(signal.SIGTERM) == 2
    told = stopped.told()
    assert "Asking" in told
    assert f"of {PAYMENTS + 1} payments were compared, and no sums were written" in told.replace("\r\n", "")
    assert f"--state {state} --csv {disturbed} --resume" in told.replace("\r\n", "")
    assert not disturbed.exists()
    assert not [secret for secret in books.secrets if secret in state.read_text()]

    assert "continue it with --resume" in reconcile(books, *words).stderr
    assert reconcile(books, *words, "--resume", "--apply").returncode == 2
    done = reconcile(books, *words, "--resume")
    assert (done.returncode, "12 differ" in done.stdout) == (1, True), done.stderr
    assert disturbed.read_bytes() == undisturbed.read_bytes()
    assert not state.exists()


async def slow_down_after_six(rig: Rig) -> None:
    """Six readings go well; then each of the five that are under way at once fails, and a second time after 1 s."""
    await rig.queue("status", "normal", 6)
    await rig.queue("status", "http_500", 10)


async def now(rig: Rig) -> Any:
    connection = await asyncpg.connect(rig.database_url)
    try:
        return await connection.fetchval("SELECT now()")
    finally:
        await connection.close()


def test_applied_differences_are_put_right(books: Rig) -> None:
    assert reconcile(books, "--shop", str(OTHER_SHOP), "--apply").returncode == 0
    again = reconcile(books, "--shop", str(OTHER_SHOP), "--json")
    shown = json.loads(again.stdout)
    assert (again.returncode, shown["findings"], shown["total"]["paid_payments"]) == (0, [], 4)
    assert shown["total"]["paid"] == "48.04"


async def test_payments_that_the_provider_denies_stay_for_people(books: Rig) -> None:
    await books.queue("status", "code_99000001", 8)
    done = reconcile(books, "--shop", str(OTHER_SHOP), "--apply", "--json")
    assert (done.returncode, {each["kind"] for each in json.loads(done.stdout)["findings"]}) == (1, {"not_known_there"})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--resume"], "nothing to resume"),
        (["--until", "2025-12-31"], "The period is empty"),
        (["--csv", "missing/sums.csv"], "cannot be written"),
        (["--csv", "/dev/null"], "cannot be written"),
        (["--state", "missing/state"], "cannot be written"),
        (["--since", "yesterday"], "yesterday"),
    ],
)
def test_what_cannot_be_begun_is_told_in_a_sentence(books: Rig, words: list[str], sentence: str) -> None:
    done = reconcile(books, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_unreachable_database_is_no_difference(books: Rig) -> None:
    done = books.run("reconcile", "--since", SINCE, DATABASE_URL="postgresql://127.0.0.1:1/none")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-10-01", "2026-09-30T19:00:00+00:00"),
        ("2026-10-01T12:30", "2026-10-01T07:30:00+00:00"),
        ("2026-10-01T12:30:00Z", "2026-10-01T12:30:00+00:00"),
    ],
)
def test_dates_are_almaty_unless_they_say_otherwise(text: str, iso: str) -> None:
    assert moment(text).isoformat() == iso


@pytest.mark.parametrize("text", ["", "today", "2026-13-01", "0001-01-01"])
def test_other_text_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        moment(text)


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with _Progress(2500) as progress:
        for done in range(0, 2501, 5):
            progress.show(Walk(done))
    assert capsys.readouterr().err.splitlines() == [
        "1000 of 2500 payments compared, 0 found",
        "2000 of 2500 payments compared, 0 found",
    ]
