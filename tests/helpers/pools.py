"""Assertions about pools of candidates."""

from typing import Any

import numpy as np

from ensemble.candidates.pool import Pool

TASKS = ("sentiment", "paraphrase", "similarity")


Store = Any  # tests/ensemble/conftest.py


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
