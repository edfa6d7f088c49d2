"""Chooses the rule of a task by repeated cross-validation within the rows that a fold chooses on.

Each rule is fitted on all folds but one and scored on that one. The rule that explains the most of
the held-out labels wins: log-loss, or r of scores, distinguishes rules that accuracy on a few
hundred rows cannot. The cost of members is decided for all tasks together
(`ensemble.choice.pareto`).

Legend: N rows, M candidates.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.selection.rules import OFFERED, Rule
from ensemble.selection.sample import Combination, FitData, weights_and_intercept
from ensemble.statistics.effort import Effort


@dataclass(frozen=True)
class RuleScore:
    """A rule's cross-validated scores: means over the held-out folds."""

    rule: str
    score: float  # the task's metric
    optimism: float  # the metric on the rows that the rule was fitted on, minus `score`
    explained: float  # share of the labels explained, by which rules are compared
    num_members: float
    cost: float  # of the members together


@dataclass(frozen=True)
class RuleChoice:
    """The best rule, and every rule's scores."""

    rule: str
    scores: tuple[RuleScore, ...]  # none where there are too few rows to compare rules


def choose_rule(
    sample: FitData,
    ids: Sequence[str],
    rules: Mapping[str, Rule] = OFFERED,
    cost: Callable[[NDArray[np.int64]], float] = len,
) -> tuple[RuleChoice, list[Combination]]:
    """Choose the rule that explains the most of the held-out labels.

    Args:
        ids: [N] of the rows; a row's fold is a hash of its id.
        rules: name -> rule; ties go to the cheapest members, then to the first rule.
        cost: of some of the candidates [k] together, for example their parameters; default: their
            number.

    Returns:
        The choice, and the combination that its rule fits to the rows outside each fold, starting
        with those of `inner_folds`; none where there are too few rows.
    """
    by_rule: dict[str, list[tuple[float, ...]]] = {name: [] for name in rules}
    fits: dict[str, list[Combination]] = {name: [] for name in rules}
    repeats = (_folds(ids, sample.effort, repeat) for repeat in range(sample.effort.num_repeats))
    for held_out in (mask for masks in repeats for mask in masks if mask.any() and not mask.all()):
        train, test = sample.take(~held_out), sample.take(held_out)
        for name, rule in rules.items():
            fitted = rule(train)
            fits[name].append(fitted)
            members = np.flatnonzero(weights_and_intercept(fitted)[0])
            scores = test.score(fitted), train.score(fitted), test.explained(fitted)
            by_rule[name].append((*scores, len(members), float(cost(members))))
    if not all(by_rule.values()):
        return RuleChoice(next(iter(rules)), ()), []
    table = []
    for name, of_folds in by_rule.items():
        held_out, in_sample, explained, num_members, total = np.mean(of_folds, axis=0).tolist()
        optimism = in_sample - held_out
        table.append(RuleScore(name, held_out, optimism, explained, num_members, total))
    best = min(table, key=lambda row: (-row.explained, row.cost)).rule
    return RuleChoice(best, tuple(table)), fits[best]


def inner_folds(ids: Sequence[str], effort: Effort) -> list[NDArray[np.bool_]]:
    """Return masks [N] of the rows that each fold of the first repetition holds out; with too few
    rows, a fold may hold out all of them or none."""
    return _folds(ids, effort, 0)


def _folds(ids: Sequence[str], effort: Effort, repeat: int) -> list[NDArray[np.bool_]]:
    fold = np.array([_hash(f"{repeat}\0{row_id}") % effort.num_folds for row_id in ids])
    return [fold == number for number in range(effort.num_folds)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
