"""The files in ops/: the alerts fire when they should and not before, and ask for nothing that no process counts."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import Counter, Gauge, Histogram, Info, generate_latest

from ops import alerts, dashboard, watched
from ops.server import PROGRAM
from payment_service.observability import metrics
from payment_service.scheduling.lateness import LATENESS_LIMITS
from tests.support.database import Server

ROOT = Path(__file__).parents[2]
TRIED = sorted((ROOT / "ops" / "prometheus").glob("*_test.yml"))
OF_PROMETHEUS = {"instance", "job", "le", "alertname", "severity"}
"""Labels that no process gives."""
_SERIES = re.compile(r"(payment_service_[a-z_]+)(?:\{([^}]*)\})?")
_BY = re.compile(r"by \(([^)]*)\)")
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")


def series() -> dict[str, set[str]]:
    """Every series that a process of ours shows, with its labels."""
    suffixes: dict[type[Any], tuple[str, ...]] = {
        Counter: ("_total",),
        Gauge: ("",),
        Histogram: ("_bucket", "_count", "_sum"),
        Info: ("_info",),
    }
    found = {"payment_service_build_info": {"version"}}
    for metric in vars(metrics).values():
        for suffix in suffixes.get(type(metric), ()):
            found[metric._name + suffix] = set(metric._labelnames)
    return found


def asked() -> list[str]:
    return [*(rule["expr"] for rule in alerts.rules()), *dashboard.queries()]


def check(*words: str) -> None:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_expressionsare_well_formed_and_each_alert_fires_when_it_should() -> None:
    check("check", "rules", str(alerts.RULES))
    check("test", "rules", str(TRIED[0]))


@promtool
@pytest.mark.thorough
@pytest.mark.parametrize("file", TRIED[1:], ids=lambda file: file.stem)
def test_each_incident_fires_its_alerts_and_no_other(file: Path) -> None:
    check("test", "rules", str(file))


@promtool
def test_metrics_are_named_as_prometheus_wishes() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=generate_latest(), capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_each_alert_is_tried() -> None:
    tried = set(re.findall(r'alertname="(\w+)"', "".join(file.read_text("utf-8") for file in TRIED)))
    assert tried == {rule["alert"] for rule in alerts.rules()}


@pytest.mark.parametrize("query", asked())
def test_query_asks_for_what_a_process_counts(query: str) -> None:
    known = series()
    labels: set[str] = set()
    for name, matchers in _SERIES.findall(query):
        assert name in known, name
        given = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        assert given <= known[name], (name, given)
        labels |= known[name]
    for grouped in _BY.findall(query):
        assert {label.strip() for label in grouped.split(",")} <= labels | OF_PROMETHEUS


def test_work_is_too_late_for_alerts_when_it_is_for_doctor_and_the_console() -> None:
    expressions = "\n".join(rule["expr"] for rule in alerts.rules())
    limits = re.findall(r'payment_service_oldest_due_seconds\{kind="(\w+)"\}\) > (\d+)', expressions)
    assert {kind: float(limit) for kind, limit in limits} == {
        kind: patience.too_late_s for kind, patience in LATENESS_LIMITS.items()
    }


def test_every_alarm_of_the_service_wakes_somebody() -> None:
    named = "|".join(re.findall(r'alarm=~?"([a-z_|]+)"', "\n".join(rule["expr"] for rule in alerts.rules()))).split("|")
    told_by_gauges = {"device_token_unreadable", "laws_off", "sending_held", "payment_unknown", "refund_unknown"}
    assert set(named) | told_by_gauges == set(get_args(metrics.Alarm))


def test_what_each_alert_is_about_is_shown_by_a_panel() -> None:
    panels = [panel for row in dashboard.ROWS.values() for panel in row]
    assert {name for panel in panels for name in panel.alerts} == {rule["alert"] for rule in alerts.rules()}
    of_alerts = {rule["alert"]: rule["expr"] for rule in alerts.rules()}
    for panel in panels:
        if panel.limit is not None:
            beyond = re.compile(rf"> {panel.limit:g}(?!\d)" if panel.limit else r"> 0(?![.\d])|up\{[^}]*\} == 0")
            assert any(beyond.search(of_alerts[name]) for name in panel.alerts), panel.title


def test_documents_are_made_from_the_files() -> None:
    assert alerts.with_table(alerts.DOCUMENT.read_text("utf-8")) == alerts.DOCUMENT.read_text("utf-8")
    assert dashboard.FILE.read_text("utf-8") == dashboard.text()


@pytest.mark.thorough
@pytest.mark.skipif(PROGRAM is None, reason="Prometheus is not installed (Debian: prometheus)")
async def test_real_prometheus_answers_every_query_and_alert_about_the_real_service(
    server: Server, worker_id: str, tmp_path: Path
) -> None:
    found, drawn = await watched.watch(tmp_path, await server.make(f"watched_{worker_id}"), draws=True)
    assert found.wrong == []
    for panels in dashboard.ROWS.values():
        assert all(f">{panel.title}<" in drawn for panel in panels)
