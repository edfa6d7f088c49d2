"""Plots as plotly figures, in plain JSON values; the plotly package is not needed."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ensemble.presentation.plot import GREY, Bars, Matrix, Panel, Plot, Series, log_ticks
from mlflow_setup.text import brief, printable

PIXELS = 105
"""Pixels per inch of a plot's height."""
_FONT = {"family": "system-ui, Segoe UI, DejaVu Sans, sans-serif", "size": 12, "color": "#1c2733"}
_MODES = {"line": "lines", "dashed": "lines", "points": "markers", "both": "lines+markers"}
_LINE, _FAINT = "#c9d2db", "#eef1f4"
_GAP_X, _GAP_Y = 0.07, 0.22
"""Gaps between panels, for titles and tick labels, as fractions of the figure."""
_CHARACTER = 0.0065
"""Width of a character of a label between two panels, as a fraction of the figure."""


def figure_of(plot: Plot) -> dict[str, Any]:
    """Return a plotly figure: `data` and `layout`. Text is escaped: plotly interprets some tags."""
    columns = min(plot.num_columns, len(plot.panels))
    layout: dict[str, Any] = {
        "font": _FONT,
        "margin": {"l": 60, "r": 20, "t": 34, "b": 46},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "hovermode": "closest",
        "annotations": [],
        "shapes": [],
        "showlegend": False,
        "barmode": "group",
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    }
    data: list[dict[str, Any]] = []
    named: set[tuple[str, str]] = set()
    between = [
        len(label) for n, panel in enumerate(plot.panels) if n % columns for label in _side(panel)
    ]
    gap = min(0.2, _GAP_X + _CHARACTER * max(between, default=0))
    for number, panel in enumerate(plot.panels):
        row, column = divmod(number, columns)
        domains = (
            _share(column, columns, gap),
            _share(plot.num_rows - 1 - row, plot.num_rows, _GAP_Y),
        )
        _add(panel, number + 1, domains, data, layout, named)
    layout["showlegend"] = bool(named)
    if named and any(panel.title for panel in plot.panels):
        layout["legend"] |= {"y": 1.09}
        layout["margin"] |= {"t": 58}
    return {"data": data, "layout": layout}


def _side(panel: Panel) -> list[str]:
    """Return the labels to the left of a panel."""
    of_marks = (
        mark.labels if isinstance(mark, Bars) else mark.rows
        for mark in panel.marks
        if not isinstance(mark, Series)
    )
    return [*panel.y_ticks, *(label for labels in of_marks for label in labels)]


def _share(place: int, count: int, gap: float) -> list[float]:
    size = (1 - gap * (count - 1)) / count
    start = place * (size + gap)
    return [round(start, 4), round(min(1.0, start + size), 4)]


def _add(
    panel: Panel,
    number: int,
    domains: tuple[list[float], list[float]],
    data: list[dict[str, Any]],
    layout: dict[str, Any],
    named: set[tuple[str, str]],
) -> None:
    suffix = "" if number == 1 else str(number)
    x, y = f"x{suffix}", f"y{suffix}"
    usual = {"linecolor": _LINE, "gridcolor": _FAINT, "zeroline": False, "automargin": True}
    across = {**usual, "domain": domains[0], "anchor": y, "title": _title(panel.x_title)}
    along = {**usual, "domain": domains[1], "anchor": x, "title": _title(panel.y_title)}
    places = panel.x_values
    if panel.is_log and places:
        at = log_ticks(min(places), max(places))
        across |= {"type": "log", "tickvals": at, "ticktext": _texts(map(brief, at))}
    elif panel.is_counted:
        across |= {"tick0": 0, "dtick": max(1, math.ceil((max(places) - min(places)) / 8))}
    if panel.y_ticks:
        along |= {"autorange": "reversed", **_ticks(panel.y_ticks)}
    if panel.ticks:
        across |= _ticks(panel.ticks)
    if panel.hides_y:
        along["visible"] = False
    layout[f"xaxis{suffix}"], layout[f"yaxis{suffix}"] = across, along
    for mark in panel.marks:
        if isinstance(mark, Series):
            data += _series(mark, x, y, named)
        elif isinstance(mark, Bars):
            data.append(_bars(mark, x, y, named))
            along |= {"autorange": "reversed", **_ticks(mark.labels)}
        else:
            data.append(_matrix(mark, x, y))
            along |= {"autorange": "reversed", "showgrid": False, **_ticks(mark.rows)}
            across |= {"showgrid": False, **_ticks(mark.columns)}
    place = {"xref": f"{x} domain", "yref": f"{y} domain"}
    if panel.title:
        title = {**place, "x": 0, "y": 1, "yanchor": "bottom", "xanchor": "left"}
        text = f"<b>{_text(panel.title)}</b>"
        layout["annotations"].append({**title, "text": text, "showarrow": False})
    _add_lines(panel, x, y, layout)


def _add_lines(panel: Panel, x: str, y: str, layout: dict[str, Any]) -> None:
    for at, colour in panel.x_lines:
        place = {"x0": at, "x1": at, "y0": 0, "y1": 1, "xref": x, "yref": f"{y} domain"}
        line = {"color": colour, "dash": "dot", "width": 1}
        layout["shapes"].append({"type": "line", **place, "line": line})
    for at, name in panel.y_lines:
        place = {"x0": 0, "x1": 1, "y0": at, "y1": at, "xref": f"{x} domain", "yref": y}
        line = {"color": GREY, "dash": "dot", "width": 1}
        layout["shapes"].append({"type": "line", **place, "line": line})
        note = {"x": 1, "y": at, "xref": f"{x} domain", "yref": y, "text": _text(name)}
        layout["annotations"].append({**note, **_NOTE, "xanchor": "right", "yanchor": "bottom"})
    for across, along, text in panel.notes:
        note = {"x": across, "y": along, "xref": x, "yref": y, "text": _text(text)}
        layout["annotations"].append({**note, **_NOTE})


_NOTE = {"showarrow": False, "font": {"size": 10, "color": "#5c6b7a"}}


def _series(series: Series, x: str, y: str, named: set[tuple[str, str]]) -> list[dict[str, Any]]:
    traces = []
    if len(series.low):
        xs = [*series.x, *reversed(series.x)]
        ys = [*series.high, *reversed(series.low)]
        traces.append(
            {
                "type": "scatter", "x": _numbers(xs), "y": _numbers(ys), "fill": "toself",
                "fillcolor": f"{series.colour}33", "line": {"width": 0}, "mode": "lines",
                "hoverinfo": "skip", "showlegend": False, "xaxis": x, "yaxis": y,
            }
        )  # fmt: skip
    size = (7 if series.style == "points" else 5) + 2 * max(0.0, series.width - 1.5)
    trace: dict[str, Any] = {
        "type": "scatter",
        "x": _numbers(series.x),
        "y": _numbers(series.y),
        "mode": _MODES[series.style],
        "line": {
            "color": series.colour,
            "width": series.width,
            "dash": "dash" if series.style == "dashed" else "solid",
        },
        "marker": {"color": series.colour, "size": size},
        "xaxis": x,
        "yaxis": y,
        **_legend(series.name, series.colour, named),
    }
    if series.texts:
        trace |= {"text": _texts(series.texts), "hoverinfo": "text"}
        if series.name:
            trace["hoverinfo"] = "text+name"
    return [*traces, trace]


def _bars(bars: Bars, x: str, y: str, named: set[tuple[str, str]]) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "bar",
        "orientation": "h",
        "x": _numbers(bars.values),
        "y": list(range(len(bars.labels))),
        "marker": {"color": bars.colour},
        "xaxis": x,
        "yaxis": y,
        **_legend(bars.name, bars.colour, named),
    }
    if len(bars.low):
        pairs = list(zip(bars.values, bars.low, bars.high, strict=True))
        trace["error_x"] = {
            "type": "data",
            "symmetric": False,
            "array": _numbers(max(0.0, high - value) for value, _, high in pairs),
            "arrayminus": _numbers(max(0.0, value - low) for value, low, _ in pairs),
            "color": "#5c6b7a",
            "thickness": 1.2,
        }
    return trace


def _matrix(matrix: Matrix, x: str, y: str) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [_numbers(row) for row in matrix.values],
        "x": list(range(len(matrix.columns))),
        "y": list(range(len(matrix.rows))),
        "zmin": matrix.low,
        "zmax": matrix.high,
        "text": [_texts(row) for row in matrix.texts],
        "texttemplate": "%{text}",
        "colorscale": [[0, "#f4f8fc"], [0.5, "#7fb2d6"], [1, "#08306b"]],
        "showscale": False,
        "hovertemplate": "%{text}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
        "xaxis": x,
        "yaxis": y,
    }


def _legend(name: str, colour: str, named: set[tuple[str, str]]) -> dict[str, Any]:
    """Return one legend entry for all marks of a name and colour, which are toggled together."""
    if not name:
        return {"showlegend": False, "name": ""}
    is_new = (name, colour) not in named
    named.add((name, colour))
    return {"name": _text(name), "legendgroup": f"{_text(name)} {colour}", "showlegend": is_new}


def _ticks(labels: Sequence[str]) -> dict[str, Any]:
    """Return ticks by position: labels may be equal."""
    return {"tickvals": list(range(len(labels))), "ticktext": _texts(labels)}


def _title(text: str) -> dict[str, Any]:
    return {"text": _text(text), "standoff": 6}


def _text(text: str) -> str:
    return html.escape(printable(text), quote=False)


def _texts(texts: Iterable[str]) -> list[str]:
    return [_text(text) for text in texts]


def _numbers(values: Iterable[float] | Sequence[float]) -> list[float | None]:
    """Return the values with six digits, which is enough for a screen, and None for NaN."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values]
