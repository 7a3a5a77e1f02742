"""The health page: the state of this process, the provider and the database."""

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from prometheus_client import REGISTRY
from starlette.responses import Response

from payment_service import __version__
from payment_service.console.payment_status import Tone
from payment_service.console.web import PageContext
from payment_service.idempotency.holding import HOLD_TEXTS
from payment_service.languages import mark
from payment_service.observability.metrics import ALARMS, CIRCUIT_OPEN, PROVIDER_SECONDS, SHOPS_PAUSED, values_of
from payment_service.postgres import schema
from payment_service.postgres.health import SKEW_S, SLOW_S, DatabaseHealth, database_health
from payment_service.scheduling.lateness import LATENESS_LIMITS, Lateness
from payment_service.scheduling.ticks import WorkerStatus, workers

_QUEUES: Final[Mapping[str, str]] = {
    "readings": mark("Status readings that are due"),
    "events": mark("Events to be passed on"),
    "deliveries": mark("Deliveries to sites"),
    "messages": mark("Messages to people"),
}
_TONES: Final[Mapping[Lateness, Tone]] = {
    Lateness.IN_TIME: "good",
    Lateness.LATE: "warn",
    Lateness.TOO_LATE: "bad",
}


@dataclass(frozen=True, slots=True)
class Queue:
    """Work that waits. ``since`` is when the oldest became due; none when nothing waits."""

    label: str
    since: datetime | None
    tone: Tone


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker, and whether it still works."""

    worker: WorkerStatus
    tone: Tone

    @property
    def last_seen(self) -> datetime:
        """By this machine's clock."""
        return datetime.now(UTC) - timedelta(seconds=self.worker.seen_s)


async def health(context: PageContext) -> Response:
    """The page."""
    services = context.services
    found = await database_health(services.database)
    held, due, alive = await asyncio.gather(
        services.holding.hold_reason(), services.due_since(), workers(services.database)
    )
    queues = [
        Queue(label, due[kind], _TONES[LATENESS_LIMITS[kind].lateness(_waits_s(due[kind]))])
        for kind, label in _QUEUES.items()
    ]
    sweep_every_s = services.settings.sweep_every_s
    shown = [Worker(one, "good" if one.is_alive(sweep_every_s) else "quiet") for one in alive]
    circuits = {lane: is_open > 0 for (_, lane), is_open in values_of(CIRCUIT_OPEN).items()}
    calls = values_of(PROVIDER_SECONDS)
    began = REGISTRY.get_sample_value("process_start_time_seconds")
    return context.page(
        "health.html",
        database=found,
        database_tone=_of_database(found),
        held=None if held is None else HOLD_TEXTS[held],
        schema_head=schema.head(),
        skew_s=SKEW_S,
        queues=queues,
        workers=shown,
        lives=any(one.tone == "good" for one in shown),
        circuits=circuits,
        paused=int(sum(values_of(SHOPS_PAUSED).values())),
        calls=sorted((operation, result, int(many)) for (_, operation, result), many in calls.items() if many),
        alarms=sorted((name, int(many)) for (name,), many in values_of(ALARMS).items() if many),
        version=__version__,
        process=f"{socket.gethostname()}, {os.getpid()}",
        began=None if began is None else datetime.fromtimestamp(began, UTC),
    )


def _waits_s(since: datetime | None) -> float:
    return 0 if since is None else (datetime.now(UTC) - since).total_seconds()


def _of_database(found: DatabaseHealth) -> Tone:
    if found.revision != schema.head():
        return "bad"
    return "warn" if found.answered_in_s > SLOW_S else "good"
