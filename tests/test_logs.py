"""What reaches a log, and what never does."""

import json
import logging

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from payment_service.observability import logs
from payment_service.observability.logs import scrub
from tests.providers.telltale import production_logs

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
