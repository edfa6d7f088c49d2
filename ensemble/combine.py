"""How members' outputs become one output; the same code for selection and for serving.

Averaged are class probabilities, paraphrase logits and similarity scores, as the paper does.

Legend: N rows, C classes. Outputs are what a head puts out: logits [N, C] (classification), one
logit [N] (paraphrase), a score [N] (similarity). Votes are what is averaged.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainable.tasks import Kind, Task

Floats = NDArray[np.floating[Any]]

GRID = 2**20
"""Steps in 1 of a vote that is compared with another or with 0: its sums are exact in float64, in
any order, so that equal votes tie on every machine."""
_FINE_GRID = 2**32
"""Steps in 1 of an average. Averages of k members are equal or GRID * k steps apart: a coarser grid
than this for any k below 4096, so rounding undoes the error of k / total and nothing else."""


def combine(
    task: Task, member_outputs: Sequence[Floats], weights: Sequence[float]
) -> NDArray[np.float64]:
    """One output from raw outputs, weighted: probabilities [N, C], a logit [N] or a score [N].

    `trainable.metrics` reads it like any output: the arg-max is the class, a logit above 0 is 1.

    Raises:
        ValueError: no member, or not one finite weight of at least 0 for each, with a sum of 1.
    """
    return average(task, [to_vote(task, outputs) for outputs in member_outputs], weights)


def to_vote(task: Task, outputs: Floats) -> NDArray[np.float64]:
    """What is averaged: softmax probabilities [N, C], logits [N] or scores [N].

    Raises:
        ValueError: if the task is entailment, which has no outputs.
    """
    values = np.asarray(outputs, np.float64)
    if task.kind is Kind.ENTAILMENT:
        raise ValueError("an entailment task has no outputs to combine")
    if task.kind is Kind.SIMILARITY:
        return values
    if task.kind is Kind.CLASSIFICATION:
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        values = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.rint(values * GRID) / GRID


def average(
    task: Task, votes: Sequence[Floats] | Floats, weights: Sequence[float]
) -> NDArray[np.float64]:
    """`combine` for votes; members of weight 0 are not looked at.

    Raises:
        ValueError: as `combine`.
    """
    if not len(votes) == len(weights) > 0:
        raise ValueError(f"{len(votes)} members but {len(weights)} weights")
    if not (min(weights) >= 0 and abs(sum(weights) - 1) < 1e-9):
        raise ValueError(f"weights must be at least 0 and sum to 1, got {list(weights)}")
    total = np.zeros_like(votes[0], np.float64)
    for vote, weight in zip(votes, weights, strict=True):
        if weight > 0:
            total += weight * vote
    return total if task.kind is Kind.SIMILARITY else np.rint(total * _FINE_GRID) / _FINE_GRID
