"""Which examples a step sees: seeded by (seed, epoch), so that any step can be found again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainable.seeding import generator

WINDOW = 64
"""Batches whose examples are sorted by length together: little padding, still well mixed."""


@dataclass(frozen=True)
class Step:
    """One optimisation step: the rows [B] of one task's training examples."""

    task_name: str
    rows: NDArray[np.int64]


def plan_epoch(
    lengths: Mapping[str, NDArray[np.int64]],
    strategy: Literal["round_robin", "even"],
    batch_size: int,
    seed: int,
    epoch: int,
) -> list[Step]:
    """Every example of every task once, in batches of examples of like length.

    `round_robin` runs through one task after the other; `even` shuffles all tasks' batches
    together (section 4.2). `lengths` gives the tokens of each example, task by task.
    """
    steps = [
        Step(task_name, rows)
        for task_name, task_lengths in lengths.items()
        for rows in _batches(task_lengths, batch_size, generator(seed, "batches", epoch, task_name))
    ]
    if strategy == "even":
        order = generator(seed, "order", epoch).permutation(len(steps))
        steps = [steps[i] for i in order]
    return steps


def _batches(
    lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    order = random.permutation(len(lengths))
    window = batch_size * WINDOW
    batches = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]
