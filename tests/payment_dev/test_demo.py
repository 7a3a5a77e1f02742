"""The demo against a real development server, and its judgement of ledgers that are not as they should be."""

import contextlib
import fcntl
import os
import pty
import re
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
import typer

from payment_dev import demo
from payment_service.programs import StartError
from tests.support.database import Server
from tests.support.processes import Process, clean_environment, run
from tests.support.shops import SHOPS, device_token_of

pytestmark = pytest.mark.xdist_group("demo")

SERVICE, STAND_IN = "http://127.0.0.1:1", "http://127.0.0.1:2"
# The worker, the confirmation of an Error and the slow buyer (below) are hurried.
HURRIED = {"ERROR_CONFIRM_S": "1", "FOLLOW_FIRST_S": "0.3", "FOLLOW_FAST_S": "0.5", "LOG_LEVEL": "WARNING"}


def _free_ports() -> list[int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (one, other)]


@pytest.fixture(scope="module")
async def database_url(server: Server, worker_id: str) -> str:
    return await server.make(f"demo_{worker_id}")


@pytest.fixture(scope="module")
async def urls(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, str]]:
    """A development server of its own; gives the addresses of the service and of the stand-in."""
    port, sandbox_port = _free_ports()
    folder = tmp_path_factory.mktemp("demo")
    words = ["payment_dev", "run", "--data", str(folder), "--port", str(port), "--sandbox-port", str(sandbox_port)]
    environment = {**os.environ, **HURRIED, "DATABASE_URL": database_url}
    server = Process(words, environment=environment, folder=folder, name="server", port=port)
    try:
        await server.ready()
        yield server.url, f"http://127.0.0.1:{sandbox_port}"
    finally:
        await server.stop()


@contextlib.contextmanager
def slow_buyers_hurried(sandbox_url: str) -> Iterator[None]:
    """Whoever takes a while pays as soon as the stand-in has the invoice, and not after six seconds."""
    over = threading.Event()

    def press() -> None:
        with httpx.Client(base_url=sandbox_url, trust_env=False) as stand_in:
            while not over.wait(0.2):
                for invoice in stand_in.get("/_payments").json():
                    if Decimal(invoice["amount"]) == Decimal(demo.AMOUNTS[-1]):
                        stand_in.post(f"/_payments/{invoice['external_id']}/pay")

    pressing = threading.Thread(target=press)
    pressing.start()
    try:
        yield
    finally:
        over.set()
        pressing.join()


def _seen_on_a_terminal(words: Sequence[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit code of a program, and what a terminal of 100 columns saw of it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}) as program:
        os.close(theirs)
        screen = b""
        while True:
            try:
                some = os.read(ours, 65536)
            except OSError:  # how a terminal says that nobody writes to it any more
                break
            if not some:
                break
            screen += some
        os.close(ours)
    return program.returncode, screen.decode()


@pytest.fixture(scope="module")
async def played(urls: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two demos at the same time, both of which must succeed: what one printed as lines, and what a terminal saw of
    the other."""
    words = ["payment_dev", "demo", "--url", urls[0], "--sandbox-url", urls[1]]
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "NO_COLOR"}}
    with slow_buyers_hurried(urls[1]):
        plain = Process(words, environment=environment, folder=tmp_path_factory.mktemp("played"), name="plain")
        code, screen = _seen_on_a_terminal(words, environment)
        assert (await plain.ended(60), code) == (0, 0), plain.written + screen
    return plain.written, screen


@pytest.mark.parametrize("shop_id", SHOPS)
def test_every_seller_is_shown_with_bin_and_city_as_stored(shop_id: int, played: tuple[str, str]) -> None:
    assert re.search(rf"\((Костанай|Алматы|Астана), {SHOPS[shop_id]}\): .+: paid \(Processed\)", played[0])


@pytest.mark.parametrize(
    "words",
    [
        "by link, 6",
        "the buyer presses Decline",
        "failed (Error)",
        "7 500.00 ₸ go back to the buyer, 0.00 ₸ are left",
        "the service answers 202: The outcome is not known, so the request must not be sent again.",
        "the same payment is answered, nothing is sent",
        "It was done. Sent again, the buyer would have got a second invoice.".lower(),
        "Verdict: every tenge landed at its own seller.",
    ],
)
def test_the_story_tells(words: str, played: tuple[str, str]) -> None:
    assert words.lower() in " ".join(played[0].lower().split())


def test_lines_hold_no_terminal_codes(played: tuple[str, str]) -> None:
    assert "\x1b" not in played[0]


@pytest.mark.parametrize(
    "row",
    [
        r"VLVT Flowers Almaty +Алматы +210440028324 +\d{11} +8 900.50 +paid \(Processed\)",
        r"Royal Flowers Almaty +590915402028 +1 +31 000.00 +31 000.00 +0.00 +its own",
    ],
)
def test_terminal_of_100_columns_shows_whole_rows(row: str, played: tuple[str, str]) -> None:
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", played[1])
    assert re.search(row, seen)
    assert max(map(len, seen.splitlines())) <= 100


# --- judgement


def _shop(shop_id: int) -> dict[str, Any]:
    return {
        "shop_id": shop_id,
        "organization_bin": SHOPS[shop_id],
        "device_token": device_token_of(shop_id),
        "is_active": True,
        "name": f"Shop {shop_id}",
        "city": "Алматы",
    }


@pytest.fixture
def proxy() -> Iterator[respx.MockRouter]:
    with respx.mock(assert_all_called=False) as router:
        router.get(f"{STAND_IN}/_about").respond(json={"stand_in": True})
        yield router


def _call(scene: demo.Scene, op: str, amount: Decimal) -> dict[str, Any]:
    return {
        "op": op,
        "external_id": scene.external_id,
        "organization_bin": scene.shop["organization_bin"],
        "device_token_sha256": demo._digest(scene.shop),
        "amount": str(amount),
        "message": None if op == "refund" else "Demo abc #CODE",
        "default_merchant_used": False,
        "status": "Processed",
    }


Tamper = Callable[[list[dict[str, Any]]], None]


def _judged(proxy: respx.MockRouter, tamper: Tamper, state: str = "paid") -> tuple[bool, str]:
    """The verdict over a ledger that was right before it was tampered with."""
    wires = demo._Wires(SERVICE, STAND_IN)
    play = demo._Play(wires, [_shop(shop_id) for shop_id in SHOPS], run="abc")
    for number, scene in enumerate(play.scenes):
        scene.external_id, scene.state = str(18_000_000_000 + number), "paid"
    play.refunded.refunds.append(Decimal(5000))
    ledger = [_call(scene, "create", scene.amount) for scene in play.scenes]
    ledger.append(_call(play.refunded, "refund", Decimal(5000)))
    paid = [dict(call) for call in ledger[:-1]]
    play.scenes[1].state = state
    tamper(ledger)
    proxy.get(f"{STAND_IN}/_ledger").respond(json=ledger)
    proxy.get(f"{STAND_IN}/_payments").respond(json=paid)
    try:
        with play.console.capture() as said:
            verdict = play.judge()
    finally:
        wires.close()
    return verdict, " ".join(said.get().split())


def test_a_right_ledger_is_judged_right(proxy: respx.MockRouter) -> None:
    verdict, said = _judged(proxy, lambda _ledger: None)
    assert verdict, said
    assert "WRONG" not in said


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda ledger: ledger[1].update(organization_bin=SHOPS[75509]), "not in the ledger"),
        (lambda ledger: ledger[1].update(organization_bin="140540001231"), "an unknown shop"),
        (lambda ledger: ledger[1].update(device_token_sha256="0" * 64), "NOT ITS OWN"),
        (lambda ledger: ledger[1].update(device_token_sha256=None), "a device token that is not its own"),
        (lambda ledger: ledger[1].update(amount="12500.01"), "1 x 12 500.01 ₸ in"),
        (lambda ledger: ledger[1].update(default_merchant_used=True), "named no BIN"),
        (
            lambda ledger: ledger.append(dict(ledger[1])),
            "1 x 12 500.00 ₸ in, BIN 920317450731 (Shop 121038): not",
        ),
        (lambda ledger: ledger.append(dict(ledger[-1])), "1 x 5 000.00 ₸ back"),
        (lambda ledger: ledger.pop(0), "asked for, not in the ledger"),
        (lambda ledger: ledger.clear(), "asked for, not in the ledger"),
    ],
)
def test_a_wrong_ledger_is_judged_wrong(tamper: Tamper, words: str, proxy: respx.MockRouter) -> None:
    verdict, said = _judged(proxy, tamper)
    assert not verdict
    assert words in said
    assert "Verdict: NOT every tenge landed at its own seller." in said


def test_a_payment_that_the_service_did_not_learn_of_is_judged_wrong(proxy: respx.MockRouter) -> None:
    verdict, said = _judged(proxy, lambda _ledger: None, state="pending")
    assert not verdict
    assert "18000000001 is paid at the stand-in and pending at the service" in said


def test_calls_of_other_runs_are_not_judged(proxy: respx.MockRouter) -> None:
    def another_run(ledger: list[dict[str, Any]]) -> None:
        ledger.append({**ledger[1], "message": "Demo abcd #CODE", "external_id": "1"})

    assert _judged(proxy, another_run)[0]


# --- when it cannot be played


def test_server_that_does_not_run_is_told_in_one_sentence(tmp_path: Path) -> None:
    port, sandbox_port = _free_ports()
    words = ["demo", "--url", f"http://127.0.0.1:{port}", "--sandbox-url", f"http://127.0.0.1:{sandbox_port}"]
    done = run(words, program="payment_dev", environment=clean_environment(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "start it with 'make run'" in done.stderr


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (httpx.Response(401, json={"code": "authentication_required"}), "not a development server (HTTP 401)"),
        (httpx.Response(200, html="<p>Hello</p>"), "not a development server (HTTP 200)"),
        (httpx.Response(200, json=[{"shop_id": 8}]), "not a development server (HTTP 200)"),
        (httpx.Response(200, json=[]), "Shop 121038, 576631, 75509, 69292, 49237, 56195, 71691 is missing"),
        (
            httpx.Response(200, json=[_shop(shop_id) | {"is_active": shop_id != 49237} for shop_id in SHOPS]),
            "Shop 49237 is missing, inactive",
        ),
    ],
)
def test_nothing_is_paid_where_the_demo_does_not_belong(
    answer: httpx.Response, words: str, proxy: respx.MockRouter
) -> None:
    proxy.get(f"{SERVICE}/admin/configs").mock(return_value=answer)
    with pytest.raises(StartError, match=re.escape(words)):
        demo.play(SERVICE, STAND_IN)
    assert not any(call.request.method == "POST" for call in proxy.calls)


def test_nothing_is_paid_without_the_stand_in(proxy: respx.MockRouter) -> None:
    proxy.get(f"{STAND_IN}/_about").respond(404)
    with pytest.raises(StartError, match="is not the stand-in proxy"):
        demo.play(SERVICE, STAND_IN)


def test_a_server_that_never_answers_ends_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CALL_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StartError, match="does not answer"):
            demo.play(url, url)


def test_a_play_beyond_its_time_ends(monkeypatch: pytest.MonkeyPatch, proxy: respx.MockRouter) -> None:
    monkeypatch.setattr(demo, "PLAY_FOR_S", 0.0)
    with pytest.raises(StartError, match="not over after 0 s"):
        demo.play(SERVICE, STAND_IN)


def test_a_wrong_verdict_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, proxy: respx.MockRouter) -> None:
    proxy.get(f"{SERVICE}/admin/configs").respond(json=[_shop(shop_id) for shop_id in SHOPS])
    proxy.get(f"{STAND_IN}/_ledger").respond(json=[])
    proxy.get(f"{STAND_IN}/_payments").respond(json=[])
    refusal = {"state": "failed", "detail": "Not sent."}
    proxy.post(url__startswith=f"{SERVICE}/payments/kaspi/create").respond(503, json=refusal)
    with pytest.raises(typer.Exit) as end:
        demo.play(SERVICE, STAND_IN)
    assert end.value.exit_code == 1
