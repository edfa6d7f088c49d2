"""Pools of candidates, and assertions about them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.candidates.pool import Candidate, Pool, TaskPool
from ensemble.statistics.dev_splits import NUM_HALVES
from trainable.config.tasks import PAPER_TASKS

TASKS = ("sentiment", "paraphrase", "similarity")


Store = Any  # tests/ensemble/conftest.py


def task_pool(
    name: str, labels: np.ndarray, candidates: Sequence[Candidate], outputs: np.ndarray
) -> TaskPool:
    """A pool whose candidates can all be chosen, by all of dev and by every half."""
    return TaskPool(
        task=PAPER_TASKS[name],
        data_fingerprint="data",
        ids=tuple(f"{row:03d}" for row in range(len(labels))),
        labels=labels,
        candidates=tuple(candidates),
        outputs=outputs.astype(np.float32),
        choosable=np.ones((1 + NUM_HALVES, len(candidates)), np.bool_),
        listed=np.ones(len(candidates), np.bool_),
    )


def only_rejection(pool: Pool) -> tuple[str, str]:
    (rejected,) = pool.rejected
    return rejected.trial, rejected.reason


def assert_same(one: Pool, two: Pool) -> None:
    assert one.candidates == two.candidates
    assert one.rejected == two.rejected
    assert list(one.tasks) == list(two.tasks)
    for name, task in one.tasks.items():
        assert task.ids == two.tasks[name].ids
        np.testing.assert_array_equal(task.labels, two.tasks[name].labels)
        np.testing.assert_array_equal(task.outputs, two.tasks[name].outputs)
