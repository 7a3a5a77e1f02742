"""The table of runs: as JSON for machines and as Markdown for docs/reliability.md."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

HEAD: Final[tuple[str, ...]] = (
    "Family",
    "Fault",
    "Verb",
    "Runs",
    "Applied calls",
    "Left unknown",
    "Violations",
    "Slowest answer, s",
)
BEGIN: Final = "<!-- runs: begin, written by `make faults` -->"
END: Final = "<!-- runs: end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The runs of one fault with one verb."""

    family: str
    case: str
    verb: str
    runs: int
    applied: int
    unknown: int
    violations: int
    slowest_s: float

    def cells(self) -> tuple[str, ...]:
        numbers = (self.runs, self.applied, self.unknown, self.violations)
        return (self.family, self.case, self.verb, *map(str, numbers), f"{self.slowest_s:.2f}")


def total(rows: Sequence[Row], family: str, case: str = "", verb: str = "") -> Row:
    """The sum of rows."""
    return Row(
        family=family,
        case=case,
        verb=verb,
        runs=sum(row.runs for row in rows),
        applied=sum(row.applied for row in rows),
        unknown=sum(row.unknown for row in rows),
        violations=sum(row.violations for row in rows),
        slowest_s=max((row.slowest_s for row in rows), default=0),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, one line for each fault and verb, with a sum for each family and for all."""
    alike: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        alike[row.family, row.case, row.verb].append(row)
    rows = [total(some, *name) for name, some in alike.items()]
    lines: list[tuple[str, ...]] = [HEAD, ("---",) * 3 + ("---:",) * 5]
    for family, of_family in _by_family(rows).items():
        lines += [row.cells() for row in of_family]
        lines.append(tuple(f"**{cell}**" if cell else "" for cell in total(of_family, family).cells()))
    lines.append(tuple(f"**{cell}**" if cell else "" for cell in total(rows, "all").cells()))
    return _markdown(lines)


def _by_family(rows: Sequence[Row]) -> dict[str, list[Row]]:
    families: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    return families


def _markdown(lines: Sequence[tuple[str, ...]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def write(folder: Path, rows: Sequence[Row], *, seed: int, seconds: float) -> None:
    """Write the report as JSON and as Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"seed": seed, "seconds": round(seconds), "rows": [asdict(row) for row in rows]}
    (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(table(rows), encoding="utf-8")


def paste(document: Path, rows: Sequence[Row]) -> None:
    """Put the sums of each family between the two marks of a document: not every fault."""
    before, _, rest = document.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    sums = [total(of_family, family) for family, of_family in _by_family(rows).items()]
    document.write_text(f"{before}{BEGIN}\n\n{_sums(sums)}\n{END}{after}", encoding="utf-8")


def _sums(families: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [(HEAD[0], *HEAD[3:]), ("---",) + ("---:",) * 5]
    lines += [(row.family, *row.cells()[3:]) for row in (*families, total(families, "**all**"))]
    return _markdown(lines)
