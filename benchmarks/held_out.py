"""Choose an ensemble by the default on some rows, and score it on others.

Legend: M models, N rows, C classes.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import Pool
from ensemble.choice.cross_fitting import choose
from ensemble.choice.result import Prefer
from ensemble.selection.combine import Averaged, combine
from trainable.evaluation.metrics import task_metric

Floats = NDArray[np.float64]
Row = tuple[float, float, int]
"""In-sample score, held-out score, and number of members."""


def choose_and_judge(
    pool: Pool, judge: Mapping[str, tuple[Floats, Floats]], prefer: Prefer
) -> dict[str, Row]:
    """Task -> its row.

    Args:
        pool: candidates with the rows for choosing.
        judge: task -> outputs [M, N(, C)] of the pool's models and labels [N] of the other rows.
    """
    rows = {}
    choice = choose(pool, averaged=Averaged.STANDARDISED, prefer=prefer)
    for name, task in choice.tasks.items():
        members, of_task = task.selective.members, pool.tasks[name]
        outputs, labels = judge[name]
        combined = combine(
            of_task.task,
            [outputs[of_task.candidates.index(member.candidate)] for member in members],
            [member.weight for member in members],
            [member.transform for member in members],
        )
        score, _ = task_metric(of_task.task, combined, labels)
        rows[name] = (task.selective.trajectory[-1], score, len(members))
    return rows
