"""The examples of each step, seeded by (seed, epoch), so that any step can be reproduced.

Legend: N examples of a task, B examples of a batch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainable.config.sections import Batching
from trainable.runtime.seeding import generator

WINDOW = 64
"""Number of batches whose examples are sorted by length together: little padding, yet random."""

_ANNEALED_FALL = 0.8
"""Amount by which the exponent of `annealed` falls by the last epoch (Stickland and Murray,
2019)."""


@dataclass(frozen=True)
class Step:
    """One optimizer step: the rows [B] of one task's training examples."""

    task_name: str
    rows: NDArray[np.int64]


def plan_epoch(
    lengths: Mapping[str, NDArray[np.int64]],
    batching: Batching,
    seed: int,
    epoch: int,
    progress: float = 0.0,
) -> list[Step]:
    """The steps of an epoch; their number is that of all tasks' batches.

    `round_robin` takes the tasks one after the other, in `task_order`; `even` shuffles all tasks'
    batches together (section 4.2); both use every example once. The other strategies sample each
    step's task with a probability that depends on its number of batches, and reshuffle a task's
    examples when they are used up.

    Args:
        lengths: task -> [N] tokens of each of its N examples, at least 1.
        progress: of the stage, from 0 in its first epoch to 1 in its last, for `annealed`.
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
    """The exponent a: a task of n batches is sampled in proportion to n^a."""
    if batching.strategy == "temperature":
        return 1 / batching.temperature
    return 1 - _ANNEALED_FALL * progress if batching.strategy == "annealed" else 1.0


@dataclass(frozen=True)
class _Passes:
    """The batches of one task, in repeated passes over its examples, reshuffled each time."""

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
    """Every row once, in random batches [B], the last one smaller. `lengths` [N] in tokens."""
    order = random.permutation(len(lengths))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def length_buckets(
    lengths: NDArray[np.int64], batch_size: int, random: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Every row once, in batches [B] of similar length, in random order. `lengths` [N] in
    tokens."""
    order = random.permutation(len(lengths))
    window = batch_size * WINDOW
    batches = []
    for start in range(0, len(order), window):
        rows = order[start : start + window]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]
