"""Where the time of one create goes: each step by the clock, statements by count, the processor's time by package.

In one process with the service, without a socket in front of it; the stand-in and PostgreSQL are real.
"""

import asyncio
import cProfile
import functools
import json
import pstats
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from statistics import median
from typing import Any

import uvloop
from sqlalchemy import event
from stage import make_key, stage

from payment_service.access.service import Access
from payment_service.api.middleware import Drain
from payment_service.observability import logs
from payment_service.payments.service import Payments
from payment_service.postgres.database import Database
from payment_service.programs import create_app
from payment_service.services import build
from payment_service.settings import Settings

PAYMENTS = 300
STEPS: list[tuple[type, str, str]] = [
    (Access, "caller_with", "who calls"),
    (Payments, "_route", "route"),
    (Payments, "_write_intent", "write the intent, commit"),
    (Payments, "_send", "call the stand-in"),
    (Payments, "_write_outcome", "write the outcome, commit"),
]
Ask = Callable[[int], Any]


@contextmanager
def timed() -> Any:
    """The seconds of each step, while in the block."""
    taken: dict[str, list[float]] = defaultdict(list)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in STEPS]

    def wrap(step: str, function: Any) -> Any:
        @functools.wraps(function)
        async def timing(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return await function(*args, **more)
            finally:
                taken[step].append(time.perf_counter() - began)

        return timing

    for owner, name, step in STEPS:
        setattr(owner, name, wrap(step, getattr(owner, name)))
    yield taken
    for owner, name, function in before:
        setattr(owner, name, function)


@contextmanager
def counted(database: Database) -> Any:
    """Statements and round trips to the database, while in the block."""
    seen: Counter[str] = Counter()
    engine = database.engine.sync_engine

    def statement(_c: Any, _cursor: Any, text: str, *_rest: Any) -> None:
        seen[" ".join(text.split())[:90]] += 1

    def commit(_connection: Any) -> None:
        seen["COMMIT"] += 1

    def rollback(_connection: Any) -> None:
        seen["ROLLBACK"] += 1

    ping = engine.dialect.do_ping

    def counting(connection: Any) -> bool:
        seen["ping of the pool"] += 1
        return ping(connection)

    engine.dialect.do_ping = counting  # type: ignore[method-assign,assignment]
    for name, listener in (("before_cursor_execute", statement), ("commit", commit), ("rollback", rollback)):
        event.listen(engine, name, listener)
    yield seen
    engine.dialect.do_ping = ping  # type: ignore[method-assign]
    for name, listener in (("before_cursor_execute", statement), ("commit", commit), ("rollback", rollback)):
        event.remove(engine, name, listener)


def asker(app: Any, key: str) -> Ask:
    """Asks the app for the n-th payment, as a server would."""

    async def ask(number: int) -> None:
        body = json.dumps({"shop_id": 121038, "amount": 100, "phone": "77000000100", "message": f"steps {number}"})
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": "/payments/kaspi/create", "raw_path": b"/payments/kaspi/create", "query_string": b"",
            "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "headers": [(b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json")],
        }  # fmt: skip
        answers: list[dict[str, Any]] = []
        asked = iter([{"type": "http.request", "body": body.encode(), "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(asked, {"type": "http.disconnect"})

        async def send(message: dict[str, Any]) -> None:
            answers.append(message)

        await app(scope, receive, send)
        if answers[0]["status"] != 200:
            raise RuntimeError(answers)

    return ask


async def measure(settings: Settings, key: str) -> None:
    services = build(settings)
    logs.configure(readable=False, level="WARNING")
    app = create_app(settings, services, Drain())
    listening = asyncio.create_task(services.routing.memory.listen(services.database))
    ask = asker(app, key)
    for number in range(50):
        await ask(number)

    with timed() as taken:
        for number in range(PAYMENTS):
            began = time.perf_counter()
            await ask(1000 + number)
            taken["all of it"].append(time.perf_counter() - began)
    whole = median(taken["all of it"])
    print(f"{'step':<30}{'median ms':>10}{'share':>8}")
    for step, seconds in taken.items():
        print(f"{step:<30}{1000 * median(seconds):10.2f}{median(seconds) / whole:8.0%}")

    with counted(services.database) as seen:
        for number in range(20):
            await ask(2000 + number)
    print(f"\nTo the database, for one payment: {sum(seen.values()) / 20:.0f} (queue and BEGIN not counted)")
    for text, times in seen.most_common():
        print(f"{times / 20:5.1f}  {text}")

    profile = cProfile.Profile()
    profile.enable()
    for number in range(PAYMENTS):
        await ask(3000 + number)
    profile.disable()
    show(profile)
    listening.cancel()
    await services.close()


def show(profile: cProfile.Profile) -> None:
    """The processor's time by package."""
    spent: Counter[str] = Counter()
    for (file, *_), (_calls, _all, own, _with, _callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        found = re.search(r"site-packages/([A-Za-z0-9_]+)|(payment_service)/", file)
        label = (found[1] or found[2]) if found else "python"
        spent[label] += own
    whole = sum(spent.values())
    print("\nOwn time by package, under the profiler")
    for package, seconds in spent.most_common(10):
        print(f"{package:<30}{1000 * seconds / PAYMENTS:10.2f}{seconds / whole:8.0%}")


def main() -> None:
    with stage() as here:
        settings = here.database("steps")
        key = make_key(settings)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(settings, key))


if __name__ == "__main__":
    main()
