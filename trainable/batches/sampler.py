"""Which examples a step sees: seeded by (seed, epoch), so that any step can be found again.

Legend: N examples of a task, B examples of a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainable.config.sections import Batching
from trainable.runtime.seeding import generator

WINDOW = 64
"""Batches whose examples are sorted by length together: little padding, still well mixed."""

_ANNEALED_FALL = 0.8
"""What the exponent of `annealed` loses by the last epoch (Stickland and Murray, 2019)."""


@dataclass(frozen=True)
class Step:
    """One optimisation step: the rows [B] of one task's training examples."""

    task_name: str
    rows: NDArray[np.int64]


def plan_epoch(
    lengths: Mapping[str, NDArray[np.int64]],
    batching: Batching,
    seed: int,
    epoch: int,
    progress: float = 0.0,
) -> list[Step]:
    """The steps of an epoch, as many as all tasks have batches.

    `round_robin` runs through one task after the other, in `task_order`, `even` shuffles all tasks'
    batches together (section 4.2): every example once. The others draw each step's task, with a
    probability that follows its number of batches, and go round its examples as often as it is
    drawn.

    Args:
        lengths: task -> [N] tokens of each of its N examples, at least 1.
        progress: of the stage, 0 in its first epoch and 1 in its last; `annealed` follows it.
    """
    passes = {name: _Passes(name, lengths[name], batching, seed, epoch) for name in lengths}
    if batching.strategy in ("round_robin", "even"):
        first = [name for name in batching.task_order if name in passes]
        order_of_tasks = first if batching.strategy == "round_robin" else []
        turns = dict.fromkeys([*order_of_tasks, *passes])
        steps = [step for name in turns for step in passes[name].one_pass(0)]
        if batching.strategy == "even":
            order = generator(seed, "order", epoch).permutation(len(steps))
            steps = [steps[i] for i in order]
        return steps
    counts = np.array([task.num_batches for task in passes.values()], dtype=np.float64)
    shares = counts ** _exponent(batching, progress)
    draw = generator(seed, "tasks", epoch)
    drawn = draw.choice(len(counts), size=int(counts.sum()), p=shares / shares.sum())
    endless = [iter(task) for task in passes.values()]
    return [next(endless[task]) for task in drawn]


def _exponent(batching: Batching, progress: float) -> float:
    """a, where a task of n batches is drawn in proportion to n^a."""
    if batching.strategy == "temperature":
        return 1 / batching.temperature
    return 1 - _ANNEALED_FALL * progress if batching.strategy == "annealed" else 1.0


@dataclass(frozen=True)
class _Passes:
    """The batches of one task, pass after pass over its examples, each shuffled anew."""

    task_name: str
    lengths: NDArray[np.int64]
    batching: Batching
    seed: int
    epoch: int

    @property
    def num_batches(self) -> int:
        return -(-len(self.lengths) // self.batching.batch_size)

    def __iter__(self) -> Iterator[Step]:
        number = 0
        while True:
            yield from self.one_pass(number)
            number += 1

    def one_pass(self, number: int) -> list[Step]:
        again = (number,) if number else ()
        random = generator(self.seed, "batches", self.epoch, self.task_name, *again)
        cut = length_buckets if self.batching.by_length else even_batches
        batches = cut(self.lengths, self.batching.batch_size, random)
        return [Step(self.task_name, rows) for rows in batches]


def even_batches(
    lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows in random batches [B], the last one smaller; every row once. Lengths [N] in tokens."""
    order = random.permutation(len(lengths))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def length_buckets(
    lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows in random batches [B], each of rows of like length; every row once. Lengths [N] in
    tokens."""
    order = random.permutation(len(lengths))
    window = batch_size * WINDOW
    batches = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]
