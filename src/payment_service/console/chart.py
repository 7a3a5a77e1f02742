"""A bar chart with a line to compare with, as numbers for an inline SVG. The colours are in the style sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

STEP: Final = 10
HEIGHT: Final = 100
_GAP: Final = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """One value, with the position of its bar and the value to compare with."""

    value: int
    before: int | None
    x: int
    y: float
    width: int
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """``line`` are the points of the values before, as steps; none where there is nothing to compare with."""

    bars: list[Bar]
    line: str | None
    width: int
    peak: int
    """The value that reaches the top: the largest, or 0 when there is nothing to show."""


def chart_of(values: Sequence[int], before: Sequence[int] | None = None) -> Chart:
    """The chart of as many values as there are steps."""
    peak = max(0, *values, *(before or ()))
    bars = [
        Bar(
            value,
            before[place] if before else None,
            x=place * STEP + _GAP // 2,
            y=_level(value, peak),
            width=STEP - _GAP,
            height=round(HEIGHT - _level(value, peak), 1),
        )
        for place, value in enumerate(values)
    ]
    line = None
    if before:
        points = [
            (x, _level(value, peak)) for place, value in enumerate(before) for x in (place * STEP, (place + 1) * STEP)
        ]
        line = " ".join(f"{x},{y}" for x, y in points)
    return Chart(bars, line, len(values) * STEP, peak)


def _level(value: int, peak: int) -> float:
    """The distance from the top, out of ``HEIGHT``."""
    return round(HEIGHT - HEIGHT * max(value, 0) / peak, 1) if peak else HEIGHT
