"""The simulation of ``valentine.py`` beside one real service: the same minute of arrivals, the same provider."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from typing import TypeAlias

import httpx
from stage import Program, Stage, shops, stage
from valentine import Simulation, World

from payment_service.providers.kaspi.settings import KaspiSettings

Arrivals: TypeAlias = list[tuple[float, int]]
"""When each is, in seconds, and for which seller."""
Told: TypeAlias = list[tuple[float, str]]
"""When each was asked for, and what was told."""

PHASES = ((0, 0.2), (15, 3.0), (35, 9.0), (50, 0.2))
"""From that second on, how long the provider takes, in seconds: 9 is longer than the service waits."""
LASTS_S, PER_S, MAX_CALLS, BIN_S = 70, 8, 20, 5


def latency(now: float) -> float:
    """What the provider takes at a second of the run."""
    return next(seconds for since, seconds in reversed(PHASES) if now >= since)


def arrivals(seed: int, sellers: int) -> Arrivals:
    """Independent of each other, and of how the service fares."""
    chance, now, made = random.Random(seed), 0.0, []
    while (now := now + chance.expovariate(PER_S)) < LASTS_S:
        made.append((now, chance.randrange(sellers)))
    return made


async def _really(made: Stage, service: Program, upstream: Program, key: str, when: Arrivals) -> Told:
    headers = {"Authorization": f"Bearer {key}"}
    told: Told = []
    limits = httpx.Limits(max_connections=500)
    async with httpx.AsyncClient(trust_env=False, timeout=30, limits=limits) as http:

        async def ask(moment: float, seller: int, number: int) -> None:
            body = {
                "shop_id": int(made.shops[seller]["shop_id"]),
                "amount": 100 + number,
                "phone": f"7701{number:07d}",
                "message": f"valentine {number}",
            }
            answer = await http.post(f"{service.url}/payments/kaspi/create", json=body, headers=headers)
            told.append((moment, {200: "made", 202: "unknown"}.get(answer.status_code, str(answer.status_code))))

        begun, asking, phases = time.perf_counter(), [], list(PHASES)
        for number, (moment, seller) in enumerate(when):
            while phases and moment >= phases[0][0]:
                await http.get(f"{upstream.url}/_delay?s={phases.pop(0)[1]}")
            await asyncio.sleep(max(0, begun + moment - time.perf_counter()))
            asking.append(asyncio.create_task(ask(moment, seller, number)))
        await asyncio.gather(*asking)
    return told


def _by_bin(told: Told) -> dict[int, Counter[str]]:
    bins: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for moment, what in told:
        bins[int(moment // BIN_S) * BIN_S][what if what in {"made", "unknown"} else "503"] += 1
    return bins


def _foretold(when: Arrivals, seed: int, sellers: int) -> Told:
    settings = KaspiSettings(url="", access_token="", max_calls=MAX_CALLS)
    simulation = Simulation(World(sellers=sellers, settings=settings, spread=0), latency, seed)
    simulation.run(iter(when))
    return simulation.told


def check(seed: int, sellers: int) -> None:
    """Run both and print what was told in every five seconds."""
    when = arrivals(seed, sellers)
    with stage() as made:
        made.shops = [shop | {"device_token": ""} for shop in shops(sellers)]  # invoices to phones need none
        began = time.monotonic()
        database, upstream = made.database(made.tree()), made.upstream()
        print(f"{sellers:,} sellers and their routes in {time.monotonic() - began:.0f} s")
        service = made.serve(database, upstream, kaspi_max_calls=MAX_CALLS)
        told = asyncio.run(_really(made, service, upstream, database.key, when))
    real, foretold = _by_bin(told), _by_bin(_foretold(when, seed, sellers))
    kinds = ("made", "unknown", "503")
    print("second  provider s " + "".join(f"{kind + ': really, foretold':>28}" for kind in kinds))
    for since in sorted(real):
        figures = "".join(f"{real[since][kind]:>20}{foretold[since][kind]:>8}" for kind in kinds)
        print(f"{since:>6}{latency(since):>12} {figures}")
    total, other = (sum(bins.values(), Counter()) for bins in (real, foretold))
    print("all                " + "".join(f"{total[kind]:>20}{other[kind]:>8}" for kind in kinds))
