"""The gain of an ensemble over the best single model, by its number of members.

Legend: M candidates, N rows, R replicates, K sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.choice.task_view import TaskView
from ensemble.selection.sample import Combination, Linear, weights_and_intercept
from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import INTERVAL, Draws, resampled_scores
from ensemble.statistics.effort import SHIPPED
from ensemble.statistics.sizes import spaced_sizes

MAX_SIZES = 12
"""Maximum number of points of a curve."""


@dataclass(frozen=True)
class Curve:
    """Gains over best single of the 1, 2, ... members with the largest weights: means over the
    halves."""

    sizes: tuple[int, ...]  # [K] numbers of members; for a linear model only their total
    in_sample: tuple[float, ...]  # [K] on the half that chose
    held_out: tuple[float, ...]  # [K] on the other half
    low: tuple[float, ...]  # [K] of held_out: 95 % interval of a paired bootstrap over the rows
    high: tuple[float, ...]


def curve_of(
    views: Sequence[TaskView],
    chosen: Sequence[Combination],
    single: Sequence[Combination],
    num_replicates: int = SHIPPED.curve_replicates,
) -> Curve:
    """Return the curve of a task.

    Args:
        views: [H] of the halves.
        chosen: [H] what was chosen on each half.
        single: [H] the best single candidate of each half.
    """
    steps = [prefixes(combination) for combination in chosen]
    sizes = tuple(spaced_sizes(max(map(len, steps)), MAX_SIZES))
    if any(isinstance(combination, Linear) for combination in chosen):
        counts = [np.count_nonzero(weights_and_intercept(one)[0]) for one in chosen]
        sizes = (int(max(counts)),)
    drawn = Draws(num_replicates).counts_of("rows", len(views[0].labels))
    in_sample, held_out = [], []
    for view, of_half, alone in zip(views, steps, single, strict=True):
        candidates = [alone, *(of_half[min(size, len(of_half)) - 1] for size in sizes)]
        fit, judge = view.fold.fit, view.fold.judge
        in_sample.append(_gains(view, candidates, fit, np.ones((1, int(fit.sum())))))
        held_out.append(_gains(view, candidates, judge, drawn[:, judge].astype(np.float64)))
    gains = np.mean(held_out, axis=0)  # [K, 1 + R]
    low, high = np.percentile(gains[:, 1:], INTERVAL, axis=1)
    means = np.mean(in_sample, axis=0)[:, 0]
    return Curve(
        sizes,
        *(tuple(map(float, values)) for values in (means, gains[:, 0], low, high)),
    )


def prefixes(combination: Combination) -> Sequence[Combination]:
    """Return the averages of the 1, 2, ... members with the largest weights, the last of all
    members; a linear model is returned whole."""
    if isinstance(combination, Linear):
        return [combination]
    heaviest = np.argsort(-combination, kind="stable")
    some, steps = np.zeros_like(combination), []
    for m in heaviest[: np.count_nonzero(combination)]:
        some[m] = combination[m]
        steps.append(some / some.sum())
    return steps


def _gains(
    view: TaskView,
    candidates: Sequence[Combination],
    rows: NDArray[np.bool_],
    counts: Floats,
) -> Floats:
    """Return [K, R] the gains of all but the first candidate over the first; `counts` [R, n] are
    the row weights of each replicate."""
    labels = view.labels[rows]
    scores = [
        resampled_scores(view.task, view.outputs(one, rows), labels, counts) for one in candidates
    ]
    return np.array(scores[1:]) - scores[0]
