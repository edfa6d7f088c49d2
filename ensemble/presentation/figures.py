"""A choice in pictures: gain by number of members, weights, and how much members agree."""

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ensemble.candidates.pool import Candidate, Pool, TaskPool, labels_of
from ensemble.choice.result import EnsembleChoice, TaskChoice
from trainable.config.tasks import Output
from trainable.evaluation.metrics import predicted_labels

IN_SAMPLE, HELD_OUT = "#d55e00", "#0072b2"
"""Told apart by colour-blind readers too (Okabe and Ito)."""
MAX_SHOWN = 15
"""Members in a picture, the heaviest."""
_WIDTH = 4.2  # inches of a task's panel


def pictures(pool: Pool, choice: EnsembleChoice) -> dict[str, bytes]:
    """File name -> PNG."""
    return {
        "gain.png": png(gain_figure(choice.tasks)),
        "weights.png": png(weights_figure(pool, choice.tasks)),
        "agreement.png": png(agreement_figure(pool, choice.tasks)),
    }


def gain_figure(tasks: Mapping[str, TaskChoice]) -> Figure:
    """What selective gains over best single with its heaviest 1, 2, ... members."""
    figure, axes = _panels(tasks, 3.2)
    for axis, (name, task) in zip(axes, tasks.items(), strict=True):
        curve = task.curve
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.fill_between(
            curve.sizes, curve.low, curve.high, color=HELD_OUT, alpha=0.2, linewidth=0
        )
        axis.plot(curve.sizes, curve.held_out, color=HELD_OUT, marker=".", label="held-out")
        axis.plot(curve.sizes, curve.in_sample, color=IN_SAMPLE, marker=".", label="in-sample")
        axis.set_title(name, fontsize=10, parse_math=False)
        axis.set_ylabel(f"gain in {task.metric}")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(fontsize=8, frameon=False)
    figure.supxlabel(
        "gain over best single by members, the heaviest first; band: 95 % over dev rows", fontsize=9
    )
    figure.tight_layout()
    return figure


def weights_figure(pool: Pool, tasks: Mapping[str, TaskChoice]) -> Figure:
    """Who answers for which task, and how much each counts."""
    labels = labels_of(pool)
    shown = {name: task.selective.members[:MAX_SHOWN] for name, task in tasks.items()}
    figure, axes = _panels(tasks, 0.3 * max(map(len, shown.values())) + 1.4)
    for axis, (name, members) in zip(axes, shown.items(), strict=True):
        places = range(len(members))
        axis.barh(places, [member.weight for member in members], color=HELD_OUT)
        ticks = [labels[member.candidate] for member in members]
        axis.set_yticks(places, ticks, parse_math=False, fontsize=8)
        axis.invert_yaxis()
        left_out = len(tasks[name].selective.members) - len(members)
        more = f" (and {left_out} more)" if left_out else ""
        axis.set_title(f"{name}{more}", fontsize=10, parse_math=False)
    figure.supxlabel("weight", fontsize=9)
    figure.tight_layout()
    return figure


def agreement_figure(pool: Pool, tasks: Mapping[str, TaskChoice]) -> Figure:
    """How often two members answer alike; for scores, how their answers correlate."""
    labels = labels_of(pool)
    figure, axes = _panels(tasks, _WIDTH)
    for axis, (name, task) in zip(axes, tasks.items(), strict=True):
        members = [member.candidate for member in task.selective.members[:MAX_SHOWN]]
        values = agreement(pool.tasks[name], members)
        _draw_matrix(axis, values, [labels[member] for member in members])
        is_scored = pool.tasks[name].task.kind.output is Output.SCORE
        what = "Pearson's r" if is_scored else "share of equal answers"
        axis.set_title(f"{name}: {what}", fontsize=10, parse_math=False)
    figure.tight_layout()
    return figure


def agreement(pool: TaskPool, members: list[Candidate]) -> NDArray[np.float64]:
    """[K, K] of K candidates' answers on dev: the share that is equal, or Pearson's r of scores
    (0 with a constant)."""
    outputs = pool.outputs[[pool.candidates.index(member) for member in members]]
    answers = np.array([predicted_labels(pool.task.kind, output) for output in outputs])
    if pool.task.kind.output is not Output.SCORE:
        return np.array([(answers == own).mean(axis=1) for own in answers])
    centred = answers - answers.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1)
    products = np.outer(norm, norm)
    r = np.divide(centred @ centred.T, products, out=np.zeros_like(products), where=products > 0)
    return np.asarray(r)


def _draw_matrix(axis: Axes, values: NDArray[np.float64], labels: list[str]) -> None:
    axis.imshow(values, vmin=min(0.0, float(values.min())), vmax=1, cmap="Blues")
    places = range(len(labels))
    axis.set_xticks(places, labels, rotation=90, fontsize=7, parse_math=False)
    axis.set_yticks(places, labels, fontsize=7, parse_math=False)
    for row in places:
        for column in places:
            value = values[row, column]
            colour = "white" if value > 0.6 else "black"
            text = f"{value:.2f}".removeprefix("0")
            axis.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)


def _panels(tasks: Mapping[str, TaskChoice], height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(_WIDTH * len(tasks), height))
    return figure, list(figure.subplots(1, len(tasks), squeeze=False)[0])


def png(figure: Figure) -> bytes:
    """The picture as a PNG file's bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
