"""The Grafana dashboard, made from the panels below: ``python -m ops.dashboard`` writes ops/grafana/dashboard.json."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ops import alerts

FILE: Final = Path(__file__).parent / "grafana" / "dashboard.json"
COLOURS: Final[Mapping[str, str]] = {
    r"(paid|succeeded|(\b|_)20[01]|delivered|Sent)$": "green",
    r"(unknown|50\d|dead|sending_held|HELD|page)$": "red",
    r"(failed|broken|ticket)$": "orange",
}
"""What a line is called decides its colour where it matters, so that red means the same in every panel."""
DASHED: Final = "^refund"
"""Refunds have the colours of payments, and dashes."""
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 24
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_METRIC: Final = re.compile(r"\b(payment_service_[a-z_]+?|up)(?:_bucket|_count|_sum)?(?![a-z_])")


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart or figure: its queries, each with what its lines are called."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    limit: float | None = None
    """Above it is red: the limit of an alert."""
    least: float | None = 0
    """Where its axis begins; none for what may be negative."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What is shown in the place of values."""
    names_only: bool = False
    """Show what the lines are called, and no values."""

    @property
    def alerts(self) -> list[str]:
        """The alerts that ask for what it shows."""
        shown = _metrics(" ".join(query for query, _ in self.queries))
        return [rule["alert"] for rule in alerts.rules() if shown & _metrics(rule["expr"])]


def _metrics(queries: str) -> set[str]:
    return set(_METRIC.findall(queries))


def _p(quantile: float, metric: str, by: str = "", of: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    selected = f"{metric}_bucket{of and '{' + of + '}'}"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({selected}[$__rate_interval])))"


_LOOKUPS: Final = "sum by (memory) (rate(payment_service_memory_reads_total%s[$__rate_interval]))"
_FOUND_IN_MEMORY: Final = _LOOKUPS % '{found="memory"}' + " / " + _LOOKUPS % ""
_MONEY: Final = 'route=~"/payments.*"'
ROWS: Final[dict[str, tuple[Panel, ...]]] = {
    "Is anything wrong": (
        Panel(
            "Alerts that fire",
            (('max by (alertname, severity) (ALERTS{alertstate="firing"})', "{{alertname}}, {{severity}}"),),
            kind="stat",
            names_only=True,
        ),
        Panel(
            "Are payments and refunds sent?",
            (("max(payment_service_sending_held)", ""),),
            kind="stat",
            limit=0,
            words={"0": "yes", "1": "NO, HELD"},
        ),
        Panel(
            "Does the database enforce its laws?",
            (("max(payment_service_laws_off)", ""),),
            kind="stat",
            limit=0,
            words={"0": "yes", "1": "NO, OFF"},
        ),
        Panel(
            "Outcomes that only a process knows",
            (("max(payment_service_outcomes_unwritten)", ""),),
            kind="stat",
            limit=0,
        ),
        Panel(
            "Processes that do not answer",
            (('count(up{job="payment-service"} == 0) or vector(0)', ""),),
            kind="stat",
            limit=0,
        ),
        Panel(
            "Wait for people",
            (("max by (kind) (payment_service_tasks)", "{{kind}}s"),),
            kind="stat",
            limit=0,
        ),
        Panel(
            "Alarms in 24 hours",
            (("round(sum by (alarm) (increase(payment_service_alarms_total[24h]))) > 0", "{{alarm}}"),),
            kind="stat",
        ),
        Panel(
            "Releases that run",
            (("count by (version) (payment_service_build_info)", "processes of {{version}}"),),
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
            limit=5,
        ),
        Panel(
            "Open circuits (1 is open), paused shops",
            (
                ("max by (lane) (payment_service_circuit_open)", "circuit of {{lane}}"),
                ("max(payment_service_paused_shops)", "paused shops"),
                ("max(payment_service_device_tokens_unreadable)", "device tokens that cannot be decrypted"),
            ),
            limit=0,
        ),
        Panel(
            "Status readings per second, by what they said",
            (("sum by (meaning) (rate(payment_service_readings_total[$__rate_interval]))", "{{meaning}}"),),
            "reqps",
        ),
        Panel(
            "How far clocks are ahead of ours",
            (
                ("max(payment_service_database_clock_ahead_seconds)", "database"),
                ("max by (host) (payment_service_host_clock_ahead_seconds)", "{{host}}"),
            ),
            "s",
            least=None,
        ),
        Panel(
            "Until the certificate ends",
            (("min by (host) (payment_service_certificate_end_timestamp_seconds > 0) - time()", "{{host}}"),),
            "s",
            kind="stat",
        ),
    ),
    "Callers": (
        Panel(
            "Requests per second, by status",
            (("sum by (status) (rate(payment_service_http_seconds_count[$__rate_interval]))", "{{status}}"),),
            "reqps",
        ),
        Panel(
            "Time to answer payments and refunds, p95",
            ((_p(0.95, "payment_service_http_seconds", "route", _MONEY), "{{route}}"),),
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
        Panel(
            "How late our own work is",
            (('max by (kind) (payment_service_oldest_due_seconds{kind=~"readings|events"})', "{{kind}}"),),
            "s",
            limit=300,
        ),
        Panel(
            "How late sites and people are told",
            (('max by (kind) (payment_service_oldest_due_seconds{kind=~"deliveries|messages"})', "{{kind}}"),),
            "s",
            limit=3600,
        ),
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
        Panel(
            "Told per minute, by what came of it",
            (
                (
                    "60 * sum by (result) (rate(payment_service_delivery_tries_total[$__rate_interval]))",
                    "delivery {{result}}",
                ),
                (
                    "60 * sum by (channel, result) (rate(payment_service_messages_total[$__rate_interval]))",
                    "{{channel}} {{result}}",
                ),
            ),
        ),
        Panel(
            "Background work that failed, in 15 minutes",
            (("topk(5, sum by (work) (increase(payment_service_work_failures_total[15m])))", "{{work}}"),),
            limit=2,
        ),
    ),
    "Processes": (
        Panel(
            "Lag of the event loop, p99",
            ((_p(0.99, "payment_service_loop_lag_seconds", "instance"), "{{instance}}"),),
            "s",
            limit=0.25,
        ),
        Panel(
            "Lines of the log that were lost, in 15 minutes",
            (("sum by (instance) (increase(payment_service_log_lines_lost_total[15m]))", "{{instance}}"),),
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
        Panel("Processor, in cores", (("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}"),)),
        Panel(
            "Statements that waited for a connection, per second",
            (
                (
                    "sum by (instance) (rate(payment_service_connection_wait_seconds_count[$__rate_interval]))",
                    "{{instance}}",
                ),
            ),
            limit=1,
        ),
        Panel(
            "Months of the record that lie ready",
            (
                ("max(payment_service_log_months_ahead)", "months"),
                ("max(payment_service_log_rows_astray)", "astray (0 is well)"),
            ),
            kind="stat",
        ),
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
        "description": f"Alerts: {', '.join(panel.alerts)}. What to do: docs/deploy.md" if panel.alerts else "",
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides()},
        "options": _options(panel),
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": _SOURCE, "expr": query, "legendFormat": name}
            for place, (query, name) in enumerate(panel.queries)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    above = [] if panel.limit is None else [{"color": "red", "value": panel.limit or 1}]  # whole numbers, above none
    return {
        "unit": panel.unit,
        **({} if panel.least is None else {"min": panel.least}),
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "noValue": "none",
        "mappings": [{"type": "value", "options": {value: {"text": text}}} for value, text in panel.words.items()],
        "thresholds": {"mode": "absolute", "steps": [{"color": "text", "value": None}, *above]},
        "custom": {"thresholdsStyle": {"mode": "dashed" if above else "off"}} if panel.kind == "timeseries" else {},
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind != "stat":
        return {"tooltip": {"mode": "multi", "sort": "desc"}}
    return {
        "reduceOptions": {"calcs": ["lastNotNull"]},
        "textMode": "name" if panel.names_only else "auto",
        "graphMode": "none",
    }


def _overrides() -> list[dict[str, Any]]:
    found = [
        (names, {"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}) for names, colour in COLOURS.items()
    ]
    found.append((DASHED, {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [6, 4]}}))
    return [
        {"matcher": {"id": "byRegexp", "options": f"/{names}/"}, "properties": [property_]}
        for names, property_ in found
    ]


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
