"""A server on loopback that takes whatever is posted to it: traces by OTLP, decoded, and the errors of Sentry."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import until


@dataclass(frozen=True, slots=True)
class Span:
    """A span, its ids in hexadecimal digits; no parent is the empty text."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    process: str
    seconds: float
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """What was posted, and by which headers. While ``open`` is not set, nobody is answered."""

    url: str = ""
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open: threading.Event = field(default_factory=threading.Event)

    @property
    def text(self) -> str:
        """All of it, to be searched."""
        return "\n".join(body.decode(errors="replace") for _, body in self.bodies)

    def spans(self) -> list[Span]:
        """Every span, as it came."""
        return [span for path, body in self.bodies if path == "/v1/traces" for span in _read(body)]

    async def has(self, *names: str) -> list[Span]:
        """Wait until there are spans of these names."""

        async def there() -> bool:
            return set(names) <= {span.name for span in self.spans()}

        await until(there, f"spans {names}")
        return self.spans()

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """One that answers, on a port of its own."""
        collector = cls()
        collector.open.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.headers.append({name.lower(): value for name, value in self.headers.items()})
                collector.bodies.append((self.path, body))
                collector.open.wait(30)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """Whoever did not wait for an answer has gone."""

        with Server(("127.0.0.1", 0), Handler) as server:
            collector.url = f"http://127.0.0.1:{server.server_port}"
            serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            serving.start()
            try:
                yield collector
            finally:
                collector.open.set()
                server.shutdown()
                serving.join()


def _read(body: bytes) -> Iterator[Span]:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        process = {one.key: one.value.string_value for one in resource.resource.attributes}["process"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Span(
                name=span.name,
                kind=span.kind,
                trace=span.trace_id.hex(),
                id=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                process=process,
                seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                failed=span.status.code == 2,
                attributes={
                    one.key: getattr(one.value, one.value.WhichOneof("value") or "string_value")
                    for one in span.attributes
                },
            )
