"""Metrics: what Prometheus counts. Labels are few and closed; none holds a shop, a phone or a token."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from prometheus_client import Counter, Gauge, Histogram, Info
from structlog.stdlib import BoundLogger

from payment_service import __version__

Alarm: TypeAlias = Literal[
    "chat_disabled",
    "crossed_reply",
    "device_token_unreadable",
    "endpoint_switched_off",
    "event_not_taken",
    "foreign_bin_reported",
    "intent_lost",
    "laws_off",
    "late_success",
    "message_dead",
    "outcome_refused",
    "payment_not_settled",
    "payment_unknown",
    "reading_not_written",
    "refund_not_settled",
    "refund_unknown",
    "refused_callers",
    "report_of_another_shop",
    "sending_held",
    "settled_wrongly",
    "shop_refused",
    "state_contradicted",
    "still_open",
    "unheard_of_status",
]
"""Alarms: a person must act. docs/deploy.md says why, and what to do."""
_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 8, 10)

HTTP_SECONDS = Histogram(
    "payment_service_http_seconds",
    "Time to answer a request, in seconds",
    ("method", "route", "status"),
    buckets=_SECONDS,
)
PROVIDER_SECONDS = Histogram(
    "payment_service_provider_seconds",
    "Time of a call to the provider, in seconds",
    ("provider", "operation", "result"),
    buckets=_SECONDS,
)
CIRCUIT_OPEN = Gauge(
    "payment_service_circuit_open",
    "1 while the circuit is open after repeated failures",
    ("provider", "lane"),
)
RATE_LIMITED = Counter("payment_service_rate_limited", "Requests refused because there were too many", ("policy",))
SHOPS_PAUSED = Gauge(
    "payment_service_paused_shops", "Shops that are paused by their own circuit breaker", ("provider",)
)
CONNECTIONS_REFUSED = Counter(
    "payment_service_connections_refused",
    "Connections that were closed for being too slow, too large or too many",
    ("reason",),
)
Info("payment_service_build", "Which release this process runs").info({"version": __version__})
LOOP_LAG = Histogram(
    "payment_service_loop_lag_seconds", "How late the event loop wakes who sleeps, in seconds", buckets=_SECONDS
)
LOG_LINES_LOST = Counter("payment_service_log_lines_lost", "Lines of the log that standard error did not take in time")
CONNECTION_WAIT = Histogram(
    "payment_service_connection_wait_seconds",
    "How long a statement waited for a connection to the database, when none was free, in seconds",
    buckets=_SECONDS,
)
MEMORY_LOOKUPS = Counter(
    "payment_service_memory_reads", "Look-ups of routes and API keys, by where they were found", ("memory", "found")
)
OPEN = Gauge("payment_service_open", "Payments and refunds whose end is not known", ("object", "state"))
OLDEST_OPEN = Gauge(
    "payment_service_oldest_open_seconds", "Age of the oldest of them, in seconds; 0 for none", ("object", "state")
)
LAST_SWEEP = Gauge(
    "payment_service_worker_last_sweep_timestamp_seconds", "When the worker of this process began its last sweep"
)
OLDEST_DUE = Gauge(
    "payment_service_oldest_due_seconds", "How long the oldest work that is due has waited, in seconds", ("kind",)
)
TASKS = Gauge("payment_service_tasks", "Payments and refunds that wait for a person", ("kind",))
SENDING_HELD = Gauge(
    "payment_service_sending_held", "1 while nothing is sent until a person says that the record is complete"
)
OUTCOMES_UNWRITTEN = Gauge(
    "payment_service_outcomes_unwritten",
    "Calls to the provider whose outcome only this process knows, for the database did not take it yet",
)
LAWS_OFF = Gauge("payment_service_laws_off", "1 while the database does not enforce its laws, so that doctor says why")
TOKENS_UNREADABLE = Gauge(
    "payment_service_device_tokens_unreadable", "Shops whose device token ENCRYPTION_KEYS do not open"
)
WORK_FAILURES = Counter(
    "payment_service_work_failures", "Pieces of background work that failed and will be tried again", ("work",)
)
DATABASE_CLOCK_AHEAD = Gauge(
    "payment_service_database_clock_ahead_seconds",
    "How far the database's clock is ahead of this machine's, in seconds",
)
CERTIFICATE_END = Gauge(
    "payment_service_certificate_end_timestamp_seconds", "When the certificate of a provider's host ends", ("host",)
)
HOST_CLOCK_AHEAD = Gauge(
    "payment_service_host_clock_ahead_seconds",
    "How far the clock of a provider's host is ahead of this machine's, in seconds, to within one",
    ("host",),
)
LOG_MONTHS_AHEAD = Gauge(
    "payment_service_log_months_ahead",
    "Partitions that lie ready for the months after this one: of the record, or of events, whichever has fewer",
)
LOG_MONTHS_AHEAD.set(float("nan"))  # in a process that is no worker
LOG_ROWS_ASTRAY = Gauge(
    "payment_service_log_rows_astray",
    "1 while rows of the record, or events, are in the partition for months that nobody made",
)
MOVES = Counter("payment_service_moves", "Moves of payments and refunds", ("object", "before", "after"))
READINGS = Counter("payment_service_readings", "Status readings by what they said", ("meaning",))
MESSAGES = Counter("payment_service_messages", "Messages to people by what came of them", ("channel", "result"))
ALARMS = Counter("payment_service_alarms", "Events that a person has to look at", ("alarm",))
DELIVERY_TRIES = Counter("payment_service_delivery_tries", "Tries to deliver an event to an endpoint", ("result",))
DELIVERY_SECONDS = Histogram(
    "payment_service_delivery_seconds",
    "From an event to its delivery, in seconds",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86400),
)
DELIVERIES_WAITING = Gauge("payment_service_deliveries_waiting", "Deliveries that wait for endpoints that are on")


Metric = TypeVar("Metric", Counter, Gauge, Histogram)


@cache
def labelled(metric: Metric, *values: str) -> Metric:
    """One child of a metric, by the values of its labels in their order. The metric itself looks it up under a lock."""
    return metric.labels(*values)


def values_of(metric: Counter | Gauge | Histogram) -> dict[tuple[str, ...], float]:
    """The values in this process, by label values; of a histogram the number of observations."""
    wanted = {Counter: "_total", Histogram: "_count"}.get(type(metric), "")
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name == family.name + wanted
    }


def begin_at_zero(metric: Counter, labels: Iterable[tuple[str, ...]]) -> None:
    """Create a counter's series before it counts.

    Prometheus sees no increase in a series that begins at one, and the first increase is the one that matters.
    """
    for values in labels:
        labelled(metric, *values)


begin_at_zero(ALARMS, ((name,) for name in get_args(Alarm)))
begin_at_zero(DELIVERY_TRIES, (("delivered",), ("failed",), ("dead",)))
begin_at_zero(RATE_LIMITED, (("key",), ("address",), ("phone",)))


def alarm(log: BoundLogger, name: Alarm, **facts: Any) -> None:
    """Raise an alarm: it is counted, and logged as an error by the caller's logger."""
    labelled(ALARMS, name).inc()
    log.error(name, **facts)
