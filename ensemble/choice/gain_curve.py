"""The gain of an ensemble by its number of members: where it stops to grow, and where it is luck.

Legend: M candidates, N rows, R replicates, K sizes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.choice.task_view import TaskPredictions
from ensemble.selection.sample import Combination, Linear, weights_and_intercept
from ensemble.statistics.bootstrap import Draws, Floats, resampled_scores
from ensemble.statistics.effort import SHIPPED

MAX_SIZES = 12
"""Points of a curve: every size up to the half of it, then ever fewer."""
_BAND = (2.5, 97.5)


@dataclass(frozen=True)
class Curve:
    """Gains over best single of the heaviest 1, 2, ... members: means over the halves."""

    sizes: tuple[int, ...]  # [K] numbers of members; of a linear model all that it has
    in_sample: tuple[float, ...]  # [K] on the half that chose
    held_out: tuple[float, ...]  # [K] on the other
    low: tuple[float, ...]  # [K] of held_out: 95 % of a paired bootstrap over the rows
    high: tuple[float, ...]


def curve_of(
    predictions: TaskPredictions,
    chosen: Mapping[int, Combination],
    single: Mapping[int, Combination],
    num_replicates: int = SHIPPED.curve_replicates,
) -> Curve:
    """The curve of a task.

    Args:
        chosen: half -> what it chose; single: the same of its best single.
    """
    steps = {half: prefixes(found) for half, found in chosen.items()}
    sizes = _sizes(max(map(len, steps.values())))
    if any(isinstance(found, Linear) for found in chosen.values()):
        sizes = (
            max(
                int(np.count_nonzero(weights_and_intercept(found)[0])) for found in chosen.values()
            ),
        )
    drawn = Draws(num_replicates).counts_of("rows", len(predictions.labels))
    in_sample, held_out = [], []
    for half, found in steps.items():
        seen, rows = predictions.by(half), predictions.rows[half]
        candidates = [single[half], *(found[min(size, len(found)) - 1] for size in sizes)]
        in_sample.append(_gains(seen, candidates, rows, np.ones((1, int(rows.sum())))))
        held_out.append(_gains(seen, candidates, ~rows, drawn[:, ~rows].astype(np.float64)))
    gains = np.mean(held_out, axis=0)  # [K, 1 + R]
    low, high = np.percentile(gains[:, 1:], _BAND, axis=1)
    means = np.mean(in_sample, axis=0)[:, 0]
    return Curve(
        sizes,
        *(tuple(map(float, values)) for values in (means, gains[:, 0], low, high)),
    )


def prefixes(found: Combination) -> Sequence[Combination]:
    """The heaviest 1, 2, ... members by themselves, the last all of them; a linear model is not
    taken apart."""
    if isinstance(found, Linear):
        return [found]
    heaviest = np.argsort(-found, kind="stable")
    some, steps = np.zeros_like(found), []
    for m in heaviest[: np.count_nonzero(found)]:
        some[m] = found[m]
        steps.append(some / some.sum())
    return steps


def _sizes(largest: int) -> tuple[int, ...]:
    if largest <= MAX_SIZES:
        return tuple(range(1, largest + 1))
    few = MAX_SIZES // 2
    rest = np.geomspace(few + 1, largest, MAX_SIZES - few).round().astype(int)
    return (*range(1, few + 1), *sorted(set(rest.tolist())))


def _gains(
    predictions: TaskPredictions,
    candidates: Sequence[Combination],
    rows: NDArray[np.bool_],
    counts: Floats,
) -> Floats:
    """[K, R] of all but the first over the first, each row counted as often as `counts` has it."""
    labels = predictions.labels[rows]
    scores = [
        resampled_scores(predictions.task, predictions.outputs(found, rows), labels, counts)
        for found in candidates
    ]
    return np.array(scores[1:]) - scores[0]
