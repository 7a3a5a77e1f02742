"""What a family of faults works at: a rig, chance that can be replayed, the checker, and the rows of the report.

A family is a module with ``CASES`` (names) and ``run(bench)``::

    async def run(bench: Bench) -> None:
        for case in bench.cases(CASES):              # --case leaves out the others; bench.random begins anew
            told = ...                               # drive and break bench.rig
            found = await bench.check(told, may_be_unknown=True)
            bench.count(case, "create", bench.runs, told, found, unknown, slowest_s)
"""

import asyncio
import contextlib
import itertools
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from faults import checker
from faults.books import Records, gather
from faults.clients import Clients, Told
from faults.report import Row
from faults.rig import Rig
from tests.support.database import Server, start_postgres


@dataclass
class Bench:
    """One family at work."""

    family: str
    seed: int
    runs: int = 20
    """Runs of each case and verb."""
    short: bool = False
    """The slice for ``make test``."""
    only: str | None = None
    """The one case to run."""
    settings: dict[str, str] = field(default_factory=dict)
    """For the processes of the first rig, beyond the rig's own."""
    server: Server | None = None
    """Where its databases are made. None: a PostgreSQL of its own, which a family may stop or starve."""

    rows: list[Row] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    books: Records = field(default_factory=Records)
    """The books of the last check."""
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _rigs: list[Rig] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def __aenter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="payment-service-faults-"))
        self._stack.callback(self._tidy)
        if self.server is None:
            self.postgres = await asyncio.to_thread(start_postgres, self.folder / "postgres", max_connections=500)
            self._stack.callback(self.postgres.remove)
            self.server = Server(self.postgres.url())
        try:
            self.rig = await self._stack.enter_async_context(await self._next_rig(self.settings))
        except BaseException:
            await self._stack.aclose()
            raise
        self.random = self.random_of("")
        self.clients = Clients(self.rig, self.random)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for rig in self._rigs:
                    await self.check_all(rig)
        finally:
            await self._stack.aclose()

    def _tidy(self) -> None:
        """Leave nothing behind, but the logs and the ledger when something was wrong."""
        if self.violations:
            sys.stderr.write(f"logs and ledger: {self.folder}\n")
        else:
            shutil.rmtree(self.folder)

    async def new_database(self, name: str) -> str:
        """A database with the schema; returns its URL."""
        assert self.server is not None
        return await self.server.make(name)

    async def new_rig(
        self, name: str, settings: Mapping[str, str] | None = None, *, services: int = 2, workers: int = 2
    ) -> Rig:
        """A rig over a database of its own; the caller enters it, and has it checked."""
        folder = self.folder / name
        folder.mkdir()
        return Rig(
            folder,
            await self.new_database(f"faults_{name}"),
            settings or {},
            number_of_services=services,
            number_of_workers=workers,
        )

    async def _next_rig(self, settings: Mapping[str, str], services: int = 2, workers: int = 2) -> Rig:
        rig = await self.new_rig(f"rig{next(self._numbers)}", settings, services=services, workers=workers)
        self._rigs.append(rig)
        return rig

    # --- cases

    def random_of(self, case: str) -> random.Random:
        """Chance for one case: the same again for the same seed, family and case."""
        return random.Random(f"{self.seed} {self.family} {case}")

    def cases(self, names: Sequence[str]) -> Iterator[str]:
        """The cases to run, one after the other, each with chance of its own."""
        for name in self.chosen(names):
            self.random = self.clients.random = self.random_of(name)
            yield name

    def chosen(self, names: Sequence[str]) -> list[str]:
        """The cases to run."""
        return [name for name in names if self.only in {None, name}]

    @contextlib.asynccontextmanager
    async def another_rig(
        self, settings: dict[str, str] | None = None, *, services: int = 2, workers: int = 2
    ) -> AsyncIterator[Rig]:
        """One more rig, beside the first one, on the same PostgreSQL; checked as a whole when the block ends."""
        async with await self._next_rig(settings or {}, services, workers) as rig:
            yield rig
            await self.check_all(rig)
            self._rigs.remove(rig)

    # --- checking

    async def check(
        self,
        told: Sequence[Told],
        *,
        may_be_unknown: bool,
        rig: Rig | None = None,
        case: str = "",
        unharmed: frozenset[int] = frozenset(),
    ) -> list[str]:
        """Let things settle, gather the three records of what happened since the last check, and compare them."""
        rig = rig or self.rig
        found: list[str] = []
        try:
            await rig.settle()
        except TimeoutError as error:
            found.append(f"settles: {error}")
        self.books = await gather(rig, told, unharmed=unharmed)
        found += checker.violations(self.books, may_be_unknown=may_be_unknown)
        self.tell(found, case)
        return found

    async def check_all(self, rig: Rig) -> list[str]:
        """Compare everything that ever happened in a rig, without what clients were told, and verify the seals."""
        with contextlib.suppress(TimeoutError):
            await rig.settle()
        found = checker.violations(await gather(rig, (), everything=True), may_be_unknown=True)
        verified = await asyncio.to_thread(rig.run, "audit", "verify")
        if verified.returncode != 0:
            found.append(f"seals_are_valid: {(verified.stdout + verified.stderr)[-500:]}")
        self.tell(found, "")
        return found

    def tell(self, found: Sequence[str], case: str) -> None:
        """Write violations down, with what replays them."""
        self.violations += found
        again = f"python -m faults {self.family} --seed {self.seed}" + (f" --case '{case}'" if case else "")
        for violation in found:
            sys.stderr.write(f"VIOLATION {violation}\n  again: {again}\n")

    def count(
        self,
        case: str,
        verb: str,
        runs: int,
        told: Sequence[Told],
        violations: Sequence[str],
        unknown: int,
        slowest_s: float,
        *,
        rig: Rig | None = None,
    ) -> None:
        """Add a row to the report. ``unknown`` is how many payments or refunds were left so."""
        words = {one.asked.word for one in told if one.asked.op != "refund"} - {None}
        paid_back = {(one.asked.external_id, one.asked.amount) for one in told if one.asked.op == "refund"}
        applied = sum(
            (entry["external_id"], entry["amount"]) in paid_back or (entry["external_id"], None) in paid_back
            if entry["op"] == "refund"
            else (entry["message"] or "").rpartition(" #")[0] in words
            for entry in (rig or self.rig).entries()
            if entry["applied"]
        )
        row = Row(
            family=self.family,
            case=case,
            verb=verb,
            runs=runs,
            applied=applied,
            unknown=unknown,
            violations=len(violations),
            slowest_s=slowest_s,
        )
        self.rows.append(row)
        sys.stderr.write("  ".join(row.cells()) + "\n")
