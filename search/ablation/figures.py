"""A study as tables (the paper's figures 2 and 3) and learning curves (its figures 4 and 5)."""

from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ensemble.presentation.draw import png
from mlflow_setup.filesystem.atomic import write_atomic
from mlflow_setup.schema import OVERALL
from mlflow_setup.text import printable
from search.ablation.compare import AblationTable, Line
from search.ablation.curves import scaled

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""The colour-blind safe palette of Okabe and Ito."""


def table(study: AblationTable) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: each score's mean and standard deviation over seeds, then the
    difference in overall.

    A difference is marked * if it is clear after correction for all others of the table
    (`differences.holm`), which needs three independent seeds.
    """
    header = [
        "row",
        *map(_short, study.names),
        "base",
        "difference",
        "95 % over rows and seeds",
        "over seeds",
    ]
    return header, [_cells(study, line) for line in study.lines]


def write_report(study: AblationTable, folder: Path) -> list[Path]:
    """Write every table and figure of the study to `folder` and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, bytes | str] = {
        "ablation.csv": _long(study).to_csv(index=False),
        "runs.csv": _runs(study).to_csv(index=False),
        "ablation.md": markdown(study),
        "ablation.png": png(ablation_figure(study)),
        **{f"{name}.md": scores(study, name) for name in tables_of(study)},
    }
    if study.curves:
        files["curves.csv"] = _by_epoch(study).to_csv(index=False)
        files["figure4.png"] = png(curves_figure(study, "loss"))
        files["figure5.png"] = png(curves_figure(study, "score"))
    for name, content in files.items():
        write_atomic(folder / name, content)
    return [folder / name for name in files]


def tables_of(study: AblationTable) -> list[str]:
    """Return the names of the included studies, in order."""
    return list(dict.fromkeys(line.table for line in study.lines if line.table))


def scores(study: AblationTable, name: str) -> str:
    """Return an included study as Markdown, in the form of the paper's figures 2 and 3: dev scores
    with ensembles first.

    Means over the seeds ± their standard deviation.
    """
    names = [OVERALL, *[task for task in study.names if task != OVERALL]]
    rows = [["model", *map(_short, names)], ["---"] * (1 + len(names))]
    own = [line for line in study.lines if line.table == name]
    for line in sorted(own, key=lambda line: bool(line.recipe)):
        cells = [_score(line, column) for column in names]
        problem = [_plain(line.problem or ""), *[""] * (len(names) - 1)]
        rows.append([_plain(line.label), *(problem if line.problem else cells)])
    return _as_markdown(rows)


def markdown(study: AblationTable) -> str:
    """Return the scores of each row and their differences to the row's base, as Markdown."""
    header = ["row", "base"]
    for name in study.names:
        header += [_plain(_short(name)), "difference"]
    rows = [header, ["---"] * len(header)]
    for line in study.lines:
        row = [_plain(line.label), _plain(line.base or "")]
        for name in study.names:
            row += [_score(line, name) if not line.problem else "", _difference(line, name)]
        problem = [_plain(line.problem or ""), *[""] * (len(row) - 3)]
        rows.append([*row[:2], *problem] if line.problem else row)
    return _as_markdown(rows)


def _as_markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _plain(cell: str) -> str:
    """Escape text for a cell of a Markdown table."""
    return printable(cell).replace("|", r"\|").replace("<", "&lt;").replace("[", r"\[")


def ablation_figure(study: AblationTable) -> Figure:
    """Draw each row's difference to its base, one panel for overall and one for each task."""
    names = [OVERALL, *[name for name in study.names if name != OVERALL]]
    lines = [line for line in study.lines[1:] if not line.problem]
    figure = Figure(figsize=(3.2 * len(names) + 1.5, 0.36 * len(lines) + 1.6))
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        axis.axvline(0, color="0.6", linewidth=0.8)
        axis.set_title(_short(name), fontsize=10)
        axis.margins(y=0.15)
        axis.tick_params(labelsize=8)
        for place, line in enumerate(lines):
            base = next(each for each in study.lines if each.label == line.base)
            _point(axis, len(lines) - 1 - place, line, base, name)
    first = study.lines[0].label
    labels = [
        line.label if line.base == first else f"{line.label} (to {line.base})"
        for line in reversed(lines)
    ]
    axes[0].set_yticks(range(len(lines)), labels, parse_math=False)  # labels may contain $
    caption = f"difference to {first}; bar: 95 % over dev rows and seeds, circles: seeds"
    figure.supxlabel(f"{caption}, red: clear", fontsize=9, parse_math=False)
    figure.tight_layout()
    return figure


def curves_table(study: AblationTable) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: each task's train objective, dev loss and dev score, a row for each
    epoch, scaled by `scaled` as in the paper's figures 4 and 5.
    """
    header, columns = ["epoch"], []
    for name, curve in study.curves.items():
        header += [f"{name}: train", "dev", curve.metric]
        columns += [scaled(curve.train_loss, True), scaled(curve.dev_loss, True)]
        columns.append(scaled(curve.score, False))
    rows = zip(*columns, strict=True)
    return header, [
        [str(epoch), *(f"{value:.2f}" for value in row)] for epoch, row in enumerate(rows, start=1)
    ]


def curves_figure(study: AblationTable, which: str) -> Figure:
    """Draw the paper's figure 4 (`which`: "loss", on train and dev) or 5 ("score").

    Left the values, right scaled from worst 0 to best 1. On train the loss is the objective: the
    task's loss and all terms that the recipe adds. A dotted line marks the epoch from which a task
    overfits.
    """
    figure = Figure(figsize=(10, 3.6))
    panels = figure.subplots(1, 2)
    for colour, (name, curve) in zip(cycle(_COLOURS), study.curves.items(), strict=False):
        if which == "loss":
            lines = [(f"{name}, dev", "-", curve.dev_loss)]
            lines.append((f"{name}, train objective", "--", curve.train_loss))
        else:
            lines = [(f"{name} {curve.metric}", "-", curve.score)]
        for label, style, values in lines:
            for axis, drawn in zip(panels, (values, scaled(values, which == "loss")), strict=True):
                epochs = range(1, len(drawn) + 1)
                axis.plot(epochs, drawn, style, color=colour, marker=".", label=label)
        if curve.overfits_from is not None:
            for axis in panels:
                axis.axvline(curve.overfits_from, color=colour, linestyle=":", linewidth=1)
    for axis, unit in zip(panels, (which, "worst epoch 0, best 1"), strict=True):
        axis.set_ylabel(unit)
        axis.set_xlabel(f"epoch of {study.curves_of}", parse_math=False)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    return figure


def _point(axis: Axes, height: int, line: Line, base: Line, name: str) -> None:
    difference = (line.differences or {}).get(name)
    if difference is None:
        return
    colour = _COLOURS[1] if difference.is_clear else _COLOURS[0]
    axis.plot([difference.low, difference.high], [height, height], color=colour, linewidth=2)
    axis.plot([difference.value], [height], marker="D", color=colour, markersize=5)
    seeds = [
        own.scores[name] - first.scores[name]
        for own, first in zip(line.runs, base.runs, strict=True)
    ]
    if len(seeds) > 1:
        axis.plot(seeds, [height] * len(seeds), "o", color=colour, fillstyle="none", markersize=4)


def _short(name: str) -> str:
    return name.removeprefix("dev/")


def _cells(study: AblationTable, line: Line) -> list[str]:
    if line.problem:
        return [line.label, line.problem, *[""] * (len(study.names) + 3)]
    difference = (line.differences or {}).get(OVERALL)
    only = list(line.differences or {})
    if difference is None and len(only) == 1:  # a single-task row: that task's difference
        difference = (line.differences or {})[only[0]]
    scores = [_score(line, name) for name in study.names]
    if difference is None:
        return [line.label, *scores, "", "", "", ""]
    mark = "*" if difference.is_clear else " "
    name = "" if OVERALL in only else f" ({only[0]})"
    spread = "" if difference.spread is None else f"± {difference.spread:.4f}"
    return [
        line.label,
        *scores,
        line.base or "",
        f"{difference.value:+.4f}{mark}{name}",
        f"{difference.low:+.4f} to {difference.high:+.4f}",
        spread,
    ]


def _score(line: Line, name: str) -> str:
    mean, spread = line.mean(name), line.spread(name)
    if mean is None:
        return ""
    return f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _difference(line: Line, name: str) -> str:
    difference = (line.differences or {}).get(name)
    if difference is None:
        return ""
    mark = " *" if difference.is_clear else ""
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]{mark}"


def _long(study: AblationTable) -> pd.DataFrame:
    """Return the scores and differences in long form: a line for each row and task."""
    records = []
    for line in study.lines:
        for name in study.names:
            difference = (line.differences or {}).get(name)
            records.append(
                {
                    "row": line.label,
                    "recipe": line.recipe,
                    "task": name,
                    "num_seeds": len(line.runs),
                    "score": line.mean(name),
                    "spread": line.spread(name),
                    "base": line.base,
                    "difference": difference and difference.value,
                    "low": difference and difference.low,
                    "high": difference and difference.high,
                    "difference_spread": difference and difference.spread,
                    "num_independent_seeds": difference and difference.num_seeds,
                    "p_value": difference and difference.p_value,
                    "is_clear": difference and difference.is_clear,
                    "problem": line.problem,
                }
            )
    return pd.DataFrame(records)


def _runs(study: AblationTable) -> pd.DataFrame:
    """Return a line for each trial, and for each seed of an ensemble, which has no epoch."""
    frame = pd.DataFrame(
        [
            {
                "row": line.label,
                "recipe": line.recipe,
                "trial": run.trial,
                "seed": run.seed,
                "best_epoch": run.epoch,
                **{name: run.scores.get(name) for name in study.names},
            }
            for line in study.lines
            for run in line.runs
        ]
    )
    return frame.astype({"best_epoch": "Int64"})


def _by_epoch(study: AblationTable) -> pd.DataFrame:
    """Return a line for each task and epoch of the row whose curves are drawn."""
    frames = [
        pd.DataFrame(
            {
                "row": study.curves_of,
                "task": name,
                "metric": curve.metric,
                "epoch": range(1, len(curve.score) + 1),
                "train_objective": curve.train_loss,
                "dev_loss": curve.dev_loss,
                "score": curve.score,
                "scaled_train_objective": scaled(curve.train_loss, True),
                "scaled_dev_loss": scaled(curve.dev_loss, True),
                "scaled_score": scaled(curve.score, False),
            }
        )
        for name, curve in study.curves.items()
    ]
    return pd.concat(frames)
