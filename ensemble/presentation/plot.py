"""Figures as plain data, independent of a drawing library: drawn by matplotlib (`draw.py`), or by
plotly in a report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BLUE, RED, GREEN, PINK, SKY, ORANGE = (
    *("#0072b2", "#d55e00", "#009e73"),
    *("#cc79a7", "#56b4e9", "#e69f00"),
)
COLOURS = (BLUE, RED, GREEN, PINK, SKY, ORANGE)
"""A palette for colour-blind readers too (Okabe and Ito)."""
GREY = "#999999"


@dataclass(frozen=True)
class Series:
    """Points, with or without lines between them, and optionally a band around them."""

    x: Sequence[float]
    y: Sequence[float]  # NaN: not drawn
    name: str = ""  # in the legend; "": not in the legend
    style: Literal["line", "dashed", "points", "both"] = "both"
    colour: str = BLUE
    width: float = 1.5
    low: Sequence[float] = ()  # of the band
    high: Sequence[float] = ()
    texts: Sequence[str] = ()  # of each point, shown on hover


@dataclass(frozen=True)
class Bars:
    """Horizontal bars, the first on top, optionally with error bars."""

    labels: Sequence[str]
    values: Sequence[float]
    name: str = ""
    colour: str = BLUE
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Matrix:
    """A heat map; larger values are darker."""

    values: Sequence[Sequence[float]]  # [rows, columns]
    rows: Sequence[str]
    columns: Sequence[str]
    texts: Sequence[Sequence[str]]  # of each cell
    low: float = 0.0  # the value of the lightest cell
    high: float = 1.0


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    marks: Sequence[Series | Bars | Matrix]
    title: str = ""
    x_title: str = ""
    y_title: str = ""
    is_log: bool = False  # whether the x axis is logarithmic
    ticks: Sequence[str] = ()  # on x, at 0, 1, ...
    y_ticks: Sequence[str] = ()  # on y, at 0, 1, ..., the first on top
    x_lines: Sequence[tuple[float, str]] = ()  # dotted vertical lines: x, colour
    y_lines: Sequence[tuple[float, str]] = ()  # dotted horizontal lines: y, name
    notes: Sequence[tuple[float, float, str]] = ()  # annotations: x, y, text
    hides_y: bool = False

    @property
    def x_values(self) -> list[float]:
        """All finite x values of its series."""
        values = (x for mark in self.marks if isinstance(mark, Series) for x in mark.x)
        return [x for x in values if math.isfinite(x)]

    @property
    def is_counted(self) -> bool:
        """Whether all x values are whole numbers, e.g. of epochs, trials or members."""
        values = self.x_values
        return bool(values) and all(x == int(x) for x in values)


@dataclass(frozen=True)
class Plot:
    """A figure of one or several panels, in rows of at most `num_columns`."""

    name: str  # valid as a file name
    panels: Sequence[Panel]
    caption: str = ""
    height: float = 3.2  # inches of a panel
    width: float = 4.2
    num_columns: int = 3

    @property
    def num_rows(self) -> int:
        return -(-len(self.panels) // self.num_columns)


def log_ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a logarithmic axis from `low` to `high`, both above 0: 1, 2 and 5 times
    the powers of ten, or only the powers where these would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if len(powers) <= 3 else (1,)
    return [d * 10.0**n for n in powers for d in digits if 0.8 * low <= d * 10.0**n <= 1.25 * high]
