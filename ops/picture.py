"""The dashboard as one SVG, for who has no Grafana at hand: the panels of ``ops.dashboard`` over one Prometheus."""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from ops.dashboard import COLOURS, DASHED, ROWS, Panel
from ops.server import Prometheus, Series

_PANEL, _GAP, _HEIGHT, _FIGURES, _PLOT = 392, 12, 204, 112, 88
"""The width of a panel, and between panels; the height of a panel, of one in a row of figures, of a plot."""
_LEGEND: Final = 6
"""So many names fit below a plot."""
_NAMED: Final = {"green": "#2f9e62", "red": "#d13438", "orange": "#d9722e"}
_OTHERS: Final = ("#3b6fd4", "#8c62c9", "#2b97a8", "#8a7a1f", "#b5479b", "#6b7785")
_STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .page { fill: #f3f4f6 } .panel { fill: #fff; stroke: #d8dce2 }
.row { font-weight: 600; font-size: 15px } .title { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.figure { font-size: 26px; font-weight: 600 } .grid { stroke: #e4e7eb } .line { fill: none; stroke-width: 1.6 }
.limit { stroke: #d13438; stroke-dasharray: 4 3 } .red { fill: #d13438 } .orange { fill: #b85a14 }
@media (prefers-color-scheme: dark) {
text { fill: #e6e8eb } .page { fill: #111418 } .panel { fill: #1a1e24; stroke: #333a44 } .small { fill: #a3abb6 }
.grid { stroke: #2c323b } .red { fill: #ff7b7b } .orange { fill: #f0a060 } }
"""
Named = Sequence[tuple[str, Series]]


async def draw(prometheus: Prometheus, seconds: float) -> str:
    """The whole dashboard over the last seconds."""
    parts: list[str] = []
    y = _GAP
    for row, panels in ROWS.items():
        parts.append(f'<text class="row" x="{_GAP}" y="{y + 16}">{escape(row)}</text>')
        y += 26
        height = _FIGURES if all(panel.kind == "stat" for panel in panels) else _HEIGHT
        for place, panel in enumerate(panels):
            x = _GAP + place % 3 * (_PANEL + _GAP)
            top = y + place // 3 * (height + _GAP)
            found = [
                (_named(name, one), one)
                for query, name in panel.queries
                for one in await prometheus.over(query, seconds)
            ]
            shown = sorted(found, key=lambda one: -max(value for _, value in one[1].values))
            body = _figures(panel, shown) if panel.kind == "stat" else _chart(panel, shown, seconds)
            inner = "".join(body)
            parts.append(f'<g transform="translate({x},{top})">{_frame(panel, height)}{inner}</g>')
        y += -(-len(panels) // 3) * (height + _GAP)
    width = 3 * _PANEL + 4 * _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}">'
    page = f'<rect class="page" width="{width}" height="{y}"/>'
    return f"{head}<style>{_STYLE}</style>{page}\n" + "\n".join(parts) + "\n</svg>\n"


def _named(name: str, series: Series) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: series.labels.get(found[1], ""), name)


def _frame(panel: Panel, height: int) -> str:
    return (
        f'<rect class="panel" width="{_PANEL}" height="{height}" rx="4"/>'
        f'<text class="title" x="12" y="20">{escape(panel.title)}</text>'
    )


def _figures(panel: Panel, found: Named) -> Iterator[str]:
    """The last value of each series, or its name."""
    if not found:
        yield '<text class="figure" x="12" y="60">none</text>'
    for place, (name, series) in enumerate(found[:6]):
        last = series.values[-1][1]
        if panel.names_only:
            x, y = 12 + place % 2 * (_PANEL // 2), 46 + place // 2 * 22
            yield f'<text class="title {_named_colour(name)}" x="{x}" y="{y}">{escape(name)}</text>'
            continue
        x, y = 12 + place % 2 * (_PANEL // 2), 60 + place // 2 * 36
        red = "red" if panel.limit is not None and last > panel.limit else ""
        value = panel.words.get(f"{last:g}") or _text(last, panel.unit)
        yield f'<text x="{x}" y="{y}"><tspan class="figure {red}">{escape(value)}</tspan> {escape(name)}</text>'


def _chart(panel: Panel, found: Named, seconds: float) -> Iterator[str]:
    """Lines over time, the alert's limit where it is near, and what they are called, the highest first."""
    left, top, width = 52, 34, _PANEL - 64
    values = [value for _, series in found for _, value in series.values if not math.isnan(value)]
    peak = _ceiling(max(map(abs, values), default=1))
    least = -peak if panel.least is None else 0.0
    end = max([at for _, series in found for at, _ in series.values], default=seconds)

    def height(value: float) -> float:
        return top + _PLOT * (peak - value) / (peak - least)

    for label in (least, (least + peak) / 2, peak):
        y = height(label)
        yield f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:g}" y2="{y:g}"/>'
        shown = _text(label, panel.unit)
        yield f'<text class="small" x="{left - 6}" y="{y + 4:g}" text-anchor="end">{shown}</text>'
    if panel.limit is not None and (panel.limit or 1) <= peak:
        y = height(panel.limit or 1)
        yield f'<line class="limit" x1="{left}" x2="{left + width}" y1="{y:g}" y2="{y:g}"/>'
    for anchor, x, when in (("start", left, f"{seconds:.0f} s ago"), ("end", left + width, "now")):
        yield f'<text class="small" x="{x}" y="{top + _PLOT + 14}" text-anchor="{anchor}">{when}</text>'
    others = itertools.cycle(_OTHERS)
    for place, (name, series) in enumerate(found):
        colour = _NAMED.get(_named_colour(name)) or next(others)
        points = " ".join(
            f"{left + width * (1 - (end - at) / seconds):.0f},{height(value):.1f}"
            for at, value in series.values
            if not math.isnan(value)
        )
        dashes = ' stroke-dasharray="5 3"' if re.search(DASHED, name) else ""
        yield f'<polyline class="line" stroke="{colour}"{dashes} points="{points}"/>'
        if place < _LEGEND:
            x, y = 12 + place % 2 * (_PANEL // 2), top + _PLOT + 34 + place // 2 * 16
            yield f'<rect fill="{colour}" x="{x}" y="{y - 8}" width="10" height="3"/>'
            yield f'<text class="small" x="{x + 15}" y="{y - 2}">{escape(_short(name))}</text>'
    if len(found) > _LEGEND:
        yield f'<text class="small" x="{_PANEL - 12}" y="20" text-anchor="end">{len(found)} lines</text>'


def _named_colour(name: str) -> str:
    return next((colour for names, colour in COLOURS.items() if re.search(names, name)), "")


def _short(name: str) -> str:
    return name if len(name) < 29 else f"{name[:27]}…"


def _ceiling(value: float) -> float:
    """A round number that is not less."""
    if value <= 0:
        return 1
    magnitude = 10.0 ** math.floor(math.log10(value))
    return magnitude * next(step for step in (1, 2, 5, 10) if value <= step * magnitude * (1 + 1e-9))


def _text(value: float, unit: str) -> str:
    match unit:
        case "s" if 0 < abs(value) < 1:
            return f"{1000 * value:.3g} ms"
        case "s":
            return f"{value:.3g} s"
        case "bytes":
            return f"{value / 1e6:.0f} MB"
        case "percentunit":
            return f"{100 * value:.0f} %"
        case "reqps":
            return f"{value:.2g}/s"
        case _:
            return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
