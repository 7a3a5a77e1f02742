"""The whole service on this machine, over a database and a stand-in of its own: started, killed, healed, ended.

    clients -> 2 x serve, 2 x worker -> fault proxy -> stand-in
                        |
              (relay, when a family asks) -> PostgreSQL

Processes are forks of a server that has imported everything, so that one that was killed is back within half a
second. Each is a process of its own, with its own environment, and dies by real signals.
"""

import asyncio
import contextlib
import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import asyncpg
import httpx

from faults import program
from faults.proxy import Call, FaultProxy
from payment_dev.postgres import EmbeddedPostgres
from payment_service.access.service import FULL_ACCESS, Scope
from payment_service.postgres.visibility import ALL_SHOPS
from payment_service.services import build
from payment_service.settings import Settings
from tests.conftest import ENCRYPTION_KEY, SHOPS, device_token_of
from tests.support.rig import clean_environment, free_port

Result = TypeVar("Result")

TEMPLATE = "payment_service_template"
ACCESS_TOKEN = "rig-access-token-0123456789"
PROMPT = {
    "KASPI_DEADLINE_S": "1.5",
    "SENDING_LEASE_S": "2.5",
    "DUPLICATE_WINDOW_S": "60",
    "SWEEP_EVERY_S": "0.4",
    "FOLLOW_FIRST_S": "0.3",
    "FOLLOW_FAST_S": "0.3",
    "ERROR_CONFIRM_S": "0.3",
    "KASPI_BREAKER_FAILURES": "0",
    "DATABASE_POOL_SIZE": "10",
    "FAULTS_CLOCK": "1",
}
"""Settings with short times, so that what is lost is soon found."""
PAY_AFTER_S = 0.5

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "kaspi_sandbox.__main__",
        "payment_service.cli.serve",
        "payment_service.cli.worker",
        "faults.points",
        "faults.planted",
        "httpcore",
        "uvicorn.loops.uvloop",
        "uvicorn.protocols.http.httptools_impl",
        "pytest",
    ]
)


async def until(
    ask: Callable[[], Awaitable[Result | None]], what: str, *, within_s: float, every_s: float = 0.03
) -> Result:
    """Ask until the answer is not empty, and return it.

    Raises:
        TimeoutError: naming what did not come.
    """
    give_up_at = time.monotonic() + within_s
    while not (answer := await ask()):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(every_s)
    return answer


class Process:
    """One process of the rig, and what it writes."""

    def __init__(
        self, words: Sequence[str], *, name: str, folder: Path, environment: dict[str, str], port: int = 0
    ) -> None:
        self.words, self.name, self.folder, self.environment, self.port = words, name, folder, environment, port
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        self._process: BaseProcess = _forks.Process(
            target=program.child, args=(list(words), environment, str(folder), str(self.log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; minus the signal that killed it."""
        return self._process.exitcode

    @property
    def written(self) -> str:
        """Everything that it wrote so far."""
        return self.log.read_text("utf-8") if self.log.exists() else ""

    @property
    def alive(self) -> bool:
        return self.exit_code is None

    def signal(self, sign: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    async def ended(self, within_s: float = 10) -> int:
        """Wait for its end; returns its exit code."""

        async def code() -> tuple[int] | None:
            return None if (found := self.exit_code) is None else (found,)

        return (await until(code, f"{self.name} ends", within_s=within_s))[0]

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        self.signal(signal.SIGTERM)
        try:
            await self.ended()
        except TimeoutError:
            await self.kill()


@dataclass(slots=True)
class Arrival:
    """A money call as it reached the proxy, and the state of its row at that moment, as another connection saw it."""

    op: str
    short_code: str | None
    external_id: str | None
    amount: str
    state: str | None
    """None: no such row was committed."""
    looked: bool
    """False when the database could not be asked just then."""


@dataclass
class Rig:
    """Everything that runs, and everything that was seen."""

    folder: Path
    postgres: EmbeddedPostgres
    name: str = "rig"
    settings: dict[str, str] = field(default_factory=dict)
    """Beyond PROMPT, for every process."""
    number_of_services: int = 2
    number_of_workers: int = 2
    database_path: str | None = None
    """The DATABASE_URL that the processes get, when it is not the database's own: a relay's."""

    services: list[Process] = field(default_factory=list)
    workers: list[Process] = field(default_factory=list)
    arrivals: list[Arrival] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    """What no log and no row may hold."""
    since: Any = None
    """Payments made before this moment of the database's clock were checked already."""
    checked_calls: int = 0
    """How many applied calls of the ledger were checked already; so with the arrivals."""
    checked_arrivals: int = 0
    _all: list[Process] = field(default_factory=list)
    _ledger: list[dict[str, Any]] = field(default_factory=list)
    _ledger_read: int = 0
    _log_read: dict[Path, int] = field(default_factory=dict)
    _tokens: dict[str, list[str]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        database = f"faults_{self.name}"
        await asyncio.to_thread(self.postgres.create_database, database, TEMPLATE)
        self.database_url = self.postgres.url(database)
        self.pool = await asyncpg.create_pool(self.database_url, min_size=1, max_size=8)
        self.http = httpx.AsyncClient(trust_env=False, timeout=25, limits=httpx.Limits(max_keepalive_connections=0))
        for shop_id, organization_bin in SHOPS.items():
            self.register(organization_bin, device_token_of(shop_id))
        try:
            await self._start_stand_in()
            self.proxy = FaultProxy(upstream=self.stand_in.port)
            self.proxy.watchers.append(self._watch)
            await self.proxy.start()
            await self._furnish()
            self.services = [self.serve() for _ in range(self.number_of_services)]
            self.workers = [self.work() for _ in range(self.number_of_workers)]
            await self.heal()
            self.since = await self.pool.fetchval("SELECT now()")
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for process in self._all:
            process.signal(signal.SIGKILL)
        for process in self._all:
            await process.ended()
        if hasattr(self, "proxy"):
            await self.proxy.end()
        await self.http.aclose()
        self.pool.terminate()

    # --- processes

    def environment(self, **more: str) -> dict[str, str]:
        """What the processes of this rig are told."""
        return clean_environment(
            self.folder,
            DATABASE_URL=self.database_path or self.database_url,
            PRODUCTION_API_URL=self.proxy.url if hasattr(self, "proxy") else "http://127.0.0.1:1",
            KASPI_ACCESS_TOKEN=ACCESS_TOKEN,
            ENCRYPTION_KEYS=ENCRYPTION_KEY,
            RATE_LIMITS="off",
            **{**PROMPT, **self.settings, **more},
        )

    def start(self, *words: str, name: str, port: int = 0, settings: Mapping[str, str] | None = None) -> Process:
        """Start a program of the package; it ends with the rig at the latest."""
        name = f"{len(self._all):04d}-{name}"
        process = Process(
            words, name=name, folder=self.folder, environment=self.environment(**(settings or {})), port=port
        )
        self._all.append(process)
        return process

    def serve(self, **settings: str) -> Process:
        """Start a service; ``ready`` waits for it."""
        port = free_port()
        return self.start("serve", "--port", str(port), name="serve", port=port, settings=settings)

    def work(self, **settings: str) -> Process:
        """Start a worker."""
        return self.start("worker", name="worker", settings=settings)

    def seconds(self, setting: str) -> float:
        """What the processes were told of a time."""
        return float({**PROMPT, **self.settings}[setting])

    @property
    def confirm_s(self) -> float:
        """ERROR_CONFIRM_S of the processes."""
        return self.seconds("ERROR_CONFIRM_S")

    @property
    def lease_s(self) -> float:
        """SENDING_LEASE_S of the processes."""
        return self.seconds("SENDING_LEASE_S")

    async def command(self, *words: str) -> Process:
        """Run a command of the package to its end."""
        process = self.start(*words, name="-".join(words[:2]))
        await process.ended(within_s=60)
        return process

    async def ready(self, service: Process, within_s: float = 20) -> Process:
        """Wait until a service says that it is ready."""
        await self._answers(service, "/health/ready", within_s)
        return service

    async def heal(self) -> None:
        """Start again what died, and wait until every service is ready."""
        for crew, again in ((self.services, self.serve), (self.workers, self.work)):
            for place, process in enumerate(crew):
                if not process.alive:
                    crew[place] = again()
        for service in self.services:
            await self.ready(service)

    async def _start_stand_in(self) -> None:
        port = free_port()
        words = ["--port", str(port), "--tokens-file", str(self.folder / "tokens.json")]
        words += ["--ledger-file", str(self.folder / "ledger.jsonl"), "--pay-after", str(PAY_AFTER_S)]
        deadline_s = self.seconds("KASPI_DEADLINE_S")
        self.stand_in = self.start(program.STAND_IN, *words, "--deadline", str(deadline_s), name="stand-in", port=port)
        await self._answers(self.stand_in, "/health", 20)

    async def _answers(self, process: Process, path: str, within_s: float) -> None:
        async def answers() -> bool:
            if not process.alive:
                raise RuntimeError(f"{process.name} ended at its start:\n{process.written[-3000:]}")
            with contextlib.suppress(httpx.TransportError):
                return (await self.http.get(process.url + path)).status_code == 200
            return False

        await until(answers, f"{process.name} is ready", within_s=within_s)

    async def _furnish(self) -> None:
        """An API key, and each shop on its own account."""
        settings = Settings.model_validate({name.lower(): value for name, value in self.environment().items()})
        services = build(settings)
        try:
            self.key = (await services.access.create("faults", list(Scope), shops=ALL_SHOPS)).key
            for shop_id, organization_bin in SHOPS.items():
                fields = {"organization_bin": organization_bin, "device_token": device_token_of(shop_id)}
                await services.routing.create(FULL_ACCESS, shop_id, fields)
        finally:
            await services.close()
        password = urlsplit(self.database_url).password or ""
        self.secrets |= {ACCESS_TOKEN, ENCRYPTION_KEY, self.key, password}

    # --- the stand-in

    def register(self, organization_bin: str, device_token: str) -> None:
        """Let Kaspi know a device token of a BIN."""
        self.secrets.add(device_token)
        self._tokens.setdefault(organization_bin, []).append(device_token)
        draft = self.folder / "tokens.new"
        draft.write_text(json.dumps(self._tokens))
        draft.rename(self.folder / "tokens.json")

    def token_of_hash(self) -> dict[str, str]:
        """SHA-256 of every device token that was ever registered -> the token."""
        return {
            hashlib.sha256(token.encode()).hexdigest(): token for tokens in self._tokens.values() for token in tokens
        }

    def ledger(self) -> list[dict[str, Any]]:
        """Every call that the stand-in took, oldest first; amounts in tiyn. Read from its own file."""
        with (self.folder / "ledger.jsonl").open("rb") as file:
            file.seek(self._ledger_read)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._ledger_read += len(whole) + 1
            lines = (json.loads(line) for line in whole.splitlines())
            self._ledger.extend(line for line in lines if "op" in line)
        return self._ledger

    async def queue(self, op: str, course: str, times: int = 1) -> None:
        """The stand-in's next calls of an operation take this course."""
        rule = {"op": op, "course": course, "times": times}
        (await self.http.post(f"{self.stand_in.url}/_rules", json=rule)).raise_for_status()

    async def _watch(self, call: Call) -> None:
        """Whether the row of a money call is committed when the call comes: asked before it goes any further."""
        if call.op == "status":
            return
        state, looked = None, True
        try:
            if call.op == "refund":
                amount = int(call.query["amount"].replace(".", ""))
                state = await self.pool.fetchval(
                    "SELECT refund.state FROM refund JOIN payment ON payment.id = payment_id"
                    " WHERE payment.external_id = $1 AND refund.amount = $2"
                    " ORDER BY refund.state IN ('sending', 'unknown') DESC, refund.created_at DESC LIMIT 1",
                    call.query.get("externalId"),
                    amount,
                )
            else:
                state = await self.pool.fetchval("SELECT state FROM payment WHERE short_code = $1", call.short_code)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            looked = False
        arrival = Arrival(
            op=call.op,
            short_code=call.short_code,
            external_id=call.query.get("externalId"),
            amount=call.query.get("amount", ""),
            state=state,
            looked=looked,
        )
        self.arrivals.append(arrival)

    # --- what was written

    def newly_written(self) -> str:
        """What the processes wrote to their logs since this was last asked, with a little of before."""
        pieces = []
        for process in self._all:
            if not process.log.exists():
                continue
            start = max(self._log_read.get(process.log, 0) - 200, 0)
            with process.log.open("rb") as file:
                file.seek(start)
                data = file.read()
            self._log_read[process.log] = start + len(data)
            pieces.append(data.decode("utf-8", "replace"))
        return "\n".join(pieces)

    async def nothing_in_doubt(self, within_s: float = 10) -> None:
        """Settle, and wait until those who insist have written down what they knew.

        Raises:
            TimeoutError: when something stays in ``sending``, or unknown.
        """
        await self.settle()

        async def none() -> bool:
            return not await self.pool.fetchval(
                "SELECT (SELECT count(*) FROM payment WHERE state = 'unknown')"
                " + (SELECT count(*) FROM refund WHERE state = 'unknown')"
            )

        await until(none, "nothing is in doubt", within_s=within_s)

    async def settle(self, within_s: float | None = None) -> None:
        """Let everything run and wait until nothing is being sent any more, by the service's own sweep.

        Raises:
            TimeoutError: when something stays in ``sending`` for longer than the sweep may take.
        """
        await self.heal()
        if within_s is None:
            within_s = self.lease_s + 3 * self.seconds("SWEEP_EVERY_S") + 10

        async def quiet() -> bool:
            return not await self.pool.fetchval(
                "SELECT count(*) FROM (SELECT id FROM payment WHERE state = 'sending'"
                " UNION ALL SELECT id FROM refund WHERE state = 'sending') AS busy"
            )

        await until(quiet, "nothing is in sending", within_s=within_s, every_s=0.05)
