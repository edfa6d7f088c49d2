"""The gain of an ensemble by its number of members: where it stops to grow, and where it is luck.

Legend: M candidates, N rows, R replicates, K sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.bootstrap import Draws, Floats, resampled_scores
from trainable.tasks import Task

NUM_REPLICATES = 400
MAX_SIZES = 12
"""Points of a curve: every size up to the half of it, then ever fewer."""
_BAND = (2.5, 97.5)


class Votes(Protocol):
    """What `ensemble.chooser.TaskVotes` offers."""

    task: Task
    labels: Floats  # [N]
    rows: NDArray[np.bool_]  # [1 + H, N]

    def spread(self, candidates: NDArray[np.int64], weights: Floats, /) -> Floats: ...

    def outputs(self, weights: Floats, rows: NDArray[np.bool_], /) -> Floats: ...


@dataclass(frozen=True)
class Curve:
    """Gains over best single of the heaviest 1, 2, ... members: means over the halves."""

    sizes: tuple[int, ...]  # [K] numbers of members
    in_sample: tuple[float, ...]  # [K] on the half that chose
    judged: tuple[float, ...]  # [K] on the other
    low: tuple[float, ...]  # [K] of judged: 95 % of a paired bootstrap over the rows
    high: tuple[float, ...]


def curve_of(votes: Votes, chosen: Mapping[int, Floats], single: Mapping[int, Floats]) -> Curve:
    """The curve of a task.

    Args:
        chosen: half -> [M] weights that it chose; single: the same of its best single.
    """
    heaviest = {half: np.argsort(-weights, kind="stable") for half, weights in chosen.items()}
    counts = {half: int(np.count_nonzero(weights)) for half, weights in chosen.items()}
    sizes = _sizes(max(counts.values()))
    drawn = Draws(NUM_REPLICATES).counts_of("rows", len(votes.labels))
    in_sample, judged = [], []
    for half, weights in chosen.items():
        candidates = [single[half]]
        for size in sizes:
            some = heaviest[half][: min(size, counts[half])]
            candidates.append(votes.spread(some, weights[some] / weights[some].sum()))
        rows = votes.rows[half]
        in_sample.append(_gains(votes, candidates, rows, np.ones((1, int(rows.sum())))))
        judged.append(_gains(votes, candidates, ~rows, drawn[:, ~rows].astype(np.float64)))
    gains = np.mean(judged, axis=0)  # [K, 1 + R]
    low, high = np.percentile(gains[:, 1:], _BAND, axis=1)
    means = np.mean(in_sample, axis=0)[:, 0]
    return Curve(
        sizes,
        *(tuple(map(float, values)) for values in (means, gains[:, 0], low, high)),
    )


def _sizes(largest: int) -> tuple[int, ...]:
    if largest <= MAX_SIZES:
        return tuple(range(1, largest + 1))
    few = MAX_SIZES // 2
    rest = np.geomspace(few + 1, largest, MAX_SIZES - few).round().astype(int)
    return (*range(1, few + 1), *sorted(set(rest.tolist())))


def _gains(
    votes: Votes, candidates: list[Floats], rows: NDArray[np.bool_], counts: Floats
) -> Floats:
    """[K, R] of all but the first over the first, each row counted as often as `counts` has it."""
    labels = votes.labels[rows]
    scores = [
        resampled_scores(votes.task, votes.outputs(weights, rows), labels, counts)
        for weights in candidates
    ]
    return np.array(scores[1:]) - scores[0]
