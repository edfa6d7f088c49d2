"""Plots drawn by matplotlib: the data is on the axes, and text is not parsed as mathematics."""

import math

import numpy as np
import pytest

from ensemble.presentation.draw import figure_of, png
from ensemble.presentation.plot import Bars, Matrix, Panel, Plot, Series, log_ticks

TEXT = "$x_{1}$ a_b"


def test_series_bands_lines_and_notes_are_drawn() -> None:
    band = Series([1, 2, 4], [0.1, math.nan, 0.3], TEXT, "dashed", low=[0, 0, 0], high=[1, 1, 1])
    panel = Panel(
        [band], TEXT, "x", "y", x_lines=[(2.0, "#000000")], y_lines=[(0.2, TEXT)],
        notes=[(1, 0.1, TEXT)],
    )  # fmt: skip
    (axis,) = figure_of(Plot("p", [panel], TEXT)).axes
    line = axis.lines[0]
    np.testing.assert_array_equal(line.get_xydata().T, [[1, 2, 4], [0.1, math.nan, 0.3]])
    assert line.get_linestyle() == "--"
    assert [*axis.lines[1].get_xdata(), *axis.lines[2].get_ydata()] == [2, 2, 0.2, 0.2]
    assert axis.collections  # the band
    assert axis.get_title() == TEXT
    texts = [axis.title, *axis.texts, *axis.get_legend().get_texts()]
    assert len(texts) == 4
    assert not any(text.get_parse_math() for text in texts)
    assert png(Plot("p", [panel], TEXT)).startswith(b"\x89PNG")


def test_groups_of_bars_are_drawn_from_top_to_bottom() -> None:
    one = Bars(["a", TEXT], [1.0, 2.0], "one", low=[0.5, 2.5], high=[1.5, 3.0])
    panel = Panel([one, Bars(["a", TEXT], [3.0, 4.0], "two")])
    (axis,) = figure_of(Plot("p", [panel])).axes
    assert [bar.get_width() for bar in axis.patches] == [1, 2, 3, 4]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", TEXT]
    low, high = axis.get_ylim()
    assert low > high  # the axis runs downwards
    heights = [bar.get_y() for bar in axis.patches]
    assert heights[0] < heights[2] < heights[1] < heights[3]


def test_a_matrix_has_numbers_in_its_cells() -> None:
    matrix = Matrix([[0.0, 1.0]], ["row"], ["no", "yes"], [["0", "7"]])
    (axis,) = figure_of(Plot("p", [Panel([matrix])])).axes
    assert [text.get_text() for text in axis.texts] == ["0", "7"]
    assert [text.get_color() for text in axis.texts] == ["black", "white"]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["no", "yes"]


def test_panels_are_arranged_in_rows() -> None:
    panels = [Panel([Series([1], [1])], str(number)) for number in range(4)]
    plot = Plot("p", panels, num_columns=3)
    assert plot.num_rows == 2
    axes = figure_of(plot).axes
    assert [axis.get_title() for axis in axes[:4]] == ["0", "1", "2", "3"]
    assert [axis.axison for axis in axes] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.001, 0.01, [0.001, 0.002, 0.005, 0.01]),
        (5e-5, 5e-4, [5e-5, 1e-4, 2e-4, 5e-4]),
        (1e-6, 1.0, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1]),
        (3.0, 3.0, []),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round_numbers(
    low: float, high: float, ticks: list[float]
) -> None:
    np.testing.assert_allclose(log_ticks(low, high), ticks)


def test_an_axis_with_integers_only_is_counted() -> None:
    assert Panel([Series([1, 2, math.nan], [0, 0, 0])]).is_counted
    assert not Panel([Series([1, 2.5], [0, 0])]).is_counted
    assert not Panel([]).is_counted
