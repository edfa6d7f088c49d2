"""The rule of a task, chosen on the choosing half alone, by repeated cross-fitting.

Each rule is fitted on all folds but one and scored on that one. The rule is taken that explains the
most of the labels there: log-loss, or r of scores, tells rules apart that accuracy on a few hundred
rows cannot. The cost of members is decided for all tasks together (`ensemble.choice.pareto`).

Legend: N rows.
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
    """A rule's metric on rows that it was not fitted on."""

    rule: str
    score: float  # mean over folds
    optimism: float  # on the rows that it was fitted on, less `score`
    explained: float  # mean over folds: what rules are chosen by
    num_members: float  # mean over folds
    cost: float  # of the members together, mean over folds


@dataclass(frozen=True)
class RuleChoice:
    """The rule that is taken, and every rule's score."""

    rule: str
    scores: tuple[RuleScore, ...]  # none where there are too few rows to compare by


def choose_rule(
    sample: FitData,
    ids: Sequence[str],
    rules: Mapping[str, Rule] = OFFERED,
    cost: Callable[[NDArray[np.int64]], float] = len,
) -> tuple[RuleChoice, list[Combination]]:
    """The rule that explains the most of what it was not fitted on, and what it makes of each fold.

    Args:
        ids: [N] of the rows; folds follow them, not the rows' order.
        rules: of equals, the one with the cheapest members is taken, of those the first.
        cost: of some of the candidates together, e.g. their parameters; their number unless given.

    Returns:
        The choice; what its rule chooses by the rows that each fold does not hold out, those of
        `inner_folds` first; none where there are too few rows.
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
    kept, promised, explained, counts, totals = np.array(list(by_rule.values())).mean(axis=1).T
    table = [
        RuleScore(
            name,
            score=float(kept[n]),
            optimism=float(promised[n] - kept[n]),
            explained=float(explained[n]),
            num_members=float(counts[n]),
            cost=float(totals[n]),
        )
        for n, name in enumerate(by_rule)
    ]
    taken = min(table, key=lambda row: (-row.explained, row.cost)).rule
    return RuleChoice(taken, tuple(table)), fits[taken]


def inner_folds(ids: Sequence[str], effort: Effort) -> list[NDArray[np.bool_]]:
    """[N] masks of the rows that each fold holds out, the first time over; all rows, or none, where
    there are too few."""
    return _folds(ids, effort, 0)


def _folds(ids: Sequence[str], effort: Effort, repeat: int) -> list[NDArray[np.bool_]]:
    fold = np.array([_hash(f"{repeat}\0{row_id}") % effort.num_folds for row_id in ids])
    return [fold == number for number in range(effort.num_folds)]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
