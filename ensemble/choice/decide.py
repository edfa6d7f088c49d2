"""One fold of dev -> what it chooses by its own rows alone: rules, options, and a level of cost.

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
"""Of the standard error by which a half chooses its level: 5 % of it is noise, which is enough."""


@dataclass(frozen=True)
class Terms:
    """What a choice keeps to."""

    rules: Mapping[str, Rule]  # what a task may choose from
    is_library: bool  # rules look at a task's best candidates alone
    cost: Cost
    max_cost: float  # of what ships
    effort: Effort


@dataclass(frozen=True, eq=False)
class Decision:
    """What the rows of a fold choose."""

    view: View
    simple: Mapping[str, Floats]  # task -> [M] equal weights, the best overall epoch of every run
    rules: Mapping[str, RuleChoice]
    options: Options
    looked_at: Mapping[str, NDArray[np.int64]]  # task -> which candidates its rule sees
    fits: Mapping[str, Sequence[Combination]]  # task -> of those, by each fold of its own rows


def decide(view: View, terms: Terms, given: Mapping[str, str] | None = None) -> Decision:
    """Choose on the rows of a fold.

    Args:
        given: task -> the rule to fit; those that suit the tasks unless given.
    """
    plain = _best_epoch_of_each_run(view)
    simple, best, selective, looked_at = {}, {}, {}, {}
    rules: dict[str, RuleChoice] = {}
    fits: dict[str, list[Combination]] = {}
    for name, of_task in view.items():
        in_simple = np.array([c in plain for c in of_task.candidates])
        places, sample = _fit_data(of_task, in_simple & of_task.pool.listed, terms)
        looked_at[name] = places
        if given is None:
            cost = partial(_cost_of, terms.cost, [of_task.candidates[m] for m in places])
            rules[name], fits[name] = choose_rule(sample, of_task.ids, terms.rules, cost)
        rule = terms.rules[rules[name].rule if given is None else given[name]]
        kept = np.array([m for m in of_task.choosable if in_simple[m]])
        simple[name] = of_task.scatter(kept, 1 / len(kept))
        best[name] = _best_single(of_task)
        selective[name] = scatter(rule(sample), places, len(of_task.candidates))
    options = options_of(view, best, selective, terms.cost)
    return Decision(view, simple, rules, options, looked_at, fits)


def _fit_data(
    of_task: TaskView, in_simple: NDArray[np.bool_], terms: Terms
) -> tuple[NDArray[np.int64], FitData]:
    """What a rule sees of a task: which of the M candidates, and their predictions.

    Args:
        in_simple: [M] what equal weights are for.
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
        terms.effort,
    )
    places = some[kept]
    if not terms.is_library:
        return places, sample
    worth = library(of_task.task, of_task.singles[places], of_task.labels[fit])
    return places[worth], sample.among(worth)


def choose_level(decision: Decision, terms: Terms, prefer: Prefer | None) -> Option:
    """The option of the level that the fold's rows prefer, by cross-fitting among them.

    Args:
        prefer: None: what the rules chose, as it is.
    """
    if prefer is None:
        return as_it_is(decision.options, terms.max_cost)
    inner = _inner(decision, terms)
    if not inner:  # too few rows to tell
        return decision.options.every[0]
    levels = levels_of(decision.options, [options for _, options in inner])
    num_replicates = min(LEVEL_REPLICATES, terms.effort.num_replicates)
    scores = held_out([v for v, _ in inner], [level.of_folds for level in levels], num_replicates)
    total = overall_of(scores, {name: of_task.task for name, of_task in decision.view.items()})
    front = front_of(levels, scores, total, place_of(levels, decision.options.singles))
    return levels[preferred(levels, front, total, prefer, terms.max_cost)].option


def preferred(
    levels: Sequence[Level], front: Sequence[int], total: Floats, prefer: Prefer, max_cost: float
) -> int:
    """The level that is preferred among those on the front.

    Args:
        front: the levels' places, the cheapest first, each with a better score than all before it.
        total: [L, 1 + R] overall, of the rows as they are and of each replicate.
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
    behind = total[best] - total[among]
    within = behind[:, 0] <= behind[:, 1:].std(axis=1)
    return among[int(within.argmax())]


def place_of(levels: Sequence[Level], option: Option) -> int:
    """Where an option is among the levels; a candidate alone is there once."""
    same = (level.option is option for level in levels)
    alone = (level.option.members == option.members for level in levels)
    return list(same if len(option.members) > 1 else alone).index(True)


def as_it_is(options: Options, max_cost: float) -> Option:
    """What the rules chose, or the best that is as cheap."""
    whole = options.selective[0]
    return whole if whole.cost <= max_cost else options.affordable(max_cost)


def _inner(decision: Decision, terms: Terms) -> list[tuple[View, Options]]:
    """What the fold's own folds choose, each by its rows, among what the whole fold looks at."""
    looked_at = {
        decision.view[name].candidates[m]
        for name, places in decision.looked_at.items()
        for m in places
    }
    folds = {n: inner_folds(of_task.ids, terms.effort) for n, of_task in decision.view.items()}
    chosen: list[tuple[View, Options]] = []
    for number, judges in enumerate(zip(*folds.values(), strict=True)):
        view: dict[str, TaskView] = {}
        best, selective = {}, {}
        for (name, of_task), judge in zip(decision.view.items(), judges, strict=True):
            if not judge.any() or judge.all():
                return []
            view[name] = of_task.among(looked_at).within(judge)
            best[name] = _best_single(view[name])
            fitted, places = decision.fits[name][number], decision.looked_at[name]
            selective[name] = scatter(fitted, places, len(of_task.candidates))
        chosen.append((view, options_of(view, best, selective, terms.cost)))
    return chosen


def _best_epoch_of_each_run(view: View) -> set[Candidate]:
    """Each run's candidate with the best overall; of equals, the earliest epoch."""
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
    """[M] weight 1 for the task's best candidate, with the ties of greedy selection."""
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
