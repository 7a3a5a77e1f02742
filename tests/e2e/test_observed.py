"""One payment's life through real processes: its log lines by its id, its one trace, and what neither may hold."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import receiver
from tests.support.collector import Collector, Span
from tests.support.database import Server
from tests.support.processes import Process, clean_environment, free_port
from tests.support.rig import PAYS_AT_ONCE, Rig
from tests.support.waiting import until

pytestmark = [pytest.mark.thorough, pytest.mark.xdist_group("observed")]
SHOP = 121038
ABOUT_NO_PAYMENT = {
    "audit sealed",
    "server was tried",
    "webhook endpoint added",
    "worker started",
}
"""Lines of a run with one payment that are about something else; a request's own line is judged by its route."""
OF_A_PAYMENT = ("/payments", "/admin/payments")


@dataclass(frozen=True)
class Life:
    """A payment that was made, asked for again, read, paid, told of and refunded."""

    payment: dict[str, Any]
    refund: dict[str, Any]
    lines: list[dict[str, Any]]
    """Of serve and worker."""
    spans: list[Span]
    posted: str
    """All that was posted to the collector."""
    secrets: set[str]


@pytest.fixture(scope="module")
async def life(server: Server, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Life]:
    folder, database_url = tmp_path_factory.mktemp("observed"), await server.make(f"observed_{worker_id}")
    with Collector.running() as collector:
        sentry_dsn = collector.url.replace("http://", "http://public@") + "/1"
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "SENTRY_DSN": sentry_dsn}
        async with Rig(folder, database_url, settings=settings) as rig:
            await rig.serve_all(services=1)
            site = await a_site(rig)
            body: dict[str, Any] = {"phone": PAYS_AT_ONCE, "message": rig.word()}
            made = (await rig.create(SHOP, key="observed-once-0001", **body)).json()
            assert (await rig.create(SHOP, key="observed-once-0001", **body)).json()["id"] == made["id"]
            await rig.in_state(made["id"], "paid")
            await rig.api.get(f"/payments/kaspi/status/{made['external_id']}")
            refund = (await rig.refund(made["external_id"], SHOP, amount=40)).json()

            async def told() -> bool:
                return {"payment.paid", "refund.succeeded"} <= {one["type"] for one in receiver.taken(folder)}

            await until(told, "the site is told of payment and refund")
            await collector.has("webhook payment.paid", "webhook refund.succeeded", "payment paid", "refund succeeded")
            processes = [*rig.services, *rig.workers]
            for process in processes:
                assert await process.stop() == 0
            await site.kill()
            lines = [json.loads(line) for process in processes for line in process.written.splitlines()]
            yield Life(made, refund, lines, collector.spans(), collector.text, set(rig.secrets))


async def a_site(rig: Rig) -> Process:
    port = free_port()
    words = ["tests.support.receiver", str(port), str(rig.folder), "0"]
    site = Process(words, environment=clean_environment(rig.folder), folder=rig.folder, name="receiver", port=port)
    [endpoint] = json.loads(rig.run("webhooks", "add", f"{site.url}/all", "--json").stdout)
    rig.secrets.add(endpoint["secret"])
    receiver.keep_secret(rig.folder, "/all", endpoint["secret"])
    return await site.ready("/")


def is_about_a_payment(line: dict[str, Any]) -> bool:
    if line["event"] == "answered":
        return str(line["route"]).startswith(OF_A_PAYMENT)
    return line["event"] not in ABOUT_NO_PAYMENT and not line["logger"].startswith("uvicorn")


async def test_every_line_about_the_payment_is_found_by_its_id(life: Life) -> None:
    found = [line for line in life.lines if line.get("payment_id") == life.payment["id"]]
    assert {line["event"] for line in found} == {
        "answered",
        "provider called",
        "payment moved",
        "refund moved",
        "address called",
        "event delivered",
    }
    stray = [line for line in life.lines if "payment_id" not in line and is_about_a_payment(line)]
    assert stray == []


async def test_request_and_worker_and_webhook_are_one_trace(life: Life) -> None:
    trace = life.payment["id"].replace("-", "")
    assert {span.trace for span in life.spans} == {trace}
    [root] = [span for span in life.spans if not span.parent]
    assert (root.name, root.id, root.process) == ("POST /payments/kaspi/create", trace[16:], "serve")
    ids = {span.id for span in life.spans}
    assert len(ids) == len(life.spans)
    assert {span.parent for span in life.spans} - {""} <= ids
    serve, worker = ({span.name for span in life.spans if span.process == name} for name in ("serve", "worker"))
    assert serve >= {"kaspi create", "payment pending", "kaspi refund", "refund succeeded"}
    assert worker >= {"kaspi status", "payment paid", "webhook payment.paid", "webhook refund.succeeded"}
    assert not [span for span in life.spans if span.failed]


async def test_nothing_secret_left_and_nothing_went_wrong(life: Life) -> None:
    assert [secret for secret in {*life.secrets, PAYS_AT_ONCE} if secret in life.posted] == []
    assert "/envelope/" not in life.posted
