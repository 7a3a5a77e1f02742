"""The rig of the faults: two services and two workers, whose calls go through a proxy that can do harm to each.

    clients -> 2 x serve, 2 x worker -> fault proxy -> stand-in
                        |
              (relay, when a family asks) -> PostgreSQL

A process that was killed is started again by ``heal``, and all die by SIGKILL in the end.
"""

import hashlib
import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import asyncpg
import httpx

from faults.proxy import Call, FaultProxy
from payment_service.access.service import FULL_ACCESS
from payment_service.services import build
from payment_service.settings import Settings
from tests.support import rig
from tests.support.database import LOST
from tests.support.shops import SHOPS, device_token_of
from tests.support.waiting import until

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
OBSERVER = "faults"
"""The rig's own connections to the database, by their application_name."""


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


@dataclass(eq=False, repr=False)
class Rig(rig.Rig):
    """Everything that runs, and everything that was seen."""

    number_of_services: int = 2
    number_of_workers: int = 2

    arrivals: list[Arrival] = field(default_factory=list)
    since: Any = None
    """Payments made before this moment of the database's clock were checked already."""
    checked_calls: int = 0
    """How many applied calls of the ledger were checked already; so with the arrivals."""
    checked_arrivals: int = 0
    prompt: ClassVar = PROMPT
    program: ClassVar = "faults.program"
    _entries: list[dict[str, Any]] = field(default_factory=list)
    _ledger_read: int = 0
    _log_read: dict[Path, int] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        self.pool = await asyncpg.create_pool(
            self.database_url, min_size=0, max_size=8, server_settings={"application_name": OBSERVER}
        )
        self.http = httpx.AsyncClient(trust_env=False, timeout=25, limits=httpx.Limits(max_keepalive_connections=0))
        try:
            await super().__aenter__()
            self.proxy = FaultProxy(upstream=self.sandbox.port)
            self.proxy.watchers.append(self._watch)
            await self.proxy.start()
            await self._furnish()
            self.services = [self.start_service() for _ in range(self.number_of_services)]
            self.workers = [self.start_worker() for _ in range(self.number_of_workers)]
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
        for process in self._processes:
            process.signal(signal.SIGKILL)
        for process in self._processes:
            await process.ended()
        if hasattr(self, "proxy"):
            await self.proxy.end()
        for client in (self.http, *self._clients):
            await client.aclose()
        self.pool.terminate()

    # --- processes

    @property
    def upstream_url(self) -> str:
        """The fault proxy."""
        return self.proxy.url if hasattr(self, "proxy") else super().upstream_url

    @property
    def confirm_s(self) -> float:
        """ERROR_CONFIRM_S of the processes."""
        return self.seconds("ERROR_CONFIRM_S")

    @property
    def lease_s(self) -> float:
        """SENDING_LEASE_S of the processes."""
        return self.seconds("SENDING_LEASE_S")

    async def heal(self) -> None:
        """Start again what died, and wait until every service is ready."""
        for crew, again in ((self.services, self.start_service), (self.workers, self.start_worker)):
            for place, process in enumerate(crew):
                if not process.alive:
                    crew[place] = again()
        for service in self.services:
            await service.ready()

    async def _furnish(self) -> None:
        """Each shop on its own account, though there may be no service to ask."""
        settings = Settings.model_validate({name.lower(): value for name, value in self.environment().items()})
        services = build(settings)
        try:
            for shop_id, organization_bin in SHOPS.items():
                fields = {"organization_bin": organization_bin, "device_token": device_token_of(shop_id)}
                await services.routing.create(FULL_ACCESS, shop_id, fields)
        finally:
            await services.close()

    # --- the stand-in

    def token_of_hash(self) -> dict[str, str]:
        """SHA-256 of every device token that was ever registered -> the token."""
        return {
            hashlib.sha256(token.encode()).hexdigest(): token for tokens in self._tokens.values() for token in tokens
        }

    def entries(self) -> list[dict[str, Any]]:
        """Every call that the stand-in took, oldest first; amounts in tiyn. Read from its own file."""
        with (self.folder / "ledger.jsonl").open("rb") as file:
            file.seek(self._ledger_read)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._ledger_read += len(whole) + 1
            lines = (json.loads(line) for line in whole.splitlines())
            self._entries.extend(line for line in lines if "op" in line)
        return self._entries

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
        except LOST:
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
        for process in self._processes:
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
