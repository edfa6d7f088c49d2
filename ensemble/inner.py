"""Which rule suits a task: asked of the choosing half alone, by repeated cross-fitting.

Each rule is fitted on all folds but one and scored on that one. The simplest rule within one
standard error of the best is taken: what looks better by less may be luck.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.rules import OFFERED, Rule, Sample

NUM_FOLDS, NUM_REPEATS = 5, 3


@dataclass(frozen=True)
class RuleScore:
    """A rule's metric on rows that it was not fitted on."""

    rule: str
    score: float  # mean over folds
    behind: float  # the best rule's mean less its own
    standard_error: float  # of `behind`


@dataclass(frozen=True)
class RuleChoice:
    """The rule that is taken, and what every rule is worth; the simplest first."""

    rule: str
    scores: tuple[RuleScore, ...]


def choose_rule(
    sample: Sample, ids: Sequence[str], rules: Mapping[str, Rule] = OFFERED
) -> RuleChoice:
    """The simplest rule within one standard error of the best.

    Args:
        ids: [N] of the rows; folds follow them, not the rows' order.
        rules: the simplest first.
    """
    found = {name: [] for name in rules}  # type: dict[str, list[float]]
    for held_out in _folds(ids):
        rest, judged = sample.take(~held_out), sample.take(held_out)
        for name, rule in rules.items():
            found[name].append(judged.score(rule(rest)))
    scores = np.array(list(found.values()))  # [rules, folds]
    best = scores[int(scores.mean(axis=1).argmax())]
    table = []
    for name, values in zip(found, scores, strict=True):
        behind = best - values
        table.append(
            RuleScore(name, float(values.mean()), float(behind.mean()), _standard_error(behind))
        )
    taken = next(row for row in table if row.behind <= row.standard_error)
    return RuleChoice(taken.rule, tuple(table))


def _folds(ids: Sequence[str]) -> list[NDArray[np.bool_]]:
    """[N] masks of the rows held out, `NUM_REPEATS` x `NUM_FOLDS`; those without a row left out."""
    masks = []
    for repeat in range(NUM_REPEATS):
        fold = np.array([_hash(f"{repeat}\0{row_id}") % NUM_FOLDS for row_id in ids])
        masks += [fold == number for number in range(NUM_FOLDS)]
    return [mask for mask in masks if mask.any() and not mask.all()]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _standard_error(differences: NDArray[np.float64]) -> float:
    """Of a mean over repeated folds, whose training rows overlap (Nadeau and Bengio, 2003)."""
    count = len(differences)
    if count < 2:
        return 0.0
    overlap = 1 / count + 1 / (NUM_FOLDS - 1)
    return math.sqrt(overlap * float(np.var(differences, ddof=1)))
