"""``python -m fuzz``: at least so many made-up requests, by several processes, and what came of them.

Exit code 0: nothing failed. The seed is printed; with the same seed and the same code it begins with the same requests.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg

from fuzz.attack import SPARE_SHOPS, without_details
from fuzz.ledger import strays
from tests.support.database import Server, start_postgres
from tests.support.processes import Process
from tests.support.rig import PATIENT, Rig
from tests.support.shops import SHOPS

CASES: Final = 20_000
_ROOT: Final = Path(__file__).parents[1]
_PROCESSES: Final = 3
_SERVICES: Final = 2
_SETTINGS: Final = {"DOCS_ENABLED": "1", "METRICS_PUBLIC": "1", "LOG_LEVEL": "WARNING", **PATIENT}
_PAID_OF_EACH: Final = 5
"""Payments of each shop that requests may be about."""
_OPERATIONS: Final = ("create", "create-link", "refund", "status")


@dataclass(slots=True)
class Outcome:
    """What came of all requests."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    sent: int = 0
    slowest_s: float = 0
    ledger: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


async def fuzz(folder: Path, database_url: str, *, seed: int, cases: int) -> Outcome:
    """Start everything, send the requests, and hold the ledger against the answers."""
    outcome = Outcome()
    async with Rig(folder, database_url) as rig:
        rig.services = [await rig.serve(**_SETTINGS) for _ in range(_SERVICES)]
        rig.clients = [rig.client(service) for service in rig.services]
        await _prepare(rig)
        before = len(await rig.ledger())
        attackers = [
            rig.start("fuzz.attack", *words, name=f"attack{number}", PYTHONPATH=str(_ROOT))
            for number, words in enumerate(_shares(rig, folder, seed, cases))
        ]
        await asyncio.gather(*(_end_of(attacker) for attacker in attackers))
        ledger = (await rig.ledger())[before:]
        connection = await asyncpg.connect(database_url)
        outcome.failures += await strays(connection, ledger, _answers(folder))
        await connection.close()
        outcome.ledger.update(entry["op"] for entry in ledger)
    _add_results(outcome, folder)
    return outcome


async def _prepare(rig: Rig) -> None:
    """Routing for the seven shops and some spare ones, paid payments, and a stand-in that does what it is asked to."""
    await rig.route_all()
    for shop_id in SPARE_SHOPS:
        body = {"shop_id": shop_id, "organization_bin": "891027350515"}
        (await rig.api.post("/admin/configs", json=body)).raise_for_status()
    paid = [await rig.paid(shop_id, amount=100_000) for shop_id in SHOPS for _ in range(_PAID_OF_EACH)]
    (rig.folder / "payments.json").write_text(json.dumps(paid), encoding="utf-8")
    for operation in _OPERATIONS:
        await rig.queue(operation, "normal", times=100_000)  # whatever phone and amount say


async def _end_of(attacker: Process) -> None:
    code = await attacker.ended(within_s=3600)
    assert code == 0, attacker.written[-4000:]


def _shares(rig: Rig, folder: Path, seed: int, cases: int) -> list[list[str]]:
    processes = _PROCESSES if cases >= 1000 else 1
    share = -(-cases // processes)
    return [
        [
            *("--url", rig.services[number % len(rig.services)].url, "--key", rig.key, "--folder", str(folder)),
            *("--seed", str(seed + 1000 * number), "--cases", str(share), "--number", str(number)),
        ]
        for number in range(processes)
    ]


def _answers(folder: Path) -> list[dict[str, Any]]:
    """What every request was answered."""
    return [json.loads(line) for book in folder.glob("book*.jsonl") for line in book.read_text("utf-8").splitlines()]


def _add_results(outcome: Outcome, folder: Path) -> None:
    for path in sorted(folder.glob("result*.json")):
        result = json.loads(path.read_text("utf-8"))
        outcome.sent += result["sent"]
        outcome.slowest_s = max(outcome.slowest_s, result["slowest_s"])
        outcome.failures += [one for one in result["failures"] if _new(one, outcome)]
        for operation, counts in result["counts"].items():
            outcome.counts.setdefault(operation, Counter()).update(counts)


def _new(failure: str, outcome: Outcome) -> bool:
    return without_details(failure) not in map(without_details, outcome.failures)


def table(outcome: Outcome) -> str:
    """Operations by status code, as Markdown."""
    codes = sorted({code for counts in outcome.counts.values() for code in counts})
    rows: list[Sequence[str]] = [("Operation", "Requests", *codes), ("---", *["---:"] * (len(codes) + 1))]
    for operation, counts in sorted(outcome.counts.items(), key=lambda item: item[0].split(" ")[::-1]):
        rows.append((operation, str(counts.total()), *(str(counts[code] or "") for code in codes)))
    sums = (sum(counts[code] for counts in outcome.counts.values()) for code in codes)
    rows.append(("**all**", str(outcome.sent), *(str(one) for one in sums)))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="at least so many requests (%(default)s)")
    parser.add_argument("--seed", type=int, help="begin with the requests of an earlier run")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    sys.stderr.write(f"seed {seed}\n")
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="payment-service-fuzz-"))
    with start_postgres(folder / "postgres") as postgres:
        url = asyncio.run(Server(postgres.url()).make("fuzz"))
        work = folder / "rig"
        work.mkdir()
        outcome = asyncio.run(fuzz(work, url, seed=seed, cases=options.cases))
        postgres.remove()
    if not outcome.failures:
        shutil.rmtree(folder)
    seconds = time.monotonic() - started
    sys.stdout.write(table(outcome) + "\n\n")
    if outcome.failures:
        sys.stdout.write(f"What the programs wrote is in {work}\n\n")
    for failure in outcome.failures:
        sys.stdout.write(f"FAILED {failure}\n\n")
    calls = ", ".join(f"{count} {operation}" for operation, count in sorted(outcome.ledger.items()))
    sys.stdout.write(
        f"{outcome.sent} requests in {seconds:.0f} s, slowest answer {outcome.slowest_s:.2f} s, seed {seed}; "
        f"calls to the stand-in: {calls or 'none'}; {len(outcome.failures)} failures\n"
    )
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
