"""Which rule suits a task: asked of the choosing half alone, by repeated cross-fitting.

Each rule is fitted on all folds but one and scored on that one. A rule that promises more on the
rows that it was fitted to than it keeps on the others is not trusted. Of those that are, and are
within one standard error of the best, the one with the cheapest members is taken: what looks better
by less may be luck, and every member is an encoder to run.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.rules import OFFERED, Rule
from ensemble.selection.sample import FitData, weights_and_intercept
from ensemble.statistics.effort import Effort

Floats = NDArray[np.float64]

MAX_OPTIMISM = 0.02
"""What a rule may promise beyond what it keeps, in the task's metric."""


@dataclass(frozen=True)
class RuleScore:
    """A rule's metric on rows that it was not fitted on."""

    rule: str
    score: float  # mean over folds
    optimism: float  # on the rows that it was fitted on, less `score`
    num_members: float  # mean over folds
    cost: float  # of the members together, mean over folds
    behind: float  # the best trusted rule's mean less its own
    standard_error: float  # of `behind`


@dataclass(frozen=True)
class RuleChoice:
    """The rule that is taken, and what every rule is worth."""

    rule: str
    scores: tuple[RuleScore, ...]  # none where there are too few rows to compare by


def choose_rule(
    sample: FitData,
    ids: Sequence[str],
    rules: Mapping[str, Rule] = OFFERED,
    cost: Callable[[NDArray[np.int64]], float] = len,
) -> RuleChoice:
    """The rule with the cheapest members among those that can be trusted and are as good as any.

    Args:
        ids: [N] of the rows; folds follow them, not the rows' order.
        rules: of equals, the first is taken.
        cost: of some of the candidates together, e.g. their parameters; their number unless given.
    """
    by_rule: dict[str, list[tuple[float, float, int, float]]] = {name: [] for name in rules}
    for held_out in _folds(ids, sample.effort):
        train, test = sample.take(~held_out), sample.take(held_out)
        for name, rule in rules.items():
            fitted = rule(train)
            members = np.flatnonzero(weights_and_intercept(fitted)[0])
            scores = test.score(fitted), train.score(fitted)
            by_rule[name].append((*scores, len(members), float(cost(members))))
    if not all(by_rule.values()):
        return RuleChoice(next(iter(rules)), ())
    kept, promised, counts, totals = np.moveaxis(np.array(list(by_rule.values())), 2, 0)
    optimism = (promised - kept).mean(axis=1)
    is_trusted = optimism <= max(MAX_OPTIMISM, float(optimism.min()))
    best = kept[int(np.where(is_trusted, kept.mean(axis=1), -np.inf).argmax())]
    table = [
        RuleScore(
            name,
            float(kept[n].mean()),
            float(optimism[n]),
            float(counts[n].mean()),
            float(totals[n].mean()),
            float((best - kept[n]).mean()),
            _standard_error(best - kept[n], sample.effort.num_folds),
        )
        for n, name in enumerate(by_rule)
    ]
    equals = [
        row
        for row, trusted in zip(table, is_trusted, strict=True)
        if trusted and row.behind <= row.standard_error
    ]
    return RuleChoice(min(equals, key=lambda row: row.cost).rule, tuple(table))


def _folds(ids: Sequence[str], effort: Effort) -> list[NDArray[np.bool_]]:
    """[N] masks of the rows held out, repeats x folds; those without a row left out."""
    masks = []
    for repeat in range(effort.num_repeats):
        fold = np.array([_hash(f"{repeat}\0{row_id}") % effort.num_folds for row_id in ids])
        masks += [fold == number for number in range(effort.num_folds)]
    return [mask for mask in masks if mask.any() and not mask.all()]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _standard_error(differences: Floats, num_folds: int) -> float:
    """Of a mean over repeated folds, whose training rows overlap (Nadeau and Bengio, 2003)."""
    count = len(differences)
    if count < 2:
        return 0.0
    overlap = 1 / count + 1 / (num_folds - 1)
    return math.sqrt(overlap * float(np.var(differences, ddof=1)))
