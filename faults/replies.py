"""The family of the replies: whatever the proxy answers, to the real client and through the whole service.

What is made of a reply is held against ``reply_oracle``, a second reading of docs/kaspi-api.md. The stand-in has no
part in it: a proxy that says odd things takes its place, so that nothing is applied and the ledger stays empty.
"""

from typing import Final

from faults.bench import Bench
from faults.reply_client import Tried, asked_for, by_chance, by_hand, try_client
from faults.reply_maker import ReplyMaker
from faults.reply_oracle import Operation
from faults.reply_service import all_by_hand, some_by_chance, try_service

CASES: Final = ("by hand", "by chance", "through the service")
BY_CHANCE: Final = 20_000
"""Replies made by chance for each operation."""
THROUGH_THE_SERVICE: Final = 200


async def run(bench: Bench) -> None:
    """Try all of them; ``--short`` tries a fiftieth of those made by chance."""
    share = 50 if bench.short else 1
    for case in bench.cases(CASES):
        if case == "through the service":
            few = some_by_chance(ReplyMaker(bench.random), THROUGH_THE_SERVICE // share)
            replies = [*all_by_hand(), *few]
            tried = await try_service(await bench.new_database("odd_replies"), iter(replies))
            _count(bench, case, "all", tried)
            continue
        for operation in Operation:
            asked = asked_for(operation)
            chance = bench.random_of(f"{case} {operation}")
            replies_of = by_hand(asked) if case == "by hand" else by_chance(asked, BY_CHANCE // share, chance)
            _count(bench, case, operation, await try_client(asked, replies_of))


def _count(bench: Bench, case: str, verb: str, tried: Tried) -> None:
    bench.tell(tried.violations, case)
    unknown = tried.verdicts["unknown"] + tried.verdicts["nothing"]
    bench.count(case, verb, tried.runs, [], tried.violations, unknown, tried.slowest_s)
