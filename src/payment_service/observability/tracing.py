"""OpenTelemetry traces, off unless a collector is set: one trace for each payment, and its id is the payment's id.

Both ids have 128 bits. So every process that knows a payment knows its trace, and no trace context is stored, passed
on in headers, or sent to the provider. The request that makes the payment is the root; its children are the provider's
calls, moves, deliveries of events, later requests.

A span is made when its operation has ended (``record_span``), from what is bound to the log lines (``logs.bind``), and
scrubbed like them. Spans wait in a bounded queue that a thread empties: a collector that is dead or slow costs spans
and never a payment. The SDK is imported only when a collector is set.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from payment_service import __version__
from payment_service.observability import logs

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.trace import Tracer

EXPORT_WITHIN_S: Final = 5
"""How long the collector may take for one batch, with repetitions."""
STOP_WITHIN_S: Final = 2
"""How long a process that stops waits for the last batch."""
_SPAN_BITS: Final = 2**64 - 1
log = logs.get_logger(__name__)
_IDS: Final = {"create": "payment_id", "create-link": "payment_id", "refund": "refund_id"}
"""By operation, the fact whose id the request's span has: spans of its calls name that as their parent."""


class TracingError(Exception):
    """Traces cannot be sent; the text says what to do."""


def record_span(name: str, seconds: float, *, kind: str = "INTERNAL", failed: bool = False, **facts: object) -> None:
    """Record a span that has just ended, after so many seconds, unless it is about no payment.

    ``kind`` is a name of OpenTelemetry's ``SpanKind``; ``facts`` go before what is bound to the log lines. It never
    raises: the traced operation has happened, and its caller must get the result.
    """
    if _traces is None:
        return
    try:
        _traces.record(name, seconds, kind, {**logs.bound(), **facts}, failed=failed)
    except Exception:
        log.exception("not traced", span=name)


@contextlib.contextmanager
def tracing(endpoint: str | None, headers: Mapping[str, str], process: str) -> Iterator[None]:
    """Send traces to this collector (``/v1/traces`` is added) within the block. Without one nothing is imported.

    Raises:
        TracingError: the SDK is not installed.
    """
    global _traces  # noqa: PLW0603 - one per process, as the log
    if endpoint is None:
        yield
        return
    _traces = _opened(f"{endpoint.rstrip('/')}/v1/traces", headers, process)
    try:
        yield
    finally:
        closing, _traces = _traces, None
        # The SDK would wait half a minute for a collector that hangs.
        last = threading.Thread(target=closing.provider.shutdown, daemon=True)
        last.start()
        last.join(STOP_WITHIN_S)


@dataclass(slots=True)
class _Ids:
    """The ids of the span that is made next; an ``IdGenerator``. Spans are made in one thread."""

    trace_id: int = 0
    span_id: int = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id

    def is_trace_id_random(self) -> bool:
        """Whether the lower 56 bits are random, as those of a UUIDv7 are."""
        return True


@dataclass(frozen=True, slots=True)
class _Traces:
    provider: Any
    tracer: "Tracer"
    ids: _Ids

    def record(self, name: str, seconds: float, kind: str, facts: Mapping[str, Any], *, failed: bool) -> None:
        """Make a span and put it into the queue."""
        from opentelemetry import trace  # noqa: PLC0415 - only where it is on
        from opentelemetry.context import Context  # noqa: PLC0415 - as above

        payment_id = facts.get("payment_id")
        if payment_id is None:
            return
        ended = time.time_ns()
        self.ids.trace_id = trace_id = UUID(str(payment_id)).int
        root_id = trace_id & _SPAN_BITS
        asking_id = _span_of_request(facts)
        self.ids.span_id = asking_id if kind == "SERVER" and asking_id else secrets.randbits(64) or 1
        parent_id = root_id if kind == "SERVER" else asking_id or root_id
        context = Context()
        if self.ids.span_id != root_id:
            parent = trace.SpanContext(trace_id, parent_id, is_remote=True, trace_flags=trace.TraceFlags(1))
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
        span = self.tracer.start_span(
            logs.scrub(name),
            context,
            trace.SpanKind[kind],
            {key: logs.scrubbed(_plain(value)) for key, value in facts.items() if value is not None},
            start_time=ended - int(seconds * 1e9),
        )
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        span.end(ended)


def _span_of_request(facts: Mapping[str, Any]) -> int | None:
    """The id of the span of the request that made a payment or a refund, in which this happens."""
    made = facts.get(_IDS.get(str(facts.get("operation")), ""))
    return UUID(str(made)).int & _SPAN_BITS if made else None


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | bool | int | float) else str(value)


def _opened(endpoint: str, headers: Mapping[str, str], process: str) -> _Traces:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 - optional
    except ImportError:
        raise TracingError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set and the SDK is not installed: install payment-service[otel], "
            "or take the setting away."
        ) from None
    ids = _Ids()
    # Not Resource.create(): it collects the process's command line among others.
    resource = Resource({"service.name": "payment-service", "service.version": __version__, "process": process})
    provider = TracerProvider(ALWAYS_ON, resource, id_generator=cast("IdGenerator", ids), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint, headers=dict(headers), timeout=EXPORT_WITHIN_S)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=4096, schedule_delay_millis=1000))
    return _Traces(provider, provider.get_tracer("payment_service", __version__), ids)


_traces: _Traces | None = None
