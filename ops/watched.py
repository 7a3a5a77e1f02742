"""``python -m ops.watched``: a real Prometheus watches the real service while payments go well and badly.

Every query of the dashboard and every alert is put to it. Exit code 0: each was answered, each has data but for those
that ``WITHOUT_DATA`` names, and the alerts hold that must. ``--picture FILE`` draws the dashboard as SVG.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from ops import alerts, dashboard, picture
from ops.server import Prometheus
from tests.support import receiver
from tests.support.database import TEMPLATE, Server, start_postgres
from tests.support.processes import Process, clean_environment, free_port
from tests.support.rig import Rig
from tests.support.shops import SHOPS
from tests.support.waiting import until

TOKEN: Final = "token-that-opens-the-metrics"  # noqa: S105 - made up
SETTINGS: Final = {
    "METRICS_TOKEN": TOKEN,
    "KASPI_BREAKER_FAILURES": "10",
    "KASPI_BREAKER_PAUSE_S": "2",
    "PHONE_INVOICES_PER_MINUTE": "0",
    "PHONE_INVOICES_PER_DAY": "0",
}
WITHOUT_DATA: Final[Mapping[str, str]] = {
    'payment_service_http_seconds_count{status="500"}': "A bug of ours, and none is planted.",
    "payment_service_certificate_end_timestamp_seconds": "The stand-in speaks no TLS.",
    "payment_service_connections_refused_total": "A client that is too slow or too large; it would take minutes.",
    "sum by (reason) (rate(payment_service_connections_refused_total[$__rate_interval]))": "As above.",
    "min by (host) (payment_service_certificate_end_timestamp_seconds > 0) - time()": "No TLS, as above.",
    "60 * sum by (channel, result) (rate(payment_service_messages_total[$__rate_interval]))": "No chat is bound.",
}
"""What has no data in this run, with the reason."""
HOLD: Final = frozenset({"PaymentsUnknown", "ProcessDown", "ProxyRefusesUs", "SendingHeld", "ShopRefused", "TasksWait"})
"""The alerts whose condition must hold at the end of this run. Most wait for minutes before they tell anybody."""
_SELECTOR: Final = re.compile(r"(?:payment_service_[a-z_]+|up)\b(?:\{[^}]*\})?")
_PAYS, _DECLINES, _LOST, _REFUSED, _FAILS = "11", "13", "27", "63", "29"
"""Endings of phones, and so courses of the stand-in: docs/sandbox.md."""


@dataclass(frozen=True, slots=True)
class Found:
    """What Prometheus said."""

    without_data: frozenset[str]
    """Queries of the dashboard, and series that alerts ask for."""
    holding: Mapping[str, str]
    """The alerts whose condition holds, with their state."""
    troubles: tuple[str, ...]

    @property
    def wrong(self) -> list[str]:
        """Whatever is not as it must be."""
        return [
            *self.troubles,
            *(f"no data: {query}" for query in sorted(self.without_data - WITHOUT_DATA.keys())),
            *(f"has data, and WITHOUT_DATA names it: {query}" for query in WITHOUT_DATA.keys() - self.without_data),
            *(f"does not hold: {name}" for name in sorted(HOLD - self.holding.keys())),
        ]


def asked_for() -> set[str]:
    """The series that the alerts ask for."""
    return {selector for rule in alerts.rules() for selector in _SELECTOR.findall(rule["expr"])}


@dataclass(frozen=True, slots=True)
class Watched:
    """The service at work, and the Prometheus that watches it."""

    rig: Rig
    prometheus: Prometheus

    async def sell(self, seconds: float) -> None:
        """Let customers pay, decline and get lost, in waves, for so long."""
        begun = time.monotonic()
        running: set[asyncio.Task[None]] = set()
        while (passed := time.monotonic() - begun) < seconds:
            # Two waves; in the second one the proxy fails now and then.
            share = passed / seconds
            bad = 0.25 if 0.55 < share < 0.75 else 0.04
            task = asyncio.create_task(self._customer(bad))
            running.add(task)
            task.add_done_callback(running.discard)
            await asyncio.sleep(0.15 + 0.8 * abs(share % 0.5 - 0.25))
        await asyncio.gather(*running)

    async def _customer(self, bad: float) -> None:
        ending = random.choice((_LOST, _FAILS)) if random.random() < bad else random.choice((_PAYS, _PAYS, _DECLINES))  # noqa: S311
        amount, shop_id = random.randrange(500, 30_000), random.choice(list(SHOPS))  # noqa: S311
        answer = await self.rig.create(shop_id, amount=amount, phone=_phone(ending), message=self.rig.word())
        if answer.status_code == httpx.codes.OK and ending == _PAYS:
            made = answer.json()
            try:
                await self.rig.in_state(made["id"], "paid", within_s=5)
            except TimeoutError:
                return
            if amount < 5_000:
                await self.rig.refund(made["external_id"], shop_id, amount=100)

    async def fail(self) -> None:
        """Let happen what the alerts of ``HOLD`` are for."""
        refused = self.rig.clients[1]  # its access token is wrong
        await self.rig.queue("status", "html", times=3)
        await self._ask_often(_PAYS, self.rig.api)
        for ending, by in ((_LOST, self.rig.api), (_REFUSED, self.rig.api), (_PAYS, refused)):
            await self._ask_often(ending, by)
        held = self.rig.run("sending", "hold", "--reason", "The alerts are tried")
        if held.returncode:
            raise RuntimeError(held.stderr)
        await self._ask_often(_PAYS, self.rig.api)

    async def _ask_often(self, ending: str, by: httpx.AsyncClient) -> None:
        """Ask for payments over several scrapes: what is there at the first one has not increased."""
        for _ in range(5):
            await self.rig.create(phone=_phone(ending), message=self.rig.word(), by=by)
            await asyncio.sleep(0.7)

    async def asked(self) -> Found:
        """Put every question, once the alerts hold that must."""
        wanted = HOLD - {"ProcessDown"}

        async def hold() -> bool:
            return wanted <= (await self.prometheus.alerts()).keys()

        with contextlib.suppress(TimeoutError):  # said of each below
            await until(hold, "the alerts hold", within_s=30, every_s=0.5)
        holding = await self.prometheus.alerts()
        empty = {query for query in dashboard.queries() if not await self.prometheus.query(query)}
        for rule in alerts.rules():
            await self.prometheus.query(rule["expr"])
        empty |= {selector for selector in asked_for() if not await self.prometheus.query(selector)}
        await self.rig.workers[0].stop()

        async def is_down() -> bool:
            return "ProcessDown" in await self.prometheus.alerts()

        await until(is_down, "Prometheus misses the worker", within_s=20)
        holding = {**await self.prometheus.alerts(), **holding}
        down = f"http://127.0.0.1:{self.rig.workers[0].port}/"
        troubles = [said for said in await self.prometheus.troubles() if not said.startswith(down)]
        return Found(frozenset(empty), holding, tuple(troubles))


def _phone(ending: str) -> str:
    return f"77{random.randrange(10**5):05d}90{ending}"  # noqa: S311 - made up


@asynccontextmanager
async def watched(folder: Path, database_url: str) -> AsyncIterator[Watched]:
    """Two services, one of them with a wrong access token, a worker, a receiver of webhooks, and Prometheus."""
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(Rig(folder, database_url, settings=SETTINGS))
        port = free_port()
        rig.workers = [rig.start("payment_service", "worker", name="worker", port=port, WORKER_PORT=str(port))]
        rig.services = [rig.start_service(), rig.start_service(KASPI_ACCESS_TOKEN="a-wrong-access-token")]  # noqa: S106
        for process in (*rig.services, *rig.workers):
            await process.ready("/health")
        rig.clients = [rig.client(service) for service in rig.services]
        await rig.route_all()
        await _receive(rig, folder, stack)
        named = zip(("serve-1", "serve-2", "worker-1"), (*rig.services, *rig.workers), strict=True)
        targets = {name: process.url.removeprefix("http://") for name, process in named}
        yield Watched(rig, await stack.enter_async_context(Prometheus(folder / "prometheus", targets, TOKEN)))


async def _receive(rig: Rig, folder: Path, stack: AsyncExitStack) -> None:
    """Let a site take the events, which fails now and then."""
    port = free_port()
    words = ["tests.support.receiver", str(port), str(folder), "0.1"]
    program = Process(words, environment=clean_environment(folder), folder=folder, name="receiver", port=port)
    stack.push_async_callback(program.kill)
    made = rig.run("webhooks", "add", f"{program.url}/all", "--json")
    [endpoint] = json.loads(made.stdout)
    rig.secrets.add(endpoint["secret"])
    receiver.keep_secret(folder, "/all", endpoint["secret"])
    await program.ready("/")


async def watch(folder: Path, database_url: str, seconds: float = 15, *, draws: bool = False) -> tuple[Found, str]:
    """Let customers pay for so long, let things go wrong, and ask. Also the picture, if it is to be drawn."""
    async with watched(folder, database_url) as one:
        await one.sell(seconds)
        drawn = await picture.draw(one.prometheus, seconds) if draws else ""
        await one.fail()
        return await one.asked(), drawn


def main() -> int:
    """Run it, and say what was found."""
    parser = argparse.ArgumentParser(prog="python -m ops.watched", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="for how long customers pay (%(default)s)")
    parser.add_argument("--picture", type=Path, help="draw the dashboard into this file, as SVG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="payment-service-watched-") as named:
        folder = Path(named)
        postgres = start_postgres(folder / "postgres")
        try:
            url = Server(postgres.url()).of(TEMPLATE)
            (folder / "rig").mkdir()
            found, drawn = asyncio.run(watch(folder / "rig", url, options.seconds, draws=options.picture is not None))
        finally:
            postgres.remove()
    if options.picture:
        options.picture.write_text(drawn, "utf-8")
    asked = len(dashboard.queries()), len(alerts.rules()), len(asked_for())
    sys.stdout.write("{} queries of the dashboard, {} alerts, {} series that they ask for\n".format(*asked))
    for query in sorted(found.without_data):
        sys.stdout.write(f"without data: {query}: {WITHOUT_DATA.get(query, 'NOT EXPECTED')}\n")
    for name, state in sorted(found.holding.items()):
        sys.stdout.write(f"{state}: {name}\n")
    for line in found.wrong:
        sys.stdout.write(f"WRONG {line}\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
