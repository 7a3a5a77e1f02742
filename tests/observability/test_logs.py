"""What reaches a log, and what never does."""

import asyncio
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payment_service.observability import logs
from payment_service.observability.logs import scrub
from payment_service.observability.metrics import LOG_LINES_LOST, values_of
from payment_service.observability.standard_error import BUFFER_BYTES, StandardError
from tests.support.logs import production_logs

PHONE = "77010203040"
URL = f"https://proxy.example/create/?access_token=hidden-word&phone={PHONE}&deviceToken=hidden-word&amount=1"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"invoice for {PHONE}.", "invoice for •••3040."),
        (f"+{PHONE}", "•••3040"),
        ("87010203040", "•••3040"),
        (f"{PHONE},{PHONE}", "•••3040,•••3040"),
        ("access_token=hidden-word&amount=1", "access_token=[hidden]&amount=1"),
        ("?AccessToken=hidden-word'", "?AccessToken=[hidden]'"),
        ("deviceToken=hidden-word device_token=hidden-word", "deviceToken=[hidden] device_token=[hidden]"),
        ("api_key=hidden-word", "api_key=[hidden]"),
        ("password=hidden-word", "password=[hidden]"),
        ("connect(password='hidden-word')", "connect(password='[hidden]')"),
        ("client_secret=hidden-word&id_token=hidden-word", "client_secret=[hidden]&id_token=[hidden]"),
        (f"signed with whsec_{'Ab9+/' * 8}aaa=", "signed with whsec_[hidden]"),
        (f"POST /console/link/{'Ab9_-' * 8}", "POST /console/link/[hidden]"),
        (f"the key ps_{'Ab9_-' * 8} is unknown", "the key ps_[hidden] is unknown"),
        (f"phone=%2B{PHONE}", "phone=[hidden]"),
        ("postgresql://service:hidden-word@db/payments", "postgresql://service:[hidden]@db/payments"),
    ],
)
def test_scrubbing_blanks_what_looks_like_a_secret(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "12800627774",
        "128006277740",
        "920317450731",
        "0199f3a2-7701-7020-8304-077010203040",
        "shop 121038 pays 100.00",
        "2025-10-22T10:00:00Z",
        "https://proxy.example/create/",
    ],
)
def test_scrubbing_leaves_ids_and_amounts_alone(text: str) -> None:
    assert scrub(text) == text


@settings(deadline=None)
@given(st.text(), st.text())
def test_phone_is_blanked_wherever_it_stands_apart(before: str, after: str) -> None:
    assert PHONE not in scrub(f"{before} {PHONE} {after}")


@settings(deadline=None)
@given(st.text())
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


_PIECES = st.sampled_from(
    [
        PHONE,
        f"+{PHONE}",
        PHONE[:-1],
        "phone=",
        "device_token=hidden-word",
        "ApiKey=hidden-word",
        "/bot123:hidden-word",
        "ps_" + "k" * 20,
        "whsec_" + "k" * 20,
        "/console/link/" + "k" * 20,
        "://service:hidden-word@",
        "://",
        "=",
        "/bot",
        "@",
        ":",
        "\n",
        '"',
        "\\",
        "x",
        "\N{LATIN SMALL LETTER LONG S}",
        " ",
    ]
)


@settings(deadline=None)
@given(st.lists(_PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_filter_before_the_scrubbing_lets_no_secret_through(text: str) -> None:
    scrubbed = text
    for expression, replacement in (
        (logs._QUERY_SECRET, r"\1=\2[hidden]"),
        (logs._BOT_TOKEN, "/bot[hidden]"),
        (logs._URL_PASSWORD, r"\1[hidden]@"),
        (logs._API_KEY, "ps_[hidden]"),
        (logs._WEBHOOK_SECRET, "whsec_[hidden]"),
        (logs._LINK, "/console/link/[hidden]"),
        (logs._PHONE, r"•••\2"),
    ):
        scrubbed = expression.sub(replacement, scrubbed)
    assert scrub(text) == scrubbed


_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(int(PHONE)) | _PIECES | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_PIECES | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), _VALUES))
def test_no_secret_reaches_a_line_from_any_depth(facts: dict[str, object]) -> None:
    with production_logs() as lines:
        logs.get_logger("tests.deep").info("said", **facts)
    line = lines.getvalue()
    assert json.loads(line)["event"] == "said"
    assert not re.search(rf"(?<![0-9A-Za-z+.-]){PHONE}(?![0-9A-Za-z.])", line)


def test_exception_as_a_value_is_scrubbed() -> None:
    with production_logs() as lines:
        logs.get_logger("tests.error").info("failed", error=ValueError(URL), errors=[ValueError(URL)])
    assert "hidden-word" not in lines.getvalue()
    assert PHONE not in lines.getvalue()


async def test_what_a_task_of_a_request_binds_is_in_its_last_line() -> None:
    async def work() -> None:
        logs.bind(payment_id="p", shop_id=8)

    with production_logs() as lines:
        logs.begin(request_id="r")
        await asyncio.create_task(work())
        logs.get_logger("tests.bound").info("answered", shop_id=9)
    line = json.loads(lines.getvalue())
    assert (line["request_id"], line["payment_id"], line["shop_id"]) == ("r", "p", 9)


async def test_requests_bind_apart() -> None:
    async def request(number: int) -> None:
        logs.begin(request_id=number)
        await asyncio.sleep(0)
        logs.bind(payment_id=number)
        await asyncio.sleep(0)
        logs.get_logger("tests.apart").info("answered")

    with production_logs() as lines:
        await asyncio.gather(*(asyncio.create_task(request(number)) for number in range(5)))
    told = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(line["request_id"], line["payment_id"]) for line in told] == [(number, number) for number in range(5)]


@pytest.mark.parametrize("readable", [False, True])
def test_no_secret_reaches_a_line_in_either_shape(readable: bool) -> None:
    with production_logs(readable=readable) as lines:
        try:
            raise httpx.ConnectError(f"cannot reach {URL}")
        except httpx.ConnectError:
            logs.get_logger("tests.a").exception("failed", address=URL, phone=PHONE)
            logging.getLogger("tests.b").exception("failed at %s", URL)
        logging.getLogger("httpx").info("HTTP Request: GET %s", URL)
        logging.getLogger("httpcore.http11").debug("send_request_headers.started %s", URL)
        logging.getLogger("uvicorn.access").info('"GET /payments?phone=%s"', PHONE)
    text = lines.getvalue()
    assert text.count("failed") == 2
    assert text.count("ConnectError") >= 2
    assert [secret for secret in ("hidden-word", PHONE, PHONE[1:], "HTTP Request", "started") if secret in text] == []


def test_line_is_json_with_what_is_needed_to_find_it() -> None:
    with production_logs() as lines:
        logs.get_logger("tests.json").info("payment moved", shop_id=121038, word="роза")
        logging.getLogger("tests.plain").warning("%s of %s", 1, 2)
    ours, theirs = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["logger"]) == ("payment moved", "info", "tests.json")
    assert (ours["shop_id"], ours["word"]) == (121038, "роза")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("1 of 2", "warning", "tests.plain")


def test_readable_line_is_no_json() -> None:
    with production_logs(readable=True) as lines:
        logs.get_logger("tests.readable").info("payment moved", shop_id=121038)
    assert "payment moved" in lines.getvalue()
    assert not lines.getvalue().startswith("{")


def test_level_is_respected() -> None:
    with production_logs(level="WARNING") as lines:
        logs.get_logger("tests.quiet").info("unheard")
        logs.get_logger("tests.loud").warning("heard")
    assert [json.loads(line)["event"] for line in lines.getvalue().splitlines()] == ["heard"]


def test_lines_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with production_logs() as _:
        logs.configure(readable=False)
        logs.get_logger("tests.where").info("here")
    out, err = capfd.readouterr()
    assert out == ""
    assert json.loads(err)["event"] == "here"


# --- whoever reads the log


@dataclass
class Unread:
    """A pipe that is read when somebody says so."""

    stream: StandardError
    reader: int
    writer: int

    def read(self) -> list[str]:
        """All that was written so far, and what was buffered meanwhile."""
        os.set_blocking(self.reader, False)
        found = bytearray()
        with suppress(BlockingIOError):
            while piece := os.read(self.reader, 1 << 16):
                found += piece
                self.stream.flush()
        return found.decode().splitlines()


@pytest.fixture
def unread() -> Iterator[Unread]:
    reader, writer = os.pipe()
    yield Unread(StandardError(writer), reader, writer)
    os.close(reader)
    os.close(writer)


def lost() -> float:
    return values_of(LOG_LINES_LOST)[()]


def test_log_that_nobody_reads_keeps_nobody_waiting(unread: Unread) -> None:
    before = lost()
    for number in range(20_000):
        unread.stream.write(f"line {number:06} {'x' * 100}\n")
    read = unread.read()
    assert 9_000 < len(read) == 20_000 - (lost() - before)
    assert read == [f"line {number:06} {'x' * 100}" for number in range(len(read))]  # those that came first, whole
    unread.stream.write("heard again\n")
    assert unread.read() == ["heard again"]


def test_lines_that_waited_for_their_reader_come_in_their_order(unread: Unread) -> None:
    lines = ["a" * 200_000, "роза", "b" * 10_000]
    for line in lines:
        unread.stream.write(f"{line}\n")
    assert unread.read() == lines


def test_log_on_a_full_disk_stops_nothing() -> None:
    before = lost()
    with Path("/dev/full").open("wb") as full:
        stream = StandardError(full.fileno())
        for _ in range(3):
            stream.write("x" * (BUFFER_BYTES // 2) + "\n")
    assert lost() == before + 2


def test_log_that_was_closed_from_the_start_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.__stderr__", None)
    monkeypatch.setattr("sys.stderr", None)
    with production_logs(readable=True) as _:
        logs.configure(readable=True)
        logs.get_logger("tests.closed").warning("unheard")
        logging.getLogger("tests.closed").warning("unheard")
