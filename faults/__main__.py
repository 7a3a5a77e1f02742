"""``python -m faults``: break the service in every way we know, and compare the three records.

Exit code 0: no violation. A seed that is printed replays the same chance; ``--case`` runs one case alone.
"""

import argparse
import asyncio
import importlib
import importlib.util
import random
import signal
import sys
import time
from pathlib import Path

from faults import report
from faults.bench import Bench

FAMILIES = (
    *("crash", "kills", "rolling", "wire", "database", "races", "replies", "away", "slow", "largest", "sellers"),
    "stuck",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], help=f"of {', '.join(FAMILIES)}; all of them")
    parser.add_argument("--short", action="store_true", help="the slice that 'make test' runs")
    parser.add_argument("--seed", type=int, help="replay the chance of an earlier run")
    parser.add_argument("--runs", type=int, help="runs of each case and verb (20, short: 1)")
    parser.add_argument("--case", help="this case alone")
    parser.add_argument("--report", type=Path, default=Path(".data/faults"), help="folder for the report (%(default)s)")
    parser.add_argument("--paste", type=Path, help="put the table into this document too")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if options.seed is None else options.seed
    runs = options.runs or (1 if options.short else 20)
    families = options.families or [name for name in FAMILIES if importlib.util.find_spec(f"faults.{name}")]
    sys.stderr.write(f"seed {seed}\n")

    started = time.monotonic()
    rows: list[report.Row] = []
    violations: list[str] = []
    try:
        for family in families:
            bench = Bench(family, seed, runs, options.short, options.case)
            try:
                asyncio.run(_family(bench))
            finally:
                rows += bench.rows
                violations += bench.violations
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    finally:
        report.write(options.report, rows, seed=seed, seconds=time.monotonic() - started)
    if options.paste:
        report.paste(options.paste, rows)
    sys.stdout.write(report.table(rows))
    sys.stdout.write(f"\nseed {seed}, {time.monotonic() - started:.0f} s, {len(violations)} violations\n")
    return 1 if violations else 0


async def _family(bench: Bench) -> None:
    module = importlib.import_module(f"faults.{bench.family}")
    bench.settings = dict(getattr(module, "SETTINGS", {}))
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with bench:
        await module.run(bench)


if __name__ == "__main__":
    sys.exit(main())
