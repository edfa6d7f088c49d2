"""The files of a study: tables that can be read back, and figures."""

import struct
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from ensemble.presentation.draw import png
from mlflow_setup.schema import OVERALL
from search.ablation.compare import AblationTable, Line, Run
from search.ablation.curves import Curve
from search.ablation.differences import Difference
from search.ablation.figures import (
    ablation_figure,
    curves_figure,
    curves_table,
    markdown,
    scores,
    table,
    write_report,
)

NAMES = ("sentiment", "similarity", OVERALL)
FILES = ["ablation.csv", "runs.csv", "ablation.md", "ablation.png"]
FILES += ["curves.csv", "figure4.png", "figure5.png"]


def run(seed: int, *scores: float) -> Run:
    return Run(f"{seed:04d}-b3", seed, 2 + seed, dict(zip(NAMES, scores, strict=False)))


def difference(value: float, spread: float | None = 0.001) -> Difference:
    is_clear = abs(value) > 0.01
    return Difference(value, value - 0.01, value + 0.01, spread, 3, 0.001, is_clear)


@pytest.fixture(scope="module")
def study() -> AblationTable:
    base = Line("B3", "b3", (run(0, 0.5, 0.8, 0.7), run(1, 0.52, 0.82, 0.715)))
    better = Line(
        "B3 + X",
        "b3-x",
        (run(0, 0.55, 0.8, 0.725), run(1, 0.56, 0.82, 0.735)),
        {NAMES[0]: difference(0.045), NAMES[1]: difference(0.0), OVERALL: difference(0.0225)},
        base="B3",
    )
    only = Line(
        "sentiment only",
        "b3-sentiment-only",
        (run(0, 0.49), run(1, 0.5)),
        {"sentiment": difference(-0.015)},
        base="B3 + X",
    )
    failed = Line("B3 - Y", "b3-y", base="B3", problem="trial 0003-b3-y failed: out of memory")
    curves = {
        "sentiment": Curve("accuracy", (3.0, 2.0, 1.0), (1.5, 1.4, 1.6), (0.3, 0.5, 0.4)),
        "similarity": Curve("pearson", (2.0, 1.0, 0.5), (2.0, 1.5, 1.4), (0.6, 0.7, 0.8)),
    }
    return AblationTable((base, better, only, failed), NAMES, curves, "B3")


@pytest.fixture(scope="module")
def files(study: AblationTable, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The report of `study`, written to a new folder."""
    return write_report(study, tmp_path_factory.mktemp("report") / "new" / "ablation")


def test_a_report_has_these_files(files: list[Path]) -> None:
    assert [path.name for path in files] == FILES
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            width, height = struct.unpack(">II", content[16:24])
            assert width > 300
            assert height > 100
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(FILES)


def test_the_csv_table_has_all_numbers(study: AblationTable, files: list[Path]) -> None:
    frame = pd.read_csv(files[0])
    assert len(frame) == len(study.lines) * len(NAMES)
    rows = frame.set_index(["row", "task"])
    for line in study.lines:
        for name in NAMES:
            cells = rows.loc[(line.label, name)]
            expected = (line.differences or {}).get(name)
            values = {
                "score": line.mean(name),
                "spread": line.spread(name),
                "difference": expected and expected.value,
                "low": expected and expected.low,
                "high": expected and expected.high,
                "difference_spread": expected and expected.spread,
                "num_independent_seeds": expected and expected.num_seeds,
                "p_value": expected and expected.p_value,
                "is_clear": expected and expected.is_clear,
                "base": line.base,
            }
            found = {key: None if pd.isna(cells[key]) else cells[key] for key in values}
            assert found == values
            assert cells["num_seeds"] == len(line.runs)
    problems = rows.loc["B3 - Y"]["problem"]
    assert set(problems) == {"trial 0003-b3-y failed: out of memory"}


def test_the_csv_table_of_runs_has_all_numbers(study: AblationTable, files: list[Path]) -> None:
    frame = pd.read_csv(files[1])
    runs = [(line, run) for line in study.lines for run in line.runs]
    assert len(frame) == len(runs)
    for (_, cells), (line, expected) in zip(frame.iterrows(), runs, strict=True):
        assert (cells["row"], cells["recipe"]) == (line.label, line.recipe)
        assert (cells["seed"], cells["best_epoch"]) == (expected.seed, expected.epoch)
        found = {name: cells[name] for name in NAMES if not pd.isna(cells[name])}
        assert found == expected.scores


def test_the_terminal_table_has_a_row_for_every_line(study: AblationTable) -> None:
    header, rows = table(study)
    assert {len(row) for row in rows} == {len(header)}
    base, better, only, failed = rows
    assert base[:4] == ["B3", "0.5100 ± 0.0141", "0.8100 ± 0.0141", "0.7075 ± 0.0106"]
    assert base[4:] == ["", "", "", ""]
    assert better[4:] == ["B3", "+0.0225*", "+0.0125 to +0.0325", "± 0.0010"]
    assert only[1:4] == ["0.4950 ± 0.0071", "", ""]
    assert only[4:6] == ["B3 + X", "-0.0150* (sentiment)"]
    assert failed[:2] == ["B3 - Y", "trial 0003-b3-y failed: out of memory"]


@pytest.mark.parametrize("is_clear", [True, False])
def test_only_clear_differences_have_a_star(study: AblationTable, is_clear: bool) -> None:
    found = Difference(0.02, 0.01, 0.03, 0.001, 3, 0.001, is_clear)
    line = Line("X", "x", study.lines[0].runs, {OVERALL: found}, base="B3")
    own = AblationTable((study.lines[0], line), NAMES, {}, "B3")
    assert table(own)[1][1][5] == ("+0.0200*" if is_clear else "+0.0200 ")
    assert ("*" in markdown(own)) is is_clear


def test_rows_of_the_markdown_table_have_equally_many_cells(study: AblationTable) -> None:
    text = markdown(study)
    rows = [line.strip("|").split(" | ") for line in text.splitlines()]
    assert {len(row) for row in rows} == {2 + 2 * len(NAMES)}
    assert "| B3 + X | B3 | 0.5550 ± 0.0071 | +0.0450 [+0.0350, +0.0550] * |" in text
    assert "trial 0003-b3-y failed: out of memory" in text


def test_figures_2_and_3_are_tables_of_scores_with_ensembles_first(
    study: AblationTable, tmp_path: Path
) -> None:
    base, better, only, failed = study.lines
    both = Line("both", "", better.runs, better.differences, base="B3", table="figure2")
    lines = [replace(line, table="figure2") for line in (base, only, failed)]
    lines += [both, replace(better, table="figure3")]
    own = AblationTable(tuple(lines), NAMES, study.curves, "B3")
    assert scores(own, "figure2").splitlines() == [
        "| model | overall | sentiment | similarity |",
        "| --- | --- | --- | --- |",
        "| both | 0.7300 ± 0.0071 | 0.5550 ± 0.0071 | 0.8100 ± 0.0141 |",
        "| B3 | 0.7075 ± 0.0106 | 0.5100 ± 0.0141 | 0.8100 ± 0.0141 |",
        "| sentiment only |  | 0.4950 ± 0.0071 |  |",
        "| B3 - Y | trial 0003-b3-y failed: out of memory |  |  |",
    ]
    write_report(own, tmp_path)
    assert {f"figure{n}" for n in (2, 3, 4, 5)} <= {path.stem for path in tmp_path.iterdir()}
    assert "B3 + X" in (tmp_path / "figure3.md").read_text()


def test_vertical_bars_in_labels_and_reasons_are_escaped(study: AblationTable) -> None:
    lines = (
        study.lines[0],
        Line("a|b", "x", study.lines[1].runs, study.lines[1].differences, base="B3"),
        Line("c", "y", problem="failed: no x|y"),
    )
    text = markdown(AblationTable(lines, NAMES, {}, "B3"))
    assert r"| a\|b |" in text
    assert r"| failed: no x\|y |" in text


def test_the_figure_has_each_tasks_differences_in_a_panel(study: AblationTable) -> None:
    axes = ablation_figure(study).axes
    assert len(axes) == len(NAMES)
    labels = [tick.get_text() for tick in axes[0].get_yticklabels()]
    assert labels == ["sentiment only (to B3 + X)", "B3 + X"]
    drawn = [[list(line.get_xdata()) for line in axis.get_lines()] for axis in axes]
    assert [0.0125, 0.0325] in [pytest.approx(x) for x in drawn[0]]
    assert len(drawn[0]) == 1 + 3  # the zero line; interval, mean and seeds of one line
    assert len(drawn[1]) == 1 + 3 * 2  # and of the single-task line
    seeds = drawn[0][-1]
    assert seeds == pytest.approx([0.025, 0.02])


@pytest.mark.parametrize(("which", "num_lines"), [("loss", 4), ("score", 2)])
def test_curves_are_drawn_raw_and_scaled(study: AblationTable, which: str, num_lines: int) -> None:
    """Loss on train and on dev, or the score, of two tasks in both panels."""
    figure = curves_figure(study, which)
    raw, unit = figure.axes
    for axis in (raw, unit):
        drawn = [line for line in axis.get_lines() if len(line.get_ydata()) == 3]
        assert len(drawn) == num_lines
        marks = [line.get_xdata()[0] for line in axis.get_lines() if len(line.get_ydata()) == 2]
        assert marks == [2]  # sentiment overfits after epoch 2, similarity does not
        assert axis.get_xlabel() == "epoch of B3"
    scaled = [list(line.get_ydata()) for line in unit.get_lines() if len(line.get_ydata()) == 3]
    assert all((min(values), max(values)) == (0.0, 1.0) for values in scaled)


def test_the_csv_table_of_curves_has_all_numbers(study: AblationTable, files: list[Path]) -> None:
    frame = pd.read_csv(files[FILES.index("curves.csv")])
    assert set(frame["row"]) == {"B3"}
    for name, curve in study.curves.items():
        own = frame[frame["task"] == name]
        assert list(own["epoch"]) == [1, 2, 3]
        assert set(own["metric"]) == {curve.metric}
        for column, values in (
            ("train_objective", curve.train_loss),
            ("dev_loss", curve.dev_loss),
            ("score", curve.score),
        ):
            assert tuple(own[column]) == values
            assert (own[f"scaled_{column}"].min(), own[f"scaled_{column}"].max()) == (0, 1)


def test_the_terminal_table_of_curves_is_scaled(study: AblationTable) -> None:
    header, rows = curves_table(study)
    tasks = ("sentiment: train", "dev", "accuracy"), ("similarity: train", "dev", "pearson")
    assert header == ["epoch", *tasks[0], *tasks[1]]
    assert rows == [
        ["1", "0.00", "0.50", "0.00", "0.00", "0.00", "0.00"],
        ["2", "0.50", "1.00", "1.00", "0.67", "0.83", "0.50"],
        ["3", "1.00", "0.00", "0.50", "1.00", "1.00", "1.00"],
    ]


def test_a_study_of_the_base_alone_and_of_one_epoch_is_drawn(
    study: AblationTable, tmp_path: Path
) -> None:
    curves = {"sentiment": Curve("accuracy", (1.0,), (1.0,), (0.5,))}
    write_report(AblationTable(study.lines[:1], NAMES, curves, "B3"), tmp_path)
    assert (tmp_path / "ablation.png").stat().st_size > 0
    assert (tmp_path / "figure5.png").stat().st_size > 0


def test_dollar_signs_in_labels_do_not_start_formulas(study: AblationTable) -> None:
    label = r"lr $\nonsense{ $"
    lines = (
        Line(label, "b3", study.lines[0].runs),
        Line("row", "x", study.lines[1].runs, study.lines[1].differences, base=label),
    )
    assert png(ablation_figure(AblationTable(lines, NAMES, {}, "B3"))).startswith(b"\x89PNG")


def test_figures_are_reproducible_and_closed(
    study: AblationTable,
) -> None:
    import matplotlib.pyplot as plt

    assert png(ablation_figure(study)) == png(ablation_figure(study))
    assert plt.get_fignums() == []
