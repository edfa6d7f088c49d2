"""Plots as JSON for plotly: numbers, texts, axes and layout."""

import json
import math

from ensemble.presentation.plot import Bars, Matrix, Panel, Plot, Series
from search.reports.pages.interactive import figure_of


def test_series_have_their_numbers_and_one_entry_in_the_legend() -> None:
    first = Series([1, 2], [0.1, math.nan], "a<b>", low=[0, 0], high=[1, 1], texts=["<i>x", "y"])
    figure = figure_of(Plot("p", [Panel([first]), Panel([Series([1, 2], [3, 4], "a<b>")])]))
    json.dumps(figure, allow_nan=False)
    band, one, two = figure["data"]
    assert band["y"] == [1, 1, 0, 0]
    assert (one["x"], one["y"], one["text"]) == ([1, 2], [0.1, None], ["&lt;i&gt;x", "y"])
    assert one["name"] == two["name"] == "a&lt;b&gt;"
    assert (one["showlegend"], two["showlegend"]) == (True, False)
    assert (one["xaxis"], two["xaxis"]) == ("x", "x2")
    first_domain, second = (figure["layout"][axis]["domain"] for axis in ("xaxis", "xaxis2"))
    assert first_domain[1] < second[0]
    assert figure["layout"]["xaxis"]["dtick"] == 1  # epochs are counted


def test_bars_of_equal_labels_stay_separate() -> None:
    bars = Bars(["same", "same"], [0.2, 0.3], low=[0.1, 0.4], high=[0.5, 0.6])
    figure = figure_of(Plot("p", [Panel([bars])]))
    (trace,) = figure["data"]
    assert trace["y"] == [0, 1]
    assert figure["layout"]["yaxis"]["ticktext"] == ["same", "same"]
    assert trace["error_x"]["array"] == [0.3, 0.3]
    assert trace["error_x"]["arrayminus"] == [0.1, 0]  # never negative


def test_a_matrix_and_a_logarithmic_axis() -> None:
    matrix = Matrix([[0.5, 1.0]], ["r"], ["c", "d"], [["1", "2"]], low=-1.0)
    log = Panel([Series([0.001, 0.01], [1, 2])], is_log=True)
    figure = figure_of(Plot("p", [Panel([matrix]), log]))
    heat = figure["data"][0]
    assert (heat["z"], heat["text"], heat["zmin"]) == ([[0.5, 1.0]], [["1", "2"]], -1.0)
    assert figure["layout"]["xaxis"]["ticktext"] == ["c", "d"]
    assert figure["layout"]["xaxis2"]["type"] == "log"
    assert figure["layout"]["xaxis2"]["ticktext"] == ["0.001", "0.002", "0.005", "0.01"]


def test_the_gap_between_panels_fits_the_labels_in_it() -> None:
    def gap(names: list[str]) -> float:
        ran = Panel([Series([0, 1], [0, 0])], y_ticks=names)
        layout = figure_of(Plot("p", [Panel([Series([1], [1])]), ran]))["layout"]
        return float(layout["xaxis2"]["domain"][0] - layout["xaxis"]["domain"][1])

    assert gap(["a" * 20]) > gap(["a"]) + 0.1
    assert gap(["a" * 400]) < 0.21


def test_panels_are_laid_out_in_rows() -> None:
    panels = [Panel([Series([1], [1])], str(number)) for number in range(4)]
    layout = figure_of(Plot("p", panels, num_columns=3))["layout"]
    assert layout["yaxis"]["domain"] == layout["yaxis3"]["domain"]
    assert layout["yaxis4"]["domain"][1] < layout["yaxis"]["domain"][0]
    assert layout["xaxis4"]["domain"] == layout["xaxis"]["domain"]
