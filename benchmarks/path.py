"""The path of a payment: the goals, each as a ratio to something that ran beside it in the same run."""

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from statistics import median
from typing import Any

import load
from books import MESSAGE, Answers, compare, compare_bare
from load import Ask, Refused, Round, WrongAnswer, percentile, request
from stage import Database, Program, Stage, Tree, cpu_s, stage


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

    def create(self, *, phone_ending: str = "10") -> Ask:
        """Asks for the next payment: a shop, an amount, a phone and a message of its own each time."""

        def ask() -> tuple[bytes, load.Check]:
            number = next(self.numbers)
            shop = self.shops[number % len(self.shops)]
            tiyn = 10_000 + 100 * (number % 900) + 50 * (number % 7 == 0)
            message = f"{MESSAGE}{number}"
            body = (
                f'{{"shop_id": {shop["shop_id"]}, "amount": {tiyn / 100}, "message": "{message}", '
                f'"phone": "7701{number % 100_000:05d}{phone_ending}"}}'
            )

            def check(status: int, answer: bytes) -> None:
                if status == 503:
                    raise Refused
                if status != 200:
                    raise WrongAnswer(f"status {status}")
                self.answers.note(json.loads(answer), tiyn, shop["organization_bin"], message)

            path = "/payments/kaspi/create"
            return request("POST", path, self.database.key, body.encode()), check

        return ask

    def read(self, path: str, *wanted: bytes) -> Ask:
        """Asks for the same again and again; every answer must hold these words."""
        data = request("GET", path, self.database.key)

        def check(status: int, answer: bytes) -> None:
            if status != 200 or not all(word in answer for word in wanted):
                raise WrongAnswer(f"status {status}")

        return lambda: (data, check)

    def compare_books(self) -> None:
        """Say that the books agree, or end the run."""
        ledger = self.upstream.get("/_ledger")
        if self.name == "bare":
            print("  " + asyncio.run(compare_bare(self.answers, ledger, self.database.url)))
        else:
            print("  " + asyncio.run(compare(self.name, self.answers, ledger, self.database.url)))


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
    against: list[Tree]
    plant: str
    results: list[dict[str, Any]] = field(default_factory=list)

    def goal(self, text: str, goal: str, got: str, met: bool | None) -> None:
        """A line of the table at the end."""
        self.results.append({"text": text, "goal": goal, "got": got, "met": met})

    def target(self, tree: Tree, *, processes: int = 1, database: Database | None = None, **settings: object) -> Target:
        """A tree's service, over a database and an upstream of its own."""
        database, upstream = database or self.stage.database(tree), self.stage.upstream(self.plant)
        programs = [self.stage.serve(database, upstream, **settings) for _ in range(processes)]
        return Target(tree.name, programs, database, upstream, self.stage.shops)

    def bare(self) -> Target:
        """The bare program."""
        upstream, database = self.stage.upstream(self.plant), self.stage.database(self.stage.here())
        return Target("bare", [self.stage.bare(database.url, upstream, database.key)], database, upstream, self.stage.shops)

    def interleave(
        self, targets: dict[str, Target], ask: Callable[[Target], Ask], *, rounds: int, **how: Any
    ) -> dict[str, Sample]:
        """Run the targets by turns, A B C A B C."""
        samples = {name: Sample() for name in targets}
        for _ in range(rounds):
            for name, target in targets.items():
                pids = [program.pid for program in target.programs]
                own, postgres = sum(map(cpu_s, pids)), self.stage.postgres_cpu_s()
                samples[name].rounds.append(load.run(target.ports, ask(target), **how))
                samples[name].cpu_s += sum(map(cpu_s, pids)) - own
                samples[name].postgres_cpu_s += self.stage.postgres_cpu_s() - postgres
        return samples


def create(bench: Bench) -> None:
    targets = {tree.name: bench.target(tree) for tree in (bench.stage.here(), *bench.against)} | {"bare": bench.bare()}
    for target in targets.values():
        load.run(target.ports, target.create(), clients=4, seconds=1.5)
    print(HEADING)
    for clients, rounds, seconds in ((16, 5, 3.0), (1, 3, 2.5)):
        how = {"rounds": 2 if bench.quick else rounds, "seconds": seconds, "clients": clients}
        samples = bench.interleave(targets, Target.create, **how)
        for name, sample in samples.items():
            print(sample.line(f"{name}, {clients} clients"))
    for target in targets.values():
        target.compare_books()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--no-pin", action="store_true")
    parser.add_argument("--plant", default="")
    given = parser.parse_args()
    with stage(pinned=not given.no_pin) as made:
        bench = Bench(made, given.quick, [made.commit("5c1105b")], given.plant)
        print(os.getloadavg())
        create(bench)


if __name__ == "__main__":
    main()
