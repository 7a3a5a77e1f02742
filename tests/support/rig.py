"""The whole service on this machine: the stand-in proxy, services, workers, over a database of their own.

Everything that a test of a whole program needs stands here: starting, asking, stopping, and at the end a look through
everything that the programs wrote, for what must never be written. The rig of the faults is built on this one.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import re
import signal
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import httpx

from payment_service.access.service import Scope
from tests.support import processes
from tests.support.processes import Process, clean_environment, free_port
from tests.support.shops import ENCRYPTION_KEY, SHOPS, device_token_of
from tests.support.waiting import until

ACCESS_TOKEN = "rig-access-token-0123456789"
DEADLINE_S = 1.5
"""The services' deadline of a call. The stand-in's late answers come after 1.25 of it."""
PAY_AFTER_S = 0.5
PROMPT = {
    "KASPI_DEADLINE_S": str(DEADLINE_S),
    "SENDING_LEASE_S": "3",
    "SWEEP_EVERY_S": "1.5",
    "FOLLOW_FIRST_S": "0.3",
    "FOLLOW_FAST_S": "0.3",
    "FOLLOW_FAST_FOR_S": "10",
    "FOLLOW_SLOW_S": "6",
    "ERROR_CONFIRM_S": "0.3",
    "LATE_EFFECT_S": "0",
    "KASPI_BREAKER_FAILURES": "0",
    "WEBHOOKS_STAY_HERE": "true",
}
"""Settings with short times, and no pause however often a test lets the stand-in fail. A sweep takes 50 ms of a
processor, and what tests leave open is followed as long as the rig is up: neither comes more often than it must."""
PATIENT = {"KASPI_DEADLINE_S": "8", "SENDING_LEASE_S": "30"}
"""A service that waits for what the stand-in answers late: its slow calls succeed."""
PHONE = "77015211545"
PAYS_AT_ONCE = "77015219011"

_FULL_PHONE = re.compile(r"(?<![0-9A-Za-z])\+?[78]7\d{9}(?![0-9A-Za-z])")
_UPSTREAM_QUERY = re.compile(r"(?i)access_token=(?!\[hidden\])|devicetoken=|organizationbin=")


def sha256(text: str) -> str:
    """As the stand-in's ledger shows a device token."""
    return hashlib.sha256(text.encode()).hexdigest()


def tenge(amount: str | float) -> Decimal:
    """Tenge as JSON or the ledger shows them, exact."""
    return Decimal(str(amount))


@dataclass(eq=False, repr=False)
class Rig:
    """The whole service on this machine, as an operator would run it."""

    folder: Path
    database_url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Beyond PROMPT, for every process."""
    database_path: str | None = None
    """The DATABASE_URL that processes get, when it is not the database's own: a relay's."""
    services: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    """What no log may hold."""
    sandbox: Process = field(init=False)
    key: str = field(init=False)
    """An API key that may do everything."""

    prompt: ClassVar[Mapping[str, str]] = PROMPT
    program: ClassVar[str] = "payment_service"
    """The module that services and workers run."""
    _processes: list[Process] = field(default_factory=list)
    _clients: list[httpx.AsyncClient] = field(default_factory=list)
    _tokens: dict[str, list[str]] = field(default_factory=dict)
    _words: "itertools.count[int]" = field(default_factory=itertools.count)

    # --- starting and stopping

    async def __aenter__(self) -> Self:
        password = urlsplit(self.database_url).password
        self.secrets |= {ACCESS_TOKEN, ENCRYPTION_KEY, self.database_url} | ({password} if password else set())
        for shop_id, organization_bin in SHOPS.items():
            self.register(organization_bin, device_token_of(shop_id))
        port = free_port()
        words = ["--port", str(port), "--tokens-file", str(self.folder / "tokens.json")]
        words += ["--ledger-file", str(self.folder / "ledger.jsonl"), "--pay-after", str(PAY_AFTER_S)]
        words += ["--deadline", str(self.seconds("KASPI_DEADLINE_S"))]
        self.sandbox = self.start("kaspi_sandbox", *words, name="sandbox", port=port)
        self.key = self.make_key("rig", *Scope)
        await self.sandbox.ready("/health")
        self.sandbox_client = self._client(self.sandbox.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for client in self._clients:
                await client.aclose()
        finally:
            # The stand-in last: it answers the calls that are under way.
            others = [process for process in self._processes if process is not self.sandbox]
            ends = await asyncio.gather(*(process.stop() for process in others), return_exceptions=True)
            codes = {**dict(zip(others, ends, strict=True)), self.sandbox: await self.sandbox.stop()}
        # The stand-in ends by the signal; the service's own programs end well, unless a test killed them.
        wrong = {
            process.name: code
            for process, code in codes.items()
            if code not in ({-signal.SIGTERM} if process is self.sandbox else {0, -signal.SIGKILL})
        }
        assert not wrong, wrong
        self.check_logs()

    @property
    def upstream_url(self) -> str:
        """Where the services find the proxy."""
        return self.sandbox.url if hasattr(self, "sandbox") else "http://127.0.0.1:1"

    def environment(self, **more: str) -> dict[str, str]:
        """The settings of this rig's processes."""
        settings = {
            "DATABASE_URL": self.database_path or self.database_url,
            "PRODUCTION_API_URL": self.upstream_url,
            "KASPI_ACCESS_TOKEN": ACCESS_TOKEN,
            "ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "RATE_LIMITS": "off",
            **self.prompt,
            **self.settings,
            **more,
        }
        return clean_environment(self.folder, **settings)

    def seconds(self, setting: str) -> float:
        """What the processes are told of a time."""
        return float({**self.prompt, **self.settings}[setting])

    def start(self, *words: str, name: str, port: int = 0, **settings: str) -> Process:
        """Start a program in this rig's settings; it is stopped with the rig at the latest."""
        name = f"{len(self._processes):04d}-{name}"
        process = Process(words, environment=self.environment(**settings), folder=self.folder, name=name, port=port)
        self._processes.append(process)
        return process

    def start_service(self, port: int = 0, /, **settings: str) -> Process:
        """Start one more service, on a port of its own if none is given, and do not wait for it."""
        port = port or free_port()
        return self.start(self.program, "serve", "--port", str(port), name="serve", port=port, **settings)

    def start_worker(self, **settings: str) -> Process:
        """Start one more worker."""
        return self.start(self.program, "worker", name="worker", port=0, **settings)

    async def serve(self, **settings: str) -> Process:
        """Start one more service, and wait until it is ready."""
        return await self.start_service(**settings).ready()

    async def serve_all(self, services: int = 2) -> None:
        """Start the services and a worker, and give the seven shops their routing."""
        self.services = [self.start_service() for _ in range(services)]
        self.workers = [self.start_worker()]
        for service in self.services:
            await service.ready()
        self.clients = [self.client(service) for service in self.services]
        await self.route_all()

    def run(self, *words: str, text: str = "", **settings: str) -> CompletedProcess[str]:
        """Run a command of ``payment-service`` to its end; what it prints holds no secret that no command may print."""
        environment = self.environment(**settings)
        done = processes.run(words, environment=environment, folder=self.folder, text=text)
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

    def client(self, service: Process, key: str | None = None) -> httpx.AsyncClient:
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
        for process in self._processes:
            written = process.written
            assert not [secret for secret in self.secrets if secret in written], process.log
            assert not _FULL_PHONE.search(written), process.log
            assert not _UPSTREAM_QUERY.search(written), process.log
            assert "Traceback" not in written, f"{process.log}\n{written}"

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
        await asyncio.gather(*(self._route(shop_id) for shop_id in SHOPS))

    async def _route(self, shop_id: int) -> None:
        body = {
            "organization_bin": SHOPS[shop_id],
            "device_token": device_token_of(shop_id),
            "is_active": True,
        }
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
