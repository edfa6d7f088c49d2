"""Chooses rules, options and a level of cost on the rows of one fold of dev.

Legend: M candidates of a task, L levels, R replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ensemble.candidates.pool import Candidate
from ensemble.choice.cost import Cost
from ensemble.choice.pareto import (
    Level,
    Option,
    Options,
    front_of,
    held_out,
    levels_of,
    options_of,
)
from ensemble.choice.result import Prefer
from ensemble.choice.task_view import TaskView, View
from ensemble.selection.greedy import best_single
from ensemble.selection.rule_selection import RuleChoice, choose_rule, inner_folds
from ensemble.selection.rules import Rule
from ensemble.selection.sample import Combination, FitData, deduplicated, library, scatter
from ensemble.selection.scorers import TOLERANCE
from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import overall_of
from ensemble.statistics.effort import Effort
from trainable.evaluation.metrics import overall

LEVEL_REPLICATES = 200
"""Bootstrap replicates of the standard error by which a half chooses its level; its relative error
is 5 %, which is enough."""


@dataclass(frozen=True)
class Settings:
    """The settings of a choice."""

    rules: Mapping[str, Rule]  # the rules that are compared
    is_library: bool  # whether rules are fitted to a task's best candidates only
    cost: Cost
    max_cost: float  # of what ships
    effort: Effort


@dataclass(frozen=True, eq=False)
class Decision:
    """The rules and options chosen on the rows of a fold."""

    view: View
    simple: Mapping[str, Floats]  # task -> [M] equal weights, the best overall epoch of every run
    rules: Mapping[str, RuleChoice]
    options: Options
    considered: Mapping[str, NDArray[np.int64]]  # task -> candidates that its rule is fitted to
    fits: Mapping[str, Sequence[Combination]]  # task -> of those, fitted without each inner fold


def decide(view: View, settings: Settings, rule_of: Mapping[str, str] | None = None) -> Decision:
    """Choose on the rows of a fold.

    Args:
        rule_of: task -> name of its rule; None: the best rule of each task.
    """
    best_epochs = _best_epoch_of_each_run(view)
    simple, best, selective, considered = {}, {}, {}, {}
    rules: dict[str, RuleChoice] = {}
    fits: dict[str, list[Combination]] = {}
    for name, of_task in view.items():
        in_simple = np.array([c in best_epochs for c in of_task.candidates])
        indices, sample = _fit_data(of_task, in_simple & of_task.pool.listed, settings)
        considered[name] = indices
        if rule_of is None:
            cost = partial(_cost_of, settings.cost, [of_task.candidates[m] for m in indices])
            rules[name], fits[name] = choose_rule(sample, of_task.ids, settings.rules, cost)
        rule = settings.rules[rules[name].rule if rule_of is None else rule_of[name]]
        kept = np.array([m for m in of_task.choosable if in_simple[m]])
        simple[name] = of_task.scatter(kept, 1 / len(kept))
        best[name] = _best_single(of_task)
        selective[name] = scatter(rule(sample), indices, len(of_task.candidates))
    options = options_of(view, best, selective, settings.cost)
    return Decision(view, simple, rules, options, considered, fits)


def _fit_data(
    of_task: TaskView, in_simple: NDArray[np.bool_], settings: Settings
) -> tuple[NDArray[np.int64], FitData]:
    """Return the data that a task's rule is fitted to: the indices of its candidates, and their
    predictions.

    Args:
        in_simple: [M] candidates that the rule `simple` averages.
    """
    some, fit = of_task.choosable, of_task.fold.fit
    order = [of_task.candidates[m].order for m in some]
    kept, sample = deduplicated(
        of_task.task,
        of_task.predictions[np.ix_(some, np.flatnonzero(fit))],
        of_task.labels[fit],
        order,
        in_simple[some].tolist(),
        of_task.averaged,
        settings.effort,
    )
    indices = some[kept]
    if not settings.is_library:
        return indices, sample
    best = library(of_task.task, of_task.singles[indices], of_task.labels[fit])
    return indices[best], sample.among(best)


def choose_level(decision: Decision, settings: Settings, prefer: Prefer | None) -> Option:
    """Return the option at the level that is preferred by cross-fitting within the fold's rows.

    Args:
        prefer: which level; None: all members that the rules chose.
    """
    if prefer is None:
        return unreduced(decision.options, settings.max_cost)
    inner = _inner_options(decision, settings)
    if not inner:  # too few rows for inner folds
        return decision.options.by_cost[0]
    levels = levels_of(decision.options, [options for _, options in inner])
    num_replicates = min(LEVEL_REPLICATES, settings.effort.num_replicates)
    scores = held_out([v for v, _ in inner], [level.of_folds for level in levels], num_replicates)
    total = overall_of(scores, {name: of_task.task for name, of_task in decision.view.items()})
    front = front_of(levels, scores, total, index_of(levels, decision.options.singles))
    return levels[preferred(levels, front, total, prefer, settings.max_cost)].option


def preferred(
    levels: Sequence[Level], front: Sequence[int], total: Floats, prefer: Prefer, max_cost: float
) -> int:
    """Return the index of the preferred level among those on the front that cost at most
    `max_cost`.

    Args:
        front: indices of levels, the cheapest first, each with a better score than all before it.
        total: [L, 1 + R] overall, on the original rows and on each replicate.
    """
    affordable = [n for n, level in enumerate(levels) if level.option.cost <= max_cost] or [0]
    among = [n for n in front if n in affordable]
    if not among:
        return max(affordable, key=lambda n: float(total[n, 0]))
    best = among[-1]
    if prefer is Prefer.SCORE:
        return best
    if prefer is Prefer.SINGLE:
        return max((n for n in among if len(levels[n].option.members) == 1), default=among[0])
    shortfalls = total[best] - total[among]
    is_within_error = shortfalls[:, 0] <= shortfalls[:, 1:].std(axis=1)
    return among[int(is_within_error.argmax())]


def index_of(levels: Sequence[Level], option: Option) -> int:
    """Return the index of an option's level. Options with the same single member share a level."""
    is_option = (level.option is option for level in levels)
    has_members = (level.option.members == option.members for level in levels)
    return list(is_option if len(option.members) > 1 else has_members).index(True)


def unreduced(options: Options, max_cost: float) -> Option:
    """Return what the rules chose, or, if that costs more than `max_cost`, the best option that
    does not."""
    whole = options.selective[0]
    return whole if whole.cost <= max_cost else options.affordable(max_cost)


def _inner_options(decision: Decision, settings: Settings) -> list[tuple[View, Options]]:
    """Return the view and the options of each inner fold of the fold's own rows; only candidates
    that were considered on the whole fold are considered. None where there are too few rows."""
    considered = {
        decision.view[name].candidates[m]
        for name, indices in decision.considered.items()
        for m in indices
    }
    folds = {n: inner_folds(of_task.ids, settings.effort) for n, of_task in decision.view.items()}
    chosen: list[tuple[View, Options]] = []
    for number, judges in enumerate(zip(*folds.values(), strict=True)):
        view: dict[str, TaskView] = {}
        best, selective = {}, {}
        for (name, of_task), judge in zip(decision.view.items(), judges, strict=True):
            if not judge.any() or judge.all():
                return []
            view[name] = of_task.among(considered).within(judge)
            best[name] = _best_single(view[name])
            fitted, indices = decision.fits[name][number], decision.considered[name]
            selective[name] = scatter(fitted, indices, len(of_task.candidates))
        chosen.append((view, options_of(view, best, selective, settings.cost)))
    return chosen


def _best_epoch_of_each_run(view: View) -> set[Candidate]:
    """Return each run's candidate with the best overall score; ties go to the earliest epoch."""
    tasks = {name: of_task.task for name, of_task in view.items()}
    every = {t.candidates[m] for t in view.values() for m in t.choosable}
    best: dict[str, tuple[float, int, Candidate]] = {}
    for candidate in sorted(every, key=lambda c: c.order):
        scores = {n: t.singles[t.index[candidate]] for n, t in view.items() if candidate in t.index}
        scores = {name: float(score) for name, score in scores.items() if np.isfinite(score)}
        entry = (overall(scores, tasks), -candidate.epoch, candidate)
        if candidate.run_id not in best or entry[:2] > best[candidate.run_id][:2]:
            best[candidate.run_id] = entry
    return {candidate for _, _, candidate in best.values()}


def _best_single(of_task: TaskView) -> Floats:
    """Return [M] weight 1 for the task's best candidate; ties are resolved as in greedy
    selection."""
    tied = np.flatnonzero(of_task.singles >= of_task.singles.max() - TOLERANCE)
    fit = of_task.fold.fit
    best = best_single(
        of_task.task,
        of_task.predictions[np.ix_(tied, np.flatnonzero(fit))],
        of_task.labels[fit],
        [of_task.candidates[m].order for m in tied],
        of_task.averaged,
    )
    return of_task.scatter(tied, np.array(best.weights))


def _cost_of(cost: Cost, candidates: Sequence[Candidate], some: NDArray[np.int64]) -> float:
    return cost(candidates[m] for m in some)
