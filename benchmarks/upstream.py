"""An upstream that answers at once, or after a delay, and keeps its own ledger: the proxy and the receiver of webhooks.

It stands in for the production proxy where rates are measured, because the real stand-in would take more of the
processor than what is measured. It knows three of the proxy's calls (``create``, ``create-link``, ``status``), checks
nothing, and writes down every create as it came: what was really asked. A payment to a phone that ends in 99 is paid
when it is asked about; any other waits. A POST to ``/hook`` is an event that arrived.

Bytes are parsed by hand on uvloop: about 0.05 ms of the processor for a call.
"""

import asyncio
import json
import re
import sys
import time
from typing import Any
from urllib.parse import parse_qs

import uvloop

FIRST_ID = 12_800_000_000
PAID_PHONE = re.compile(rb"[?&]phone=[0-9]*99(&|$)")
PLANTS = ("lost", "twice", "seller")


class Ledger:
    """What was asked, in the order of arrival."""

    def __init__(self, plant: str) -> None:
        self.plant = plant
        self.delay_s = 0.0
        self.in_flight = 0
        self.forget()

    def forget(self) -> None:
        """Empty it. The ids go on: a payment of an earlier round keeps its own."""
        self.creates: dict[int, bytes] = {}
        self.told_apart = getattr(self, "told_apart", 0)
        self.readings: list[tuple[float, int]] = []
        self.hooks: list[tuple[float, bytes]] = []

    def create(self, target: bytes) -> int:
        """Write a create down and give it an id."""
        self.told_apart += 1
        external_id = FIRST_ID + self.told_apart
        kept: bytes | None = target
        if self.plant and self.told_apart % 100 == 0:  # the mistakes that the comparison of the books must find
            if self.plant == "twice":
                self.told_apart += 1
                self.creates[FIRST_ID + self.told_apart] = target
            if self.plant == "seller":
                kept = re.sub(rb"organizationBin=\d", b"organizationBin=x", target)
            if self.plant == "lost":
                kept = None
        if kept is not None:
            self.creates[external_id] = kept
        return external_id

    def shown(self) -> list[dict[str, str]]:
        """Every create: its id and its query."""
        shown = []
        for external_id, target in self.creates.items():
            query = parse_qs(target.partition(b"?")[2].decode(), keep_blank_values=True)
            shown.append({"external_id": str(external_id)} | {name: values[-1] for name, values in query.items()})
        return shown


class Connection(asyncio.Protocol):
    """One connection of whoever asks; one request at a time on it."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        """A caller is there."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Gather a request until it is whole, then answer."""
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self.buffer = rest[size:]
            self.answer(head, rest[:size])

    def answer(self, head: bytes, body: bytes) -> None:
        """Do what is asked."""
        ledger = self.ledger
        method, target, _ = head.split(b" ", 2)
        last = b"connection: close" in head.lower()
        path = target.partition(b"?")[0].rstrip(b"/").rpartition(b"/")[2]
        if path in {b"create", b"create-link"}:
            external_id = ledger.create(target)
            data: dict[str, Any] = {"externalId": external_id, "status": "Wait"}
            if path == b"create-link":
                data = {"paymentLink": f"https://pay.example/{external_id}", "paymentId": external_id}
            reply = json.dumps({"status": True, "data": data, "http_code": 200}).encode()
            self.later(reply, last=last)
        elif path == b"status":
            external_id = int(re.search(rb"externalId=(\d+)", target)[1])  # type: ignore[index]
            ledger.readings.append((time.time(), external_id))
            paid = PAID_PHONE.search(ledger.creates.get(external_id, b""))
            data = {"externalId": external_id, "status": "Processed" if paid else "Wait"}
            self.later(json.dumps({"status": True, "data": data, "http_code": 200}).encode(), last=last)
        elif method == b"POST" and path.startswith(b"hook"):
            ledger.hooks.append((time.time(), body))
            self.send(b"{}", last=last)
        else:
            self.send(json.dumps(self.asked_by_the_bench(path, target)).encode(), last=last)

    def asked_by_the_bench(self, path: bytes, target: bytes) -> Any:
        """What the benchmark itself asks for."""
        ledger = self.ledger
        match path:
            case b"_delay":
                ledger.delay_s = float(target.rpartition(b"=")[2])
            case b"_reset":
                ledger.forget()
            case b"_ledger":
                return ledger.shown()
            case b"_readings":
                return ledger.readings
            case b"_hooks":
                return [[at, json.loads(body)] for at, body in ledger.hooks]
        return {
            "creates": len(ledger.creates),
            "readings": len(ledger.readings),
            "hooks": len(ledger.hooks),
            "in_flight": ledger.in_flight,
        }

    def later(self, body: bytes, *, last: bool) -> None:
        """Answer after the delay."""
        if not self.ledger.delay_s:
            self.send(body, last=last)
            return
        self.ledger.in_flight += 1
        asyncio.get_running_loop().call_later(self.ledger.delay_s, self.landed, body, last)

    def landed(self, body: bytes, last: bool) -> None:
        """The delay is over."""
        self.ledger.in_flight -= 1
        self.send(body, last=last)

    def send(self, body: bytes, *, last: bool) -> None:
        """Write an answer."""
        if self.transport.is_closing():
            return
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + (b"Connection: close\r\n" if last else b"")
        self.transport.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        if last:
            self.transport.close()


async def run(port: int, plant: str) -> None:
    """Serve until killed."""
    ledger = Ledger(plant)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(ledger), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
