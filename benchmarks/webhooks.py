"""From the move to paid until the webhook is at its receiver, beside a bare POST to the same receiver."""

import asyncio
import json
import threading
import time
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from statistics import median

import httpx
from stage import environment_of, free_port, make_key, shops, stage

PAYMENTS = 200
PER_SECOND = 5
PAYS_AT_ONCE = "77015219011"
ARRIVED: dict[str, float] = {}
"""Seconds from the database's time of the move to the arrival, by payment."""
NOT_MADE: list[int] = []


class Receiver(BaseHTTPRequestHandler):  # noqa: D101
    def do_POST(self) -> None:  # noqa: D102
        now = time.time()
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body.get("type") == "payment.paid":
            ARRIVED[body["data"]["id"]] = now - datetime.fromisoformat(body["data"]["moved_at"]).timestamp()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:  # noqa: D102
        pass


async def pay(service: str, key: str) -> None:
    """Payments that are paid as soon as they are asked about, at a steady pace."""
    headers, whose = {"Authorization": f"Bearer {key}"}, cycle(row.shop_id for row in shops())
    async with httpx.AsyncClient(base_url=service, headers=headers, trust_env=False, timeout=20) as client:

        async def create(number: int) -> None:
            body = {"shop_id": next(whose), "amount": 100, "phone": PAYS_AT_ONCE, "message": f"bench {number}"}
            answer = await client.post("/payments/kaspi/create", json=body)
            NOT_MADE.extend([number] * (not answer.is_success))

        async with asyncio.TaskGroup() as group:
            for number in range(PAYMENTS):
                group.create_task(create(number))
                await asyncio.sleep(1 / PER_SECOND)
    give_up_at = time.monotonic() + 60
    while len(ARRIVED) < PAYMENTS - len(NOT_MADE) and time.monotonic() < give_up_at:  # noqa: ASYNC110 - another thread fills it
        await asyncio.sleep(0.1)


def bare(url: str) -> list[float]:
    """The same receiver called as simply as can be, with a new connection each time."""
    times = []
    for _ in range(PAYMENTS):
        began = time.perf_counter()
        httpx.post(url, json={"type": "bare"}, trust_env=False).raise_for_status()
        times.append(time.perf_counter() - began)
    return times


def line(name: str, seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p50, p95, p99 = (1000 * ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.5, 0.95, 0.99))
    return f"{name:<28}{len(ordered):8}{p50:10.1f}{p95:10.1f}{p99:10.1f}"


def main() -> None:
    with stage() as here:
        settings = here.database("webhooks")
        receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{receiver.server_port}/"
        key = make_key(settings)
        working = {"WORKER_IN_SERVE": "true", "WEBHOOKS_STAY_HERE": "true", "FOLLOW_FIRST_S": "0.3"}
        environment = {**environment_of(settings), **working, "PORT": str(free_port())}
        service = here._start(["-m", "payment_service", "serve"], environment, "/health/ready")  # noqa: SLF001
        headers = {"Authorization": f"Bearer {key}"}
        endpoint = {"url": url, "events": ["payment.paid"]}
        httpx.post(f"{service}/admin/webhooks", json=endpoint, headers=headers, trust_env=False).raise_for_status()
        asyncio.run(pay(service, key))
        times = bare(url)
        print(f"{'':<28}{'':>8}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}")
        print(line("bare POST", times))
        print(line("paid -> webhook", list(ARRIVED.values())))
        print(f"  webhook / bare: {median(ARRIVED.values()) / median(times):.1f} x the median time")
        if len(ARRIVED) < PAYMENTS:
            print(f"  {len(NOT_MADE)} were not made, {PAYMENTS - len(NOT_MADE) - len(ARRIVED)} did not arrive")


if __name__ == "__main__":
    main()
