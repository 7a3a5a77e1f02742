"""What Sentry is told of an error, as its server gets it."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from payment_service.observability import logs, sentry
from payment_service.payments.reading import PaymentReading
from payment_service.scheduling import failures
from tests.support.asking import PHONE
from tests.support.collector import Collector

TOKEN = "f2b1a0c4-1d3e-4f5a-9b8c-7d6e5f4a3b2c"
KEY = "ps_" + "Zk3" * 14
SECRETS = (TOKEN, KEY, PHONE, "hidden-word")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector.running() as collector:
        yield collector


def dsn(collector: Collector) -> str:
    return collector.url.replace("http://", "http://public@") + "/1"


def events(collector: Collector) -> list[dict[str, Any]]:
    """The events of the envelopes that were posted: a line of headers, then for each item a line and its payload."""
    found = []
    for _, body in collector.bodies:
        _, *lines = body.decode().splitlines()
        found += [
            json.loads(payload) for head, payload in zip(lines[::2], lines[1::2], strict=True) if '"event"' in head
        ]
    return found


def breaks() -> None:
    device_token, key = TOKEN, KEY  # locals of a frame that the error passes
    try:
        raise LookupError(f"no account for {device_token} of {PHONE}")
    except LookupError as error:
        error.add_note(f"asked with {key}")
        raise ValueError(f"https://p.example/?access_token=hidden-word&deviceToken={device_token} by {key}") from error


def test_error_goes_with_its_place_and_ids_and_without_what_anybody_said(collector: Collector) -> None:
    with sentry.sentry(dsn(collector), "tests"):
        logs.begin(request_id="r-1", payment_id="p-1", phone=PHONE, anything=KEY)
        try:
            breaks()
        except ValueError as error:
            sentry.report(error)
    [event] = events(collector)
    cause, caught = event["exception"]["values"]
    assert (cause["type"], caught["type"]) == ("LookupError", "ValueError")
    assert caught["stacktrace"]["frames"][-1]["function"] == "breaks"
    assert event["tags"] == {"process": "tests", "request_id": "r-1", "payment_id": "p-1"}
    assert [secret for secret in SECRETS if secret in collector.text] == []
    assert not {"request", "breadcrumbs", "user", "extra", "modules"} & event.keys()
    frames = [frame for one in event["exception"]["values"] for frame in one["stacktrace"]["frames"]]
    assert not {"vars", "context_line", "pre_context"} & {name for frame in frames for name in frame}


async def test_bug_behind_a_request_is_told_and_a_refusal_is_not(
    client: httpx.AsyncClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        breaks()

    with sentry.sentry(dsn(collector), "tests"):
        unknown = "0199f3a2-7701-7020-8304-077010203040"
        assert (await client.get(f"/payments/{unknown}")).status_code == 404
        monkeypatch.setattr(PaymentReading, "get", broken)
        answer = await client.get(f"/payments/{unknown}", headers={"X-Request-ID": "r-2"})
    assert answer.status_code == 500
    [event] = events(collector)
    assert event["tags"]["request_id"] == "r-2"
    assert [secret for secret in (*SECRETS, "Bearer", "authorization") if secret in collector.text] == []


def test_work_that_fails_is_told_unless_the_database_is_away(collector: Collector) -> None:
    with sentry.sentry(dsn(collector), "tests"):
        failures.count_failure("readings", ConnectionRefusedError())
        failures.count_failure("readings", KeyError(PHONE))
    [event] = events(collector)
    assert event["exception"]["values"][0]["type"] == "KeyError"
    assert PHONE not in collector.text


def test_dead_receiver_costs_nothing_but_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentry, "STOP_WITHIN_S", 0.1)
    with sentry.sentry("http://public@127.0.0.1:1/1", "tests"):
        for _ in range(200):
            sentry.report(ValueError("x"))


def test_missing_extra_and_a_wrong_dsn_are_told_in_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sentry.SentryError, match="SENTRY_DSN is no DSN") as refused:
        sentry.sentry("hidden-word", "").__enter__()
    assert "hidden-word" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    with (
        pytest.raises(sentry.SentryError, match=r"install payment-service\[sentry\]"),
        sentry.sentry("http://a@b/1", ""),
    ):
        pass
