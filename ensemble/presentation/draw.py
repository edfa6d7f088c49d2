"""Draws plots with matplotlib. Text is shown verbatim: formulas in it are not interpreted."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ensemble.presentation.plot import GREY, Bars, Matrix, Panel, Plot, Series, log_ticks
from mlflow_setup.text import brief, printable

_STYLES = {"line": "-", "dashed": "--", "points": ".", "both": ".-"}
_DARK = 0.6
"""Share of the colour scale above which a cell's text is white."""


def figure_of(plot: Plot) -> Figure:
    """Return the plot as a matplotlib figure, with its caption below."""
    columns = min(plot.num_columns, len(plot.panels))
    size = plot.width * columns, plot.height * plot.num_rows + 0.3 * bool(plot.caption)
    figure = Figure(figsize=size)
    grid = figure.subplots(plot.num_rows, columns, squeeze=False).ravel()
    for axis, panel in zip(grid, plot.panels, strict=False):
        _draw(axis, panel)
    for axis in grid[len(plot.panels) :]:
        axis.set_axis_off()
    if plot.caption:
        figure.supxlabel(printable(plot.caption), fontsize=9, parse_math=False)
    figure.tight_layout()
    return figure


def png(plot: Plot | Figure) -> bytes:
    """Return the picture as the bytes of a PNG file."""
    figure = figure_of(plot) if isinstance(plot, Plot) else plot
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw(axis: Axes, panel: Panel) -> None:
    groups = [mark for mark in panel.marks if isinstance(mark, Bars)]
    for mark in panel.marks:
        if isinstance(mark, Series):
            _draw_series(axis, mark)
        elif isinstance(mark, Bars):
            _draw_bars(axis, mark, groups.index(mark), len(groups))
        else:
            _draw_matrix(axis, mark)
    if panel.is_log and panel.x_values:
        axis.set_xscale("log")
        ticks = log_ticks(min(panel.x_values), max(panel.x_values))
        axis.set_xticks(ticks, map(brief, ticks), minor=False)
        axis.set_xticks([], minor=True)
    for x, colour in panel.x_lines:
        axis.axvline(x, color=colour, linestyle=":", linewidth=1)
    for y, name in panel.y_lines:
        axis.axhline(y, color=GREY, linestyle=":", linewidth=1)
        axis.annotate(
            printable(name), (1, y), xycoords=("axes fraction", "data"), fontsize=7,
            color="0.4", ha="right", va="bottom", parse_math=False,
        )  # fmt: skip
    for x, y, text in panel.notes:
        axis.annotate(
            printable(text), (x, y), fontsize=7, ha="center", color="0.3", parse_math=False
        )
    axis.set_title(printable(panel.title), fontsize=10, parse_math=False)
    axis.set_xlabel(printable(panel.x_title), fontsize=9, parse_math=False)
    axis.set_ylabel(printable(panel.y_title), fontsize=9, parse_math=False)
    axis.tick_params(labelsize=8)
    if panel.ticks:
        _label(axis, "x", panel.ticks)
    elif not panel.is_log and all(isinstance(mark, Series) for mark in panel.marks):
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=panel.is_counted))
    if panel.y_ticks:
        _label(axis, "y", panel.y_ticks)
        axis.invert_yaxis()
    if panel.hides_y:
        axis.yaxis.set_visible(False)
        axis.spines[["left", "right", "top"]].set_visible(False)
        axis.grid(axis="x", color="0.9")
        axis.margins(y=0.12)
    if any(mark.name for mark in panel.marks if not isinstance(mark, Matrix)):
        for entry in axis.legend(fontsize=8, frameon=False).get_texts():
            entry.set_parse_math(False)


def _draw_series(axis: Axes, series: Series) -> None:
    if len(series.low):
        axis.fill_between(
            series.x, series.low, series.high, color=series.colour, alpha=0.2, linewidth=0
        )
    axis.plot(
        series.x,
        series.y,
        _STYLES[series.style],
        color=series.colour,
        linewidth=series.width,
        markersize=6 + 4 * max(0.0, series.width - 1.5),
        label=printable(series.name) or "_nolegend_",
    )


def _draw_bars(axis: Axes, bars: Bars, number: int, count: int) -> None:
    """Draw the bars of group `number` of `count`."""
    thickness = 0.8 / count
    offset = (number - (count - 1) / 2) * thickness
    positions = [row + offset for row in range(len(bars.labels))]
    whiskers = None
    if len(bars.low):
        whiskers = [
            [max(0.0, v - low) for v, low in zip(bars.values, bars.low, strict=True)],
            [max(0.0, high - v) for v, high in zip(bars.values, bars.high, strict=True)],
        ]
    axis.barh(
        positions, bars.values, thickness, color=bars.colour, xerr=whiskers,
        label=printable(bars.name) or "_nolegend_", error_kw={"ecolor": "0.3", "capsize": 2},
    )  # fmt: skip
    if number == 0:
        _label(axis, "y", bars.labels)
        axis.invert_yaxis()


def _draw_matrix(axis: Axes, matrix: Matrix) -> None:
    axis.imshow(matrix.values, vmin=matrix.low, vmax=matrix.high, cmap="Blues", aspect="auto")
    _label(axis, "x", matrix.columns, rotation=90 if max(map(len, matrix.columns)) > 4 else 0)
    _label(axis, "y", matrix.rows)
    size = 8 if len(matrix.rows) < 8 else 6
    for row, texts in enumerate(matrix.texts):
        for column, text in enumerate(texts):
            if not text:
                continue
            share = (matrix.values[row][column] - matrix.low) / ((matrix.high - matrix.low) or 1)
            colour = "white" if share > _DARK else "black"
            cell = axis.text(
                column, row, printable(text), ha="center", va="center", fontsize=size,
                color=colour, parse_math=False,
            )  # fmt: skip
            cell.set_in_layout(False)  # saves time: there are hundreds, all within the axes


def _label(axis: Axes, which: str, labels: Sequence[str], rotation: float = 0) -> None:
    set_ticks = axis.set_xticks if which == "x" else axis.set_yticks
    shown = [printable(label) for label in labels]
    set_ticks(range(len(shown)), shown, fontsize=8, rotation=rotation, parse_math=False)
