"""Real processes on free loopback ports: the stand-in proxy, services, a worker, over a database of their own.

Everything that a test of a whole program needs stands here: starting, waiting, asking, stopping by process id, and at
the end a look through everything that the programs wrote, for what must never be written.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx

from payment_service.access.service import Scope
from tests.conftest import ENCRYPTION_KEY, SHOPS, device_token_of
from tests.support import commands

Result = TypeVar("Result")

ACCESS_TOKEN = "rig-access-token-0123456789"
DEADLINE_S = 1.5
"""The services' deadline of a call. The stand-in's late answers come after 1.25 of it."""
PAY_AFTER_S = 0.5
PROMPT = {
    "KASPI_DEADLINE_S": str(DEADLINE_S),
    "SENDING_LEASE_S": "3",
    "SWEEP_EVERY_S": "0.5",
    "FOLLOW_FIRST_S": "0.3",
    "FOLLOW_FAST_S": "0.3",
    "FOLLOW_FAST_FOR_S": "10",
    "FOLLOW_SLOW_S": "3",
    "ERROR_CONFIRM_S": "0.3",
    "LATE_EFFECT_S": "0",
    "KASPI_BREAKER_FAILURES": "0",
    "WEBHOOKS_STAY_HERE": "true",
}
"""Settings with short times, and no pause however often a test lets the stand-in fail."""
PATIENT = {"KASPI_DEADLINE_S": "8", "SENDING_LEASE_S": "30"}
"""A service that waits for what the stand-in answers late: its slow calls succeed."""
PHONE = "77015211545"
PAYS_AT_ONCE = "77015219011"

_FULL_PHONE = re.compile(r"(?<![0-9A-Za-z])\+?[78]7\d{9}(?![0-9A-Za-z])")
_UPSTREAM_QUERY = re.compile(r"(?i)access_token=(?!\[hidden\])|devicetoken=|organizationbin=")


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int) -> bool:
    """Whether nobody listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def sha256(text: str) -> str:
    """As the stand-in's ledger shows a device token."""
    return hashlib.sha256(text.encode()).hexdigest()


def bin_with_checksum(first_eleven: str) -> str:
    """A made-up BIN, whole."""
    digits = [int(digit) for digit in first_eleven]
    for weights in (range(1, 12), (3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 2)):
        last = sum(weight * digit for weight, digit in zip(weights, digits, strict=True)) % 11
        if last < 10:
            return f"{first_eleven}{last}"
    raise ValueError("no BIN begins like this: take other digits")


def tenge(amount: str | float) -> Decimal:
    """Tenge as JSON or the ledger shows them, exact."""
    return Decimal(str(amount))


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment that holds nothing of the one that the tests run in."""
    return {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1", **more}


async def until(
    ask: Callable[[], Awaitable[Result | None]], what: str, *, within_s: float = 15, every_s: float = 0.05
) -> Result:
    """Ask until the answer is not empty, and return it."""
    give_up_at = time.monotonic() + within_s
    while True:
        if answer := await ask():
            return answer
        assert time.monotonic() < give_up_at, f"not within {within_s} s: {what}"
        await asyncio.sleep(every_s)


class Program:
    """One process that the rig started, and what it writes."""

    def __init__(
        self, words: Sequence[str], *, environment: dict[str, str], folder: Path, name: str, port: int = 0
    ) -> None:
        self.name, self.port, self.url = name, port, f"http://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *words],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal is for it alone
            )

    @property
    def written(self) -> str:
        """Everything it wrote so far."""
        return self.log.read_text("utf-8")

    async def ready(self, path: str = "/health/ready") -> Self:
        """Wait until it answers that it is ready."""
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:

            async def answers() -> bool:
                assert self.process.poll() is None, f"{self.name} ended at its start:\n{self.written}"
                with contextlib.suppress(httpx.TransportError):
                    return (await client.get(self.url + path)).status_code == 200
                return False

            await until(answers, f"{self.name} is ready", within_s=30)
        return self

    async def ended(self, within_s: float = 20) -> int:
        """Wait for its end; returns its exit code."""

        async def code() -> tuple[int] | None:
            return None if (found := self.process.poll()) is None else (found,)

        return (await until(code, f"{self.name} ends", within_s=within_s))[0]

    async def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal and wait for its end; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return await self.ended()
        except AssertionError:
            self.process.kill()
            self.process.wait()
            raise


@dataclass
class Rig:
    """The whole service on this machine, as an operator would run it."""

    folder: Path
    database_url: str
    services: list[Program] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    """What no log may hold."""
    _programs: list[Program] = field(default_factory=list)
    _clients: list[httpx.AsyncClient] = field(default_factory=list)
    _tokens: dict[str, list[str]] = field(default_factory=dict)
    _words: "itertools.count[int]" = field(default_factory=itertools.count)

    # --- starting and stopping

    async def __aenter__(self) -> Self:
        self.secrets |= {ACCESS_TOKEN, ENCRYPTION_KEY, self.database_url}
        for shop_id, organization_bin in SHOPS.items():
            self.register(organization_bin, device_token_of(shop_id))
        port = free_port()
        words = ["--port", str(port), "--tokens-file", str(self.folder / "tokens.json")]
        words += ["--pay-after", str(PAY_AFTER_S), "--deadline", str(DEADLINE_S)]
        self.sandbox = self.start("kaspi_sandbox", *words, name="sandbox", port=port)
        self.key = self.make_key("e2e", *Scope)
        self.sandbox_client = self._client(self.sandbox.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for client in self._clients:
                await client.aclose()
        finally:
            codes = {program: await program.stop() for program in reversed(self._programs)}
        # The stand-in ends by the signal; the service's own programs end well, unless a test killed them.
        wrong = {
            p.name: code
            for p, code in codes.items()
            if code not in ({-signal.SIGTERM} if p is self.sandbox else {0, -signal.SIGKILL})
        }
        assert not wrong, wrong
        self.check_logs()

    def environment(self, **more: str) -> dict[str, str]:
        """The settings of this rig's programs."""
        sandbox = getattr(self, "sandbox", None)
        settings = {
            "DATABASE_URL": self.database_url,
            "PRODUCTION_API_URL": sandbox.url if sandbox else "http://127.0.0.1:1",
            "KASPI_ACCESS_TOKEN": ACCESS_TOKEN,
            "ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "RATE_LIMITS": "off",
            **PROMPT,
            **more,
        }
        return clean_environment(self.folder, **settings)

    def start(self, *words: str, name: str, port: int = 0, **settings: str) -> Program:
        """Start a program in this rig's settings; it is stopped with the rig at the latest."""
        name = f"{len(self._programs):02d}-{name}"
        environment = self.environment(**settings)
        program = Program(words, environment=environment, folder=self.folder, name=name, port=port)
        self._programs.append(program)
        return program

    async def serve(self, **settings: str) -> Program:
        """Start one more service."""
        port = free_port()
        return await self.start(
            "payment_service", "serve", "--port", str(port), name="serve", port=port, **settings
        ).ready()

    async def serve_all(self, services: int = 2) -> None:
        """Start the services and the worker, and give the seven shops their routing."""
        ports = [free_port() for _ in range(services)]
        self.services = [
            self.start("payment_service", "serve", "--port", str(port), name="serve", port=port) for port in ports
        ]
        self.worker = self.start("payment_service", "worker", name="worker")
        await self.sandbox.ready("/health")
        for service in self.services:
            await service.ready()
        self.clients = [self.client(service) for service in self.services]
        await self.route_all()

    def run(self, *words: str, text: str = "", **settings: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of ``payment-service`` to its end; what it prints holds no secret that no command may print."""
        environment = self.environment(**settings)
        done = commands.run(words, environment=environment, folder=self.folder, text=text)
        password = urlsplit(self.database_url).password or ""
        secrets = {ACCESS_TOKEN, password, *environment["ENCRYPTION_KEYS"].split(",")} - {""}
        assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def make_key(self, name: str, *scopes: str, shops: Sequence[int] = ()) -> str:
        """An API key, made as an operator makes one."""
        words = [word for scope in scopes for word in ("--scope", scope)]
        words += [word for shop in shops for word in ("--shop", str(shop))]
        made = self.run("keys", "create", name, *words, "--json")
        assert made.returncode == 0, made.stderr
        key = str(json.loads(made.stdout)[0]["key"])
        self.secrets.add(key)
        return key

    def client(self, service: Program, key: str | None = None) -> httpx.AsyncClient:
        """A client of one service that sends the key."""
        return self._client(service.url, headers={"Authorization": f"Bearer {key or self.key}"})

    def _client(self, url: str, **how: Any) -> httpx.AsyncClient:
        # A new connection each time: a kept one may be closed by its server just as a request leaves.
        limits = httpx.Limits(max_keepalive_connections=0)
        client = httpx.AsyncClient(base_url=url, trust_env=False, timeout=20, limits=limits, **how)
        self._clients.append(client)
        return client

    def check_logs(self) -> None:
        """No program wrote a secret, a full phone, an upstream query or a traceback."""
        for program in self._programs:
            written = program.written
            assert not [secret for secret in self.secrets if secret in written], program.log
            assert not _FULL_PHONE.search(written), program.log
            assert not _UPSTREAM_QUERY.search(written), program.log
            assert "Traceback" not in written, f"{program.log}\n{written}"

    # --- the stand-in

    def register(self, organization_bin: str, device_token: str) -> None:
        """Let Kaspi know a device token of a BIN."""
        self.secrets.add(device_token)
        self._tokens.setdefault(organization_bin, []).append(device_token)
        draft = self.folder / "tokens.new"
        draft.write_text(json.dumps(self._tokens))
        draft.rename(self.folder / "tokens.json")

    def is_token_of(self, organization_bin: str, device_token: str) -> bool:
        """Whether Kaspi knows this device token as one of this BIN."""
        return device_token in self._tokens.get(organization_bin, [])

    async def ledger(self, **wanted: str | int) -> list[dict[str, Any]]:
        """The calls that the stand-in received, oldest first."""
        answer = await self.sandbox_client.get("/_ledger", params=wanted)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found

    async def applied(self, word: str) -> list[dict[str, Any]]:
        """The creates with this word as their message that took effect."""
        return [
            entry
            for entry in await self.ledger(applied="true")
            if entry["op"] != "refund" and (entry["message"] or "").startswith(f"{word} #")
        ]

    async def queue(self, operation: str, course: str, times: int = 1) -> None:
        """The stand-in's next calls of an operation take this course."""
        rule = {"op": operation, "course": course, "times": times}
        (await self.sandbox_client.post("/_rules", json=rule)).raise_for_status()

    # --- the service

    @property
    def api(self) -> httpx.AsyncClient:
        """The client of the first service."""
        return self.clients[0]

    def word(self) -> str:
        """A message that no other payment of this rig has."""
        return f"payment {uuid.uuid4().hex[:8]}-{next(self._words)}"

    async def route_all(self) -> None:
        """Give each of the seven shops its own BIN and device token."""
        for shop_id, organization_bin in SHOPS.items():
            body = {"organization_bin": organization_bin, "device_token": device_token_of(shop_id), "is_active": True}
            answer = await self.api.put(f"/admin/configs/{shop_id}", json=body)
            if answer.status_code == 404:
                answer = await self.api.post("/admin/configs", json={"shop_id": shop_id, **body})
            answer.raise_for_status()

    async def create(
        self,
        shop_id: int = 121038,
        *,
        by: httpx.AsyncClient | None = None,
        key: str | None = None,
        link: bool = False,
        **body: Any,
    ) -> httpx.Response:
        """Ask for a payment by phone or by link."""
        body = {"shop_id": shop_id, "amount": 100, **({} if link else {"phone": PHONE}), **body}
        return await self._post("create-link" if link else "create", body, by, key)

    async def refund(
        self,
        external_id: str,
        shop_id: int = 121038,
        *,
        by: httpx.AsyncClient | None = None,
        key: str | None = None,
        **body: Any,
    ) -> httpx.Response:
        """Ask for a refund."""
        return await self._post("refund", {"shop_id": shop_id, "external_id": external_id, **body}, by, key)

    async def _post(
        self, what: str, body: dict[str, Any], by: httpx.AsyncClient | None, key: str | None
    ) -> httpx.Response:
        headers = {"Idempotency-Key": key} if key else {}
        return await (by or self.api).post(f"/payments/kaspi/{what}", json=body, headers=headers)

    async def paid(self, shop_id: int = 121038, **body: Any) -> dict[str, Any]:
        """A new payment that its customer has paid already; the service knows once it asks."""
        answer = await self.create(shop_id, **{"phone": PAYS_AT_ONCE, "message": self.word(), **body})
        assert answer.status_code == 200, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def payment(self, payment_id: str) -> dict[str, Any]:
        """A payment with its refunds and its history, as the service knows it without asking anybody."""
        answer = await self.api.get(f"/payments/{payment_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def payment_of_order(self, order_id: str) -> dict[str, Any] | None:
        """The only payment of an order."""
        items = (await self.api.get("/payments", params={"order_id": order_id})).json()["items"]
        assert len(items) <= 1, items
        return items[0] if items else None

    async def in_state(self, payment_id: str, *states: str, within_s: float = 15) -> dict[str, Any]:
        """Wait, without asking the provider, until a payment is in one of the states."""

        async def there() -> dict[str, Any] | None:
            found = await self.payment(payment_id)
            return found if found["state"] in states else None

        return await until(there, f"payment {payment_id} is {' or '.join(states)}", within_s=within_s)


@contextlib.asynccontextmanager
async def whole(folder: Path, database_url: str) -> AsyncIterator[Rig]:
    """A rig with everything running."""
    async with Rig(folder, database_url) as rig:
        await rig.serve_all()
        yield rig
