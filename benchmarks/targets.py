"""What is compared, what it did, and the goals: the parts that ``path.py`` is made of."""

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from statistics import median
from typing import Any

import load
from books import MESSAGE, Answers, compare, compare_bare
from load import Ask, Refused, Round, WrongAnswer, percentile, request
from stage import Database, Program, Stage, Tree, cpu_s


@dataclass
class Target:
    """One of those that are compared: its processes, its database, its upstream, and what its clients were told."""

    name: str
    programs: list[Program]
    database: Database
    upstream: Program
    shops: list[dict[str, str]]
    answers: Answers = field(default_factory=Answers)
    numbers: "count[int]" = field(default_factory=count)

    @property
    def ports(self) -> list[int]:
        """Where it listens."""
        return [program.port for program in self.programs]

    @property
    def pids(self) -> list[int]:
        """Its processes."""
        return [program.pid for program in self.programs]

    def create(self, *, phone_ending: str = "10", keyed: bool = False, may_be_unknown: bool = False) -> Ask:
        """Asks for the next payment: a shop, an amount, a phone and a message of its own each time.

        ``keyed`` sends an order and an Idempotency-Key with each. ``may_be_unknown`` is for an upstream that hangs for
        nearly as long as the service's deadline.
        """

        def ask() -> tuple[bytes, load.Check]:
            number = next(self.numbers)
            shop = self.shops[number % len(self.shops)]
            tiyn = 10_000 + 100 * (number % 900) + 50 * (number % 7 == 0)
            message = f"{MESSAGE}{number}"
            order = f', "order_id": "order-{number}"' if keyed else ""
            body = (
                f'{{"shop_id": {shop["shop_id"]}, "amount": {tiyn / 100}, "message": "{message}", '
                f'"phone": "7701{number % 100_000:05d}{phone_ending}"{order}}}'
            )

            def check(status: int, answer: bytes) -> None:
                if status == 503 or (status == 202 and may_be_unknown):
                    raise Refused
                if status != 200:
                    raise WrongAnswer(f"status {status}")
                self.answers.note(json.loads(answer), tiyn, shop["organization_bin"], message)

            more = {"Idempotency-Key": f"benchmark-{number}"} if keyed else {}
            return request("POST", "/payments/kaspi/create", self.database.key, body.encode(), more), check

        return ask

    def one(self, *, phone_ending: str = "10") -> tuple[str, str]:
        """Make one payment; our id and the provider's."""
        load.run(self.ports, self.create(phone_ending=phone_ending), clients=1, requests=1)
        external_id, line = next(reversed(self.answers.lines.items()))
        return line[0], external_id

    def one_paid(self) -> tuple[str, str]:
        """Make one payment that is paid, and known to be."""
        payment_id, external_id = self.one(phone_ending="99")
        path = f"/payments/kaspi/status/{external_id}"
        load.run(self.ports, self.read(path, b'"state":"paid"'), clients=1, requests=1)
        return payment_id, external_id

    def read(self, path: str, *wanted: bytes) -> Ask:
        """Asks for the same again and again; every answer must hold these words."""
        data = request("GET", path, self.database.key)

        def check(status: int, answer: bytes) -> None:
            if status != 200 or not all(word in answer for word in wanted):
                raise WrongAnswer(f"status {status}")

        return lambda: (data, check)

    def delay(self, seconds: float) -> None:
        """From now on the upstream takes so long."""
        self.upstream.get(f"/_delay?s={seconds}")

    def compare_books(self) -> None:
        """Say that the books agree.

        Raises:
            BooksDisagree: when they do not.
        """
        ledger = self.upstream.get("/_ledger")
        comparing = (
            compare_bare(self.answers, ledger, self.database.url)
            if self.name == "bare"
            else compare(self.name, self.answers, ledger, self.database.url)
        )
        print("  " + asyncio.run(comparing))

    def stop(self) -> None:
        """End its processes."""
        for program in (*self.programs, self.upstream):
            program.stop()


@dataclass
class Sample:
    """What a target did over all rounds of one question."""

    rounds: list[Round] = field(default_factory=list)
    cpu_s: float = 0
    """Of the target's own processes."""
    postgres_cpu_s: float = 0

    @property
    def seconds(self) -> list[float]:
        """Of every answer."""
        return [each for made in self.rounds for each in made.seconds]

    @property
    def rate(self) -> float:
        """Answers per second, the median of the rounds."""
        return median(made.rate for made in self.rounds)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of the target's processor for one answer."""
        return 1000 * self.cpu_s / max(1, len(self.seconds))

    @property
    def postgres_ms(self) -> float:
        """Milliseconds of PostgreSQL's processor for one answer."""
        return 1000 * self.postgres_cpu_s / max(1, len(self.seconds))

    @property
    def refused(self) -> int:
        """How many were answered with a 503: nothing was done."""
        return sum(made.refused for made in self.rounds)

    def p(self, percent: float) -> float:
        """Milliseconds."""
        return percentile(self.seconds, percent)

    def line(self, name: str) -> str:
        """One line of a table."""
        return (
            f"  {name:<38}{self.rate:9.1f}{self.p(50):9.1f}{self.p(99):9.1f}"
            f"{self.cpu_ms:9.2f}{self.postgres_ms:9.2f}{self.refused or '':>7}"
        )


HEADING = f"  {'':<38}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'cpu ms':>9}{'pg ms':>9}{'503':>7}"


@dataclass
class Bench:
    """One run."""

    stage: Stage
    quick: bool
    measured: str
    """A commit; nothing for the working tree."""
    compared: str
    """A commit."""
    plant: str
    goals: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def tree(self) -> Tree:
        """The code that is measured."""
        return self.stage.commit(self.measured) if self.measured else self.stage.tree()

    @cached_property
    def against(self) -> Tree:
        """The code of that commit, checked out when it is needed."""
        return self.stage.commit(self.compared)

    def goal(self, text: str, wanted: float, got: float, unit: str = "x", *, at_most: bool = False) -> None:
        """A line of the table at the end: a figure and what it is to be."""
        met = got <= wanted if at_most else got >= wanted
        self.goals.append({"text": text, "wanted": wanted, "at_most": at_most, "got": got, "unit": unit, "met": met})

    def settings(self, **settings: object) -> dict[str, object]:
        """Settings with which no payment is asked about by the worker unless these say so."""
        pauses = dict.fromkeys(("follow_first_s", "follow_fast_s", "follow_slow_s"), 36000)
        return {**pauses, "follow_for_s": 86400, **settings}

    def target(self, tree: Tree, *, processes: int = 1, **settings: object) -> Target:
        """A tree's service, over a database and an upstream of its own."""
        database, upstream = self.stage.database(tree), self.stage.upstream(self.plant)
        programs = [self.stage.serve(database, upstream, **settings) for _ in range(processes)]
        return Target(tree.name, programs, database, upstream, self.stage.shops)

    def bare(self) -> Target:
        """The bare program."""
        upstream, database = self.stage.upstream(self.plant), self.stage.database(self.tree)
        program = self.stage.bare(database.url, upstream, database.key)
        return Target("bare", [program], database, upstream, self.stage.shops)

    @cached_property
    def three(self) -> dict[str, Target]:
        """And the bare program, all warm: started once, for all parts that compare these."""
        services = {tree.name: self.target(tree) for tree in (self.tree, self.against)}
        targets = {**services, "bare": self.bare()}
        for target in targets.values():
            load.run(target.ports, target.create(), clients=4, seconds=1.5)
        return targets

    def interleave(
        self, targets: Collection[Target], ask: Callable[[Target], Ask], *, rounds: int, label: str, **how: Any
    ) -> dict[str, Sample]:
        """Run the targets by turns, A B C C B A, so that drift hits them alike, and print what came of it."""
        samples = {target.name: Sample() for target in targets}
        for turn in range(min(rounds, 2) if self.quick else rounds):
            for target in list(targets)[:: -1 if turn % 2 else 1]:
                sample = samples[target.name]
                own, postgres = sum(map(cpu_s, target.pids)), self.stage.postgres_cpu_s()
                sample.rounds.append(load.run(target.ports, ask(target), **how))
                sample.cpu_s += sum(map(cpu_s, target.pids)) - own
                sample.postgres_cpu_s += self.stage.postgres_cpu_s() - postgres
        for name, sample in samples.items():
            print(sample.line(f"{label}, {name}"))
            self.figures[f"{label}, {name}"] = {
                "per_s": sample.rate,
                "p50_ms": sample.p(50),
                "p99_ms": sample.p(99),
                "cpu_ms": sample.cpu_ms,
                "postgres_ms": sample.postgres_ms,
                "answers": len(sample.seconds),
                "refused": sample.refused,
            }
        return samples
