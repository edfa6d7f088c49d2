"""The front of score against cost: candidates for every task at once, a point a level of cost.

An option names each task's members. A fold has one candidate for all tasks, the best candidate of
each task, and what is left of the rule's ensembles when one encoder after the other goes. A level
is an option with what other folds choose for as much: so it is scored on held-out rows.

Legend: M candidates, N rows, C classes, F folds, L levels, R replicates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.candidates.pool import Candidate
from ensemble.choice.cost import Cost
from ensemble.choice.elimination import Weights, eliminated, members_of, thinned
from ensemble.choice.task_view import TaskView, View, overall_score
from ensemble.selection.sample import Combination, Linear, min_score, weights_and_intercept
from ensemble.statistics.arrays import Floats
from ensemble.statistics.bootstrap import overall_of, resampled_means


@dataclass(frozen=True, eq=False)
class Option:
    """One way to answer every task."""

    combinations: Mapping[str, Combination]  # task -> of its M candidates
    members: tuple[Candidate, ...]  # distinct over all tasks, by `order`
    cost: int  # of the members together
    score: float  # overall on the rows that chose it


@dataclass(frozen=True, eq=False)
class Options:
    """What one fold can choose from."""

    one: Option | None  # the candidate that is best overall, for all tasks; None: none has them all
    singles: Option  # each task's best candidate
    selective: tuple[Option, ...]  # the rules' ensembles, then what is left as encoders go
    alone: tuple[Option, ...]  # candidates with all tasks, each better than all cheaper ones

    @property
    def every(self) -> list[Option]:
        """The cheapest first."""
        first = [self.singles] if self.one is None else [self.one, self.singles]
        return sorted([*first, *self.alone, *self.selective], key=lambda option: option.cost)

    def affordable(self, limit: float) -> Option:
        """The best on the fold's own rows of those that cost no more, or else the cheapest."""
        cheap = [option for option in self.every if option.cost <= limit]
        return max(cheap or self.every[:1], key=lambda option: option.score)


@dataclass(frozen=True, eq=False)
class Level:
    """An option, and what each of other folds chooses for as much."""

    option: Option
    of_folds: tuple[Option, ...]  # [F]


def options_of(
    view: View, best: Weights, selective: Mapping[str, Combination], cost: Cost
) -> Options:
    """What a fold can choose from.

    Args:
        best: each task's best candidate, of weight 1; selective: what the rules chose.
    """

    def option(combinations: Mapping[str, Combination]) -> Option:
        members = tuple(sorted(members_of(view, combinations), key=lambda c: c.order))
        score = overall_score(view, combinations)
        return Option(combinations, members, cost(members), score)

    complete = _complete(view)
    first = max(complete, key=complete.__getitem__, default=None)  # of equals, the first by `order`
    is_linear = any(isinstance(each, Linear) for each in selective.values())
    steps: list[Mapping[str, Combination]] = [selective]
    if not is_linear:
        weights = {name: weights_and_intercept(one)[0] for name, one in selective.items()}
        chain = eliminated(view, weights, cost)
        steps += [chain[place] for place in thinned(len(chain))[1:]]
    return Options(
        one=None if first is None else option(alone(view, first)),
        singles=option(best),
        selective=tuple(option(step) for step in steps),
        alone=tuple(option(alone(view, candidate)) for candidate in _worth(view, complete, cost)),
    )


def levels_of(options: Options, of_folds: Sequence[Options]) -> list[Level]:
    """[L] the options of a fold as levels, the cheapest first."""
    levels = []
    if options.one is not None and all(each.one is not None for each in of_folds):
        ones = tuple(each.one for each in of_folds if each.one is not None)
        levels.append(Level(options.one, ones))
    known = {level.option.members for level in levels}
    if len(options.singles.members) > 1 or options.singles.members not in known:
        levels.append(Level(options.singles, tuple(each.singles for each in of_folds)))
        known.add(options.singles.members)
    least = max((each.every[0].cost for each in of_folds), default=0)
    for option in (*options.alone, *options.selective):
        if (len(option.members) > 1 or option.members not in known) and option.cost >= least:
            known.add(option.members)
            levels.append(Level(option, tuple(each.affordable(option.cost) for each in of_folds)))
    return sorted(levels, key=lambda level: level.option.cost)


def alone(view: View, candidate: Candidate) -> dict[str, Floats]:
    """Task -> [M]: a candidate alone, for every task that it has."""
    return {
        name: of_task.scatter([of_task.index[candidate]], 1.0)
        for name, of_task in view.items()
        if candidate in of_task.index
    }


def held_out(
    views: Sequence[View], ways: Sequence[Sequence[Option]], num_replicates: int
) -> dict[str, Floats]:
    """Task -> [ways, 1 + R] the metric on held-out rows, the mean over the folds: of the
    rows as they are, then of each bootstrap replicate, the same rows for every way.

    Args:
        views: [F]; ways: for each way to choose, what each fold chose, [F].
    """
    scores = {}
    for seed, name in enumerate(views[0]):
        of_task = [view[name] for view in views]
        known: dict[tuple[int, int], Floats] = {}  # ways often have an option in common
        for way in ways:
            for fold, (of_fold, option) in enumerate(zip(of_task, way, strict=True)):
                if (fold, id(option)) not in known:
                    combination = option.combinations[name]
                    known[fold, id(option)] = of_fold.outputs(combination, of_fold.fold.judge)
        scores[name] = resampled_means(
            of_task[0].task,
            [[known[fold, id(option)] for fold, option in enumerate(way)] for way in ways],
            of_task[0].labels,
            [of_fold.fold.judge for of_fold in of_task],
            num_replicates,
            seed,
        )
    return scores


def front_of(
    levels: Sequence[Level], scores: Mapping[str, Floats], total: Floats, singles: int
) -> list[int]:
    """The levels that are better than all that cost no more, the cheapest first.

    A level of several members at which a task is clearly worse than by its best candidate alone is
    none of them; one model for all is what the others have to be clearly better than.

    Args:
        levels: [L] the cheapest first; scores: task -> [L, 1 + R]; total: [L, 1 + R] overall.
        singles: which level is that of each task's best candidate.
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


def _complete(view: View) -> dict[Candidate, float]:
    """The candidates that have all tasks, by `order`, and overall of each."""
    tasks = {name: of_task.task for name, of_task in view.items()}
    first, *others = view.values()
    candidates = (first.candidates[m] for m in first.choosable)
    every = [c for c in candidates if all(c in of_task.index for of_task in others)]
    scores = {n: t.singles[[t.index[c] for c in every]] for n, t in view.items()}
    total = overall_of(scores, tasks)
    found = {c: float(score) for c, score in zip(every, total, strict=True) if np.isfinite(score)}
    return dict(sorted(found.items(), key=lambda entry: entry[0].order))


def _worth(view: View, complete: Mapping[Candidate, float], cost: Cost) -> list[Candidate]:
    """Candidates that are better than all cheaper ones, and skilled at every task."""
    least = {name: _least(of_task) for name, of_task in view.items()}
    skilled = [
        candidate
        for candidate in complete
        if all(t.singles[t.index[candidate]] >= least[name] for name, t in view.items())
    ]
    worth: list[Candidate] = []
    for candidate in sorted(skilled, key=lambda c: (cost([c]), -complete[c])):  # stable
        if not worth or complete[candidate] > complete[worth[-1]]:
            worth.append(candidate)
    return worth


def _least(of_task: TaskView) -> float:
    best = float(of_task.singles.max())
    return min_score(of_task.task, best, of_task.labels[of_task.fold.fit])
