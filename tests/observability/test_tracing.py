"""Traces as a collector gets them, and that no collector ever stands in the way of a payment."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from payment_service.identifiers import new_id
from payment_service.observability import logs, tracing
from payment_service.services import Services
from tests.support.asking import PHONE, SHOP
from tests.support.collector import Collector
from tests.support.processes import free_port
from tests.support.replies import GoodProxy
from tests.support.shops import device_token_of

HEADERS = {"x-collector-key": "shown"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector.running() as collector:
        yield collector


async def pay(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/payments/kaspi/create", json={"shop_id": SHOP, "amount": 100, "phone": PHONE, **body})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.mark.usefixtures("shops")
async def test_life_of_a_payment_is_one_trace_with_the_payments_id(
    client: httpx.AsyncClient, services: Services, proxy: GoodProxy, collector: Collector
) -> None:
    with tracing.tracing(collector.url, HEADERS, "tests"):
        made = await pay(client)
        proxy.default = "Processed"
        await client.get(f"/payments/kaspi/status/{made['external_id']}")
        refund = {"shop_id": SHOP, "external_id": made["external_id"], "amount": 40}
        refunded = (await client.post("/payments/kaspi/refund", json=refund)).json()
    spans = {span.name: span for span in collector.spans()}
    trace = made["id"].replace("-", "")
    assert {span.trace for span in spans.values()} == {trace}
    root = spans["POST /payments/kaspi/create"]
    assert (root.id, root.parent) == (trace[16:], "")
    paying_back = spans["POST /payments/kaspi/refund"]
    assert (paying_back.id, paying_back.parent) == (refunded["refund_id"].replace("-", "")[16:], root.id)
    for name, parent in (
        ("kaspi create", root),
        ("payment pending", root),
        ("kaspi status", root),
        ("payment paid", root),
        ("kaspi refund", paying_back),
        ("refund succeeded", paying_back),
    ):
        assert spans[name].parent == parent.id, name
    assert spans["kaspi create"].attributes["result"] == "http_200"
    assert all(span.seconds >= 0 and span.process == "tests" for span in spans.values())
    assert {headers["x-collector-key"] for headers in collector.headers} == {"shown"}
    for secret in (PHONE, "test-access-token", device_token_of(SHOP), "Bearer"):
        assert secret not in collector.text


async def test_attributes_are_scrubbed_and_what_is_about_no_payment_is_not_told(collector: Collector) -> None:
    with tracing.tracing(collector.url, {}, "tests"):
        logs.begin(request_id="r")
        tracing.record_span("about nothing", 1)
        tracing.record_span(
            f"call {PHONE}", 1, payment_id=new_id(), url=f"https://p.example/?access_token=hidden&p={PHONE}"
        )
    [span] = collector.spans()
    assert (span.name, span.attributes["request_id"]) == ("call •••1545", "r")
    assert "hidden&" not in collector.text
    assert PHONE not in collector.text


@pytest.mark.usefixtures("shops", "proxy")
@pytest.mark.parametrize("is_there", [True, False])
async def test_collector_that_hangs_or_is_dead_keeps_no_payment_waiting(
    client: httpx.AsyncClient, collector: Collector, is_there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "STOP_WITHIN_S", 0.1)
    monkeypatch.setattr(tracing, "EXPORT_WITHIN_S", 0.5)
    collector.open.clear()  # it takes what is posted and does not answer
    url = collector.url if is_there else f"http://127.0.0.1:{free_port()}"
    with tracing.tracing(url, {}, "tests"):
        async with asyncio.timeout(10):
            await pay(client)
        for _ in range(5000):  # more than wait in the queue
            tracing.record_span("one too many", 0, payment_id=new_id())
    assert not [thread for thread in threading.enumerate() if not thread.daemon and "Otel" in thread.name]


@pytest.mark.thorough
async def test_span_that_cannot_be_made_breaks_nothing(collector: Collector) -> None:
    with tracing.tracing(collector.url, HEADERS, "tests"):
        tracing.record_span("moved", 0, payment_id="None")
        tracing.record_span("moved", 0, kind="NO KIND", payment_id=new_id())


def test_nothing_is_imported_and_nothing_done_while_it_is_off() -> None:
    program = (
        "import sys, uuid; import payment_service.programs.serve, payment_service.programs.work\n"
        "from payment_service.observability import sentry, tracing\n"
        "with tracing.tracing(None, {}, ''), sentry.sentry(None, ''):\n"
        "    tracing.record_span('x', 1, payment_id=uuid.uuid4()); sentry.report(ValueError())\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'sentry_sdk', 'google'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_missing_extra_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with (
        pytest.raises(tracing.TracingError, match=r"install payment-service\[otel\]"),
        tracing.tracing("http://c", {}, ""),
    ):
        pass
