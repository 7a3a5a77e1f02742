"""``python -m model``: explore the protocol to its end, and show that every planted mistake is found.

Exit code 0: no promise is broken by the service's decisions, and one by each mutation.
"""

import argparse
import sys
from collections.abc import Sequence

from model import spin
from model.explore import explore
from model.mutations import HARMLESS, LAW, MORE, MUTATIONS, NO_WINDOW, PAIRS, SERVICE, SHORT_WINDOW, SLICE
from model.reading import MISTAKES, explore_readings, service
from model.world import PAYMENTS, Ask


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m model", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the slice that 'make test' runs")
    parser.add_argument("--traces", action="store_true", help="print the steps that lead to each planted mistake")
    options = parser.parse_args()

    found_in_service = explore_service(short=options.short)
    found_in_service += explore_what_is_read()
    missed = explore_mutations(traces=options.traces) + explore_mistakes_in_reading(traces=options.traces)
    if spin.missing():
        say("payment.pml was left out: it needs spin and a C compiler")
    else:
        found_in_service += explore_promela(short=options.short)
    say(f"{found_in_service} promises broken, {missed} planted mistakes missed")
    return 1 if found_in_service or missed else 0


def explore_service(*, short: bool) -> int:
    """Everything that can come of the service's own decisions; returns how many promises are broken."""
    asked = [("", SERVICE, verb, asks) for verb, asks in (SLICE if short else (*PAIRS, *MORE))]
    asked += [("no window: ", NO_WINDOW, verb, asks) for verb, asks in SLICE]
    asked += [("a short window: ", SHORT_WINDOW, verb, asks) for verb, asks in SLICE]
    asked += [("a law that nobody foresaw: ", LAW, verb, asks) for verb, asks in SLICE]
    asked += [(f"{name}: ", decisions, PAYMENTS, asks) for name, (decisions, asks) in HARMLESS.items()]
    states = broken = 0
    seconds = 0.0
    for words, decisions, verb, asks in asked:
        explored = explore(verb, decisions, asks, apart=True)
        say(f"{words}{said(asks)}: {explored.states} states, {explored.depth} steps deep, {explored.seconds:.1f} s")
        states, seconds = states + explored.states, seconds + explored.seconds
        if explored.wrong:
            broken += 1
            tell(explore(verb, decisions, asks).trace)
    say(f"{len(asked)} questions, {states} states, {seconds:.0f} s")
    return broken


def explore_what_is_read() -> int:
    """Everything that can be read of one payment; returns how many promises are broken."""
    explored = explore_readings(service)
    say(f"readings: {explored.states} states, {explored.depth} steps deep: {explored.wrong}")
    tell(explored.trace)
    return 1 if explored.wrong else 0


def explore_mistakes_in_reading(*, traces: bool) -> int:
    """Each planted mistake; returns how many are not found."""
    missed = 0
    for name, (decide, breaks) in MISTAKES.items():
        explored = explore_readings(decide)
        if explored.wrong is None or breaks not in explored.wrong:
            missed += 1
        say(f"{name}: {explored.wrong} ({len(explored.trace) - 1} steps, {explored.states} states)")
        if traces:
            tell(explored.trace)
    return missed


def explore_mutations(*, traces: bool) -> int:
    """Each planted mistake; returns how many are not found."""
    missed = 0
    for name, mutation in MUTATIONS.items():
        explored = explore(mutation.verb, mutation.decisions, mutation.asks)
        if explored.wrong is None or mutation.breaks not in explored.wrong:
            missed += 1
            say(f"NOT FOUND: {name}: {explored.wrong}")
            continue
        say(f"found: {name}: {explored.wrong} ({len(explored.trace) - 1} steps, {explored.states} states)")
        if traces:
            tell(explored.trace)
    return missed


def explore_promela(*, short: bool) -> int:
    """The second model; returns how many of its explorations do not end as they should."""
    wrong = 0
    for defines in ({"KEYED": 1},) if short else (*spin.RULES, *spin.THREE_ASKS):
        found = spin.explore(defines)
        say(f"spin {defines}: {found.states} states, {found.depth} deep, {found.seconds:.1f} s, {found.violated}")
        wrong += found.violated is not None
    for bug in spin.BUGS:
        found = spin.explore({bug: 1}, optimise=0)
        say(f"spin {bug}: {found.violated} after {found.states} states, {found.depth} deep")
        wrong += found.violated is None
    return wrong


def said(asks: tuple[Ask, ...]) -> str:
    """The asks in words."""
    return ", ".join(f"{ask.words}{f' key {ask.key}' if ask.key else ''}{' order' * ask.order}" for ask in asks)


def tell(trace: Sequence[str]) -> None:
    """The way to a broken promise."""
    for number, step in enumerate(trace, 1):
        say(f"    {number:2} {step}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
