"""The Pareto front of score against cost, over all tasks together.

An option is a combination of candidates for every task. The options of a fold are: one candidate
for all tasks, the best candidate of each task, and the rules' ensembles with more and more members
removed. A level is an option together with the options of the same cost on other folds, whose
held-out scores are its scores.

Legend: M candidates, N rows, C classes, F folds, L levels, R replicates, S strategies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.candidates.pool import Candidate
from ensemble.choice.cost import Cost
from ensemble.choice.elimination import Weights, eliminated, members_of, thin
from ensemble.choice.task_view import TaskView, View, overall_score
from ensemble.selection.sample import Combination, Linear, min_score, weights_and_intercept
from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import overall_of, resampled_means


@dataclass(frozen=True, eq=False)
class Option:
    """A combination of candidates for every task."""

    combinations: Mapping[str, Combination]  # task -> of its M candidates
    members: tuple[Candidate, ...]  # distinct over all tasks, sorted by `order`
    cost: int  # of the members together
    score: float  # overall, on the rows that it was chosen on


@dataclass(frozen=True, eq=False)
class Options:
    """The options of one fold."""

    one_for_all: Option | None  # the best candidate overall, for all tasks; None: none has them all
    singles: Option  # each task's best candidate
    selective: tuple[Option, ...]  # the rules' ensembles, then with more and more members removed
    models: tuple[Option, ...]  # candidates with all tasks, each better than all cheaper ones

    @property
    def by_cost(self) -> list[Option]:
        """All options, the cheapest first."""
        first = [self.singles] if self.one_for_all is None else [self.one_for_all, self.singles]
        return sorted([*first, *self.models, *self.selective], key=lambda option: option.cost)

    def affordable(self, limit: float) -> Option:
        """Return the option with the best in-sample score that costs at most `limit`; if there is
        none, the cheapest."""
        cheap = [option for option in self.by_cost if option.cost <= limit]
        return max(cheap or self.by_cost[:1], key=lambda option: option.score)


@dataclass(frozen=True, eq=False)
class Level:
    """An option, and for each of several other folds the option of the same kind or cost."""

    option: Option
    of_folds: tuple[Option, ...]  # [F]


def options_of(
    view: View, best: Weights, selective: Mapping[str, Combination], cost: Cost
) -> Options:
    """Return the options of a fold.

    Args:
        best: task -> [M] weight 1 for the task's best candidate.
        selective: task -> what its rule chose.
    """

    def option(combinations: Mapping[str, Combination]) -> Option:
        members = tuple(sorted(members_of(view, combinations), key=lambda c: c.order))
        score = overall_score(view, combinations)
        return Option(combinations, members, cost(members), score)

    scores = _overall_scores(view)
    first = max(scores, key=scores.__getitem__, default=None)  # ties go to the first by `order`
    is_linear = any(isinstance(each, Linear) for each in selective.values())
    steps: list[Mapping[str, Combination]] = [selective]
    if not is_linear:
        weights = {name: weights_and_intercept(one)[0] for name, one in selective.items()}
        chain = eliminated(view, weights, cost)
        steps += [chain[place] for place in thin(len(chain))[1:]]
    return Options(
        one_for_all=None if first is None else option(one_model(view, first)),
        singles=option(best),
        selective=tuple(option(step) for step in steps),
        models=tuple(option(one_model(view, each)) for each in _pareto_optimal(view, scores, cost)),
    )


def levels_of(options: Options, of_folds: Sequence[Options]) -> list[Level]:
    """Return [L] the levels of a fold's options, the cheapest first."""
    levels = []
    if options.one_for_all is not None and all(each.one_for_all is not None for each in of_folds):
        ones = tuple(each.one_for_all for each in of_folds if each.one_for_all is not None)
        levels.append(Level(options.one_for_all, ones))
    known = {level.option.members for level in levels}
    if len(options.singles.members) > 1 or options.singles.members not in known:
        levels.append(Level(options.singles, tuple(each.singles for each in of_folds)))
        known.add(options.singles.members)
    min_cost = max((each.by_cost[0].cost for each in of_folds), default=0)
    for option in (*options.models, *options.selective):
        if (len(option.members) > 1 or option.members not in known) and option.cost >= min_cost:
            known.add(option.members)
            levels.append(Level(option, tuple(each.affordable(option.cost) for each in of_folds)))
    return sorted(levels, key=lambda level: level.option.cost)


def one_model(view: View, candidate: Candidate) -> dict[str, Floats]:
    """Return task -> [M] weight 1 for one candidate, for every task that it has."""
    return {
        name: of_task.scatter([of_task.index[candidate]], 1.0)
        for name, of_task in view.items()
        if candidate in of_task.index
    }


def held_out(
    views: Sequence[View], strategies: Sequence[Sequence[Option]], num_replicates: int
) -> dict[str, Floats]:
    """Return task -> [S, 1 + R] each strategy's metric on held-out rows, averaged over the folds:
    on the original rows, then on each bootstrap replicate, with the same rows for every strategy.

    Args:
        views: [F].
        strategies: [S] of [F] options that each strategy chose on each fold.
    """
    scores = {}
    for seed, name in enumerate(views[0]):
        of_task = [view[name] for view in views]
        known: dict[tuple[int, int], Floats] = {}  # strategies often share an option
        for strategy in strategies:
            for fold, (of_fold, option) in enumerate(zip(of_task, strategy, strict=True)):
                if (fold, id(option)) not in known:
                    combination = option.combinations[name]
                    known[fold, id(option)] = of_fold.outputs(combination, of_fold.fold.judge)
        scores[name] = resampled_means(
            of_task[0].task,
            [
                [known[fold, id(option)] for fold, option in enumerate(strategy)]
                for strategy in strategies
            ],
            of_task[0].labels,
            [of_fold.fold.judge for of_fold in of_task],
            num_replicates,
            seed,
        )
    return scores


def front_of(
    levels: Sequence[Level], scores: Mapping[str, Floats], total: Floats, singles: int
) -> list[int]:
    """Return the indices of the levels on the Pareto front: those better overall than every level
    that costs no more, the cheapest first.

    A level with several members is excluded if a task is clearly worse than with its best single
    candidate. One model for all tasks is never excluded: it is the baseline.

    Args:
        levels: [L] the cheapest first.
        scores: task -> [L, 1 + R].
        total: [L, 1 + R] overall.
        singles: index of the level of each task's best candidate.
    """
    is_worse = np.zeros(len(total), np.bool_)
    for of_task in scores.values():
        differences = of_task[:, 1:] - of_task[singles, 1:]
        is_worse |= np.percentile(differences, 97.5, axis=1) < 0
    is_worse &= [len(level.option.members) > 1 for level in levels]
    front: list[int] = []
    for level in np.flatnonzero(~is_worse).tolist():
        if not front or total[level, 0] > total[front[-1], 0]:
            if front and levels[front[-1]].option.cost == levels[level].option.cost:
                front.pop()
            front.append(level)
    return front


def _overall_scores(view: View) -> dict[Candidate, float]:
    """Return candidate -> overall score for the candidates that have all tasks, in their order."""
    tasks = {name: of_task.task for name, of_task in view.items()}
    first, *others = view.values()
    candidates = (first.candidates[m] for m in first.choosable)
    every = [c for c in candidates if all(c in of_task.index for of_task in others)]
    scores = {n: t.singles[[t.index[c] for c in every]] for n, t in view.items()}
    total = overall_of(scores, tasks)
    scored = {c: float(score) for c, score in zip(every, total, strict=True) if np.isfinite(score)}
    return dict(sorted(scored.items(), key=lambda entry: entry[0].order))


def _pareto_optimal(view: View, scores: Mapping[Candidate, float], cost: Cost) -> list[Candidate]:
    """Return the candidates with a better overall score than all cheaper ones, of those that reach
    `min_score` in every task."""
    least = {name: _min_score(of_task) for name, of_task in view.items()}
    skilled = [
        candidate
        for candidate in scores
        if all(t.singles[t.index[candidate]] >= least[name] for name, t in view.items())
    ]
    front: list[Candidate] = []
    for candidate in sorted(skilled, key=lambda c: (cost([c]), -scores[c])):  # stable
        if not front or scores[candidate] > scores[front[-1]]:
            front.append(candidate)
    return front


def _min_score(of_task: TaskView) -> float:
    best = float(of_task.singles.max())
    return min_score(of_task.task, best, of_task.labels[of_task.fold.fit])
