"""Pictures of a choice: gain by number of members, weights, and agreement between members.

Legend: K members, N rows, C classes or labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import Candidate, Pool, TaskPool, labels_of
from ensemble.choice.result import EnsembleChoice, TaskChoice
from ensemble.presentation.plot import RED, Bars, Matrix, Panel, Plot, Series
from trainable.config.tasks import Kind, Output
from trainable.evaluation.metrics import predicted_labels

MAX_SHOWN = 15
"""Maximum number of members in a picture; those with the largest weights are shown."""

Labels = Mapping[Candidate, str]


def pictures(pool: Pool, choice: EnsembleChoice) -> dict[str, bytes]:
    """Return file name -> PNG; empty if every task has only one member."""
    if all(len(task.selective.members) == 1 for task in choice.tasks.values()):
        return {}
    from ensemble.presentation.draw import png  # takes half a second to import

    labels = labels_of(pool)
    values = {
        name: (pool.tasks[name].task.kind, agreement_in(pool.tasks[name], shown_members(task)))
        for name, task in choice.tasks.items()
    }
    plots = (
        gain_plot(choice.tasks),
        weights_plot(labels, choice.tasks),
        agreement_plot(labels, choice.tasks, values),
    )
    return {f"{plot.name}.png": png(plot) for plot in plots}


def gain_plot(tasks: Mapping[str, TaskChoice]) -> Plot:
    """Return the plot of selective's gain over best single by its number of members."""
    panels: list[Panel] = []
    for name, task in tasks.items():
        curve, is_first = task.curve, not panels
        held_out, in_sample = ("held-out", "in-sample") if is_first else ("", "")
        marks = [
            Series(curve.sizes, curve.held_out, held_out, low=curve.low, high=curve.high),
            Series(curve.sizes, curve.in_sample, in_sample, colour=RED),
        ]
        y_title = f"gain in {task.metric}"
        panels.append(Panel(marks, name, "members", y_title, y_lines=((0.0, ""),)))
    caption = "gain over best single by members, the heaviest first; band: 95 % over dev rows"
    return Plot("gain", panels, caption)


def weights_plot(labels: Labels, tasks: Mapping[str, TaskChoice]) -> Plot:
    """Return the plot of each task's members and their weights."""
    panels = []
    for name, task in tasks.items():
        members = task.selective.members[:MAX_SHOWN]
        num_hidden = len(task.selective.members) - len(members)
        title = f"{name} (and {num_hidden} more)" if num_hidden else name
        names = [labels[member.candidate] for member in members]
        bars = Bars(names, [member.weight for member in members])
        panels.append(Panel([bars], title, "weight"))
    most = max(len(shown_members(task)) for task in tasks.values())
    return Plot("weights", panels, height=0.3 * most + 1.4)


def shown_members(task: TaskChoice) -> list[Candidate]:
    """Return the members shown in a picture."""
    return [member.candidate for member in task.selective.members[:MAX_SHOWN]]


def agreement_plot(
    labels: Labels,
    tasks: Mapping[str, TaskChoice],
    values: Mapping[str, tuple[Kind, NDArray[np.float64]]],
) -> Plot:
    """Return the plot of the agreement between members: the share of equal predictions, or
    Pearson's r of scores.

    Args:
        values: task -> its kind and the `agreement` [K, K] of its K `shown_members`.
    """
    panels = []
    for name, task in tasks.items():
        kind, cells = values[name]
        names = [labels[member] for member in shown_members(task)]
        texts = [  # only the lower triangle: the matrix is symmetric
            [f"{value:.2f}".removeprefix("0") if k <= row else "" for k, value in enumerate(values)]
            for row, values in enumerate(cells)
        ]
        matrix = Matrix(cells.tolist(), names, names, texts, min(0.0, float(cells.min())))
        what = "Pearson's r" if kind.output is Output.SCORE else "share of equal answers"
        panels.append(Panel([matrix], f"{name}: {what}"))
    return Plot("agreement", panels, height=4.2)


def agreement_in(pool: TaskPool, members: list[Candidate]) -> NDArray[np.float64]:
    """Return [K, K] the `agreement` of K candidates of a pool."""
    rows = [pool.candidates.index(member) for member in members]
    return agreement(pool.task.kind, pool.outputs[rows])


def agreement(
    kind: Kind, outputs: Sequence[NDArray[np.floating[Any]]] | NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Return [K, K] the agreement of candidates: the share of equal predicted labels, or Pearson's
    r of scores (0 for a constant).

    Args:
        outputs: [K] of [N] or [N, C].
    """
    labels = np.array([predicted_labels(kind, output) for output in outputs])
    if kind.output is not Output.SCORE:
        return np.array([(labels == own).mean(axis=1) for own in labels])
    centred = labels - labels.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1)
    products = np.outer(norm, norm)
    r = np.divide(centred @ centred.T, products, out=np.zeros_like(products), where=products > 0)
    return np.asarray(r)
