"""The table of alerts in docs/deploy.md, made from the rules: ``python -m ops.alerts`` writes it."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RULES = ROOT / "ops" / "prometheus" / "alerts.yml"
DOCUMENT = ROOT / "docs" / "deploy.md"
BEGIN, END = "<!-- alerts: begin, written by `python -m ops.alerts` -->", "<!-- alerts: end -->"


def rules() -> list[dict[str, Any]]:
    """Every alert rule, in the order of the file."""
    [group] = yaml.load(RULES.read_text("utf-8"), Loader=yaml.CSafeLoader)["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def table() -> str:
    """The table, as it stands between the marks."""
    lines = ["| Alert | Severity | Why, and what to do |", "|---|---|---|"]
    for rule in rules():
        words = rule["annotations"]
        lines.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | {words['summary']} {words['action']} |")
    return "\n".join(lines)


def with_table(document: str) -> str:
    """The document with the table of today."""
    before, _, rest = document.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_table(DOCUMENT.read_text("utf-8")), "utf-8")
