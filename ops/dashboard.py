"""The Grafana dashboard, made from the panels below: ``python -m ops.dashboard`` writes ops/grafana/dashboard.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parent / "grafana" / "dashboard.json"
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 24
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart or figure: its queries, each with what its lines are called."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"


def _p(quantile: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"


_LOOKUPS: Final = "sum by (memory) (rate(payment_service_memory_reads_total%s[$__rate_interval]))"
_FOUND_IN_MEMORY: Final = _LOOKUPS % '{found="memory"}' + " / " + _LOOKUPS % ""
ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Is anything wrong": (
        Panel("Waits for people", (("max by (kind) (payment_service_tasks)", "{{kind}}"),), kind="stat"),
        Panel("Nothing is sent", (("max(payment_service_sending_held)", "held"),), kind="stat"),
        Panel(
            "Alarms in 24 hours",
            (("round(sum by (alarm) (increase(payment_service_alarms_total[24h]))) > 0", "{{alarm}}"),),
            kind="stat",
        ),
    ),
    "Money": (
        Panel(
            "Payments and refunds that move, per minute",
            (
                (
                    "60 * sum by (object, after) (rate(payment_service_moves_total[$__rate_interval]))",
                    "{{object}} {{after}}",
                ),
            ),
        ),
        Panel("Open, by state", (("max by (object, state) (payment_service_open)", "{{object}} {{state}}"),)),
        Panel(
            "Age of the oldest that is open",
            (("max by (object, state) (payment_service_oldest_open_seconds)", "{{object}} {{state}}"),),
            "s",
        ),
    ),
    "The provider": (
        Panel(
            "Calls per second, by what came of them",
            (("sum by (result) (rate(payment_service_provider_seconds_count[$__rate_interval]))", "{{result}}"),),
            "reqps",
        ),
        Panel(
            "Time of a call",
            (
                (_p(0.5, "payment_service_provider_seconds", "operation"), "{{operation}} p50"),
                (_p(0.95, "payment_service_provider_seconds", "operation"), "{{operation}} p95"),
            ),
            "s",
        ),
        Panel(
            "Circuits that are open, shops that are paused",
            (
                ("max by (lane) (payment_service_circuit_open)", "{{lane}}"),
                ("max(payment_service_paused_shops)", "shops"),
            ),
        ),
    ),
    "Callers": (
        Panel(
            "Requests per second, by status",
            (("sum by (status) (rate(payment_service_http_seconds_count[$__rate_interval]))", "{{status}}"),),
            "reqps",
        ),
        Panel(
            "Time to answer",
            (
                (_p(0.5, "payment_service_http_seconds", "route"), "{{route}} p50"),
                (_p(0.99, "payment_service_http_seconds", "route"), "{{route}} p99"),
            ),
            "s",
        ),
        Panel(
            "Refused: too many, too slow, too large",
            (
                ("sum by (policy) (rate(payment_service_rate_limited_total[$__rate_interval]))", "{{policy}}"),
                ("sum by (reason) (rate(payment_service_connections_refused_total[$__rate_interval]))", "{{reason}}"),
            ),
        ),
    ),
    "Work in the background": (
        Panel("How late the oldest is", (("max by (kind) (payment_service_oldest_due_seconds)", "{{kind}}"),), "s"),
        Panel(
            "From an event to its delivery",
            (
                (_p(0.5, "payment_service_delivery_seconds"), "p50"),
                (_p(0.99, "payment_service_delivery_seconds"), "p99"),
            ),
            "s",
        ),
        Panel(
            "Deliveries that wait, workers that sweep",
            (
                ("max(payment_service_deliveries_waiting)", "deliveries"),
                ("count(time() - (payment_service_worker_last_sweep_timestamp_seconds > 0) < 120)", "workers"),
            ),
        ),
    ),
    "Processes": (
        Panel(
            "Lag of the event loop, p99",
            ((_p(0.99, "payment_service_loop_lag_seconds", "instance"), "{{instance}}"),),
            "s",
        ),
        Panel(
            "Wait for a connection to the database, p95",
            ((_p(0.95, "payment_service_connection_wait_seconds", "instance"), "{{instance}}"),),
            "s",
        ),
        Panel(
            "Found in memory, share",
            (
                (
                    _FOUND_IN_MEMORY,
                    "{{memory}}",
                ),
            ),
            "percentunit",
        ),
        Panel("Memory", (("process_resident_memory_bytes", "{{instance}}"),), "bytes"),
        Panel("Processor", (("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}"),)),
        Panel("Releases", (("count by (version) (payment_service_build_info)", "{{version}}"),), kind="stat"),
    ),
}


def queries() -> list[str]:
    """Every query of the dashboard."""
    return [query for panels in ROWS.values() for panel in panels for query, _ in panel.queries]


def dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, of_row in ROWS.items():
        panels.append({"type": "row", "title": row, "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1}, "panels": []})
        y += 1
        for place, panel in enumerate(of_row):
            x, line = place * _WIDTH % _COLUMNS, place * _WIDTH // _COLUMNS
            panels.append(_shown(panel, x, y + line * _HEIGHT))
        y += -(-len(of_row) * _WIDTH // _COLUMNS) * _HEIGHT
    for number, one in enumerate(panels, start=1):
        one["id"] = number
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "uid": "payment-service",
        "title": "payment-service",
        "tags": ["payments"],
        "schemaVersion": 39,
        "timezone": "Asia/Almaty",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _shown(panel: Panel, x: int, y: int) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": name}
            for place, (query, name) in enumerate(panel.queries)
        ],
    }


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
