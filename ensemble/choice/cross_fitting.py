"""Chooses each task's members on all of dev, and scores the choice by cross-fitting.

Dev is split into two halves, several times, by hashes of the rows' ids. On each half everything is
chosen anew (epochs, rules, members and the level of cost), and scored on the other half: the mean
is the cross-fitted score. What ships is then chosen on all of dev, with the rule chosen on
dev-train, at the level of cost preferred by the cross-fitted scores.

Legend: M candidates, N rows, H halves, L levels, R replicates.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.candidates.pool import Pool
from ensemble.choice.cost import Cost
from ensemble.choice.decide import (
    Decision,
    Settings,
    choose_level,
    decide,
    index_of,
    preferred,
    unreduced,
)
from ensemble.choice.gain_curve import curve_of, prefixes
from ensemble.choice.pareto import Level, Option, front_of, held_out, levels_of
from ensemble.choice.result import (
    EnsembleChoice,
    Member,
    Method,
    MethodChoice,
    OneForAll,
    Point,
    Prefer,
    Scores,
    TaskChoice,
)
from ensemble.choice.task_view import TaskView, overall_score, views_of
from ensemble.selection.combine import Averaged
from ensemble.selection.rules import OFFERED, RULES, Rule, capped
from ensemble.selection.sample import Combination, Linear, weights_and_intercept
from ensemble.statistics.bootstrap import Gain, gain_of, overall_of
from ensemble.statistics.effort import SHIPPED, Effort
from mlflow_setup.errors import ConfigError, NothingUsableError
from trainable.runtime.progress import Tally

_Result = TypeVar("_Result")
_BASELINES = (Method.BEST_SINGLE, Method.SIMPLE)


def choose(
    pool: Pool,
    rule: str | None = None,
    max_members: int | None = None,
    max_cost: float | None = None,
    averaged: Averaged = Averaged.PAPER,
    effort: Effort = SHIPPED,
    prefer: Prefer | None = None,
) -> EnsembleChoice:
    """Choose the best single model, the simple average and the selective ensemble of each task.

    Args:
        rule: name of a rule in `ensemble.selection.rules`, for every task; None: the best for each.
        max_members: maximum number of members of a task.
        max_cost: maximum number of parameters of the selective ensemble, over all tasks.
        averaged: what is averaged.
        effort: numbers of folds, rounds and replicates.
        prefer: which level of cost ships; None: balanced, or with a `rule` all of its members.

    Raises:
        ConfigError: there is no such rule, every option costs more than `max_cost`, or `max_cost`
            is given and a candidate's parameters are not recorded.
        NothingUsableError: there is no candidate; the message has the reason for each run.
    """
    if not pool.candidates:
        reasons = [f"{run.trial}: {run.reason}" for run in pool.rejected]
        raise NothingUsableError(
            "\n  ".join(["no run can be a member of an ensemble", *reasons]),
            fix="ensweep leaderboard shows the outcome of each trial",
        )
    if prefer is None and rule is None:
        prefer = Prefer.BALANCED
    cost = Cost.of_pool({c for of_task in pool.tasks.values() for c in of_task.candidates})
    limit = math.inf if max_cost is None else max_cost
    if max_cost is not None:
        cost.require_parameters()
    settings = Settings(_rules(rule, max_members), rule is None, cost, limit, effort)
    # Matrix products here are small: more threads are slower, and rounding depends on their number.
    with threadpool_limits(1, "blas"):
        return _choose(pool, settings, averaged, prefer)


def _choose(
    pool: Pool, settings: Settings, averaged: Averaged, prefer: Prefer | None
) -> EnsembleChoice:
    whole, *views = views_of(pool, averaged)
    tally = Tally("choosing an ensemble", 3 * len(views) + 2)  # parts weighted by their time
    halves = list(_counted(tally, (decide(view, settings) for view in views)))
    rules = {name: choice.rule for name, choice in halves[0].rules.items()}
    final = decide(whole, settings, rules)
    tally.add()
    _check_max_cost(final, settings.max_cost)
    levels = levels_of(final.options, [half.options for half in halves])
    nested = tuple(_counted(tally, (choose_level(half, settings, prefer) for half in halves), 2))
    choice = _Scored(final, halves, levels, nested, settings, prefer).choice()
    tally.add()
    return choice


def _counted(tally: Tally, results: Iterable[_Result], weight: int = 1) -> Iterator[_Result]:
    """Yield the results, adding `weight` to the tally for each."""
    for result in results:
        tally.add(weight)
        yield result


def _rules(rule: str | None, max_members: int | None) -> Mapping[str, Rule]:
    if rule is not None and rule not in RULES:
        raise ConfigError(f"--method {rule}: no such rule", fix=f"one of {', '.join(RULES)}")
    rules = OFFERED if rule is None else {rule: RULES[rule]}
    if max_members is None:
        return rules
    return {name: capped(each, max_members) for name, each in rules.items()}


def _check_max_cost(final: Decision, max_cost: float) -> None:
    combinations = final.options.selective[0].combinations.values()
    if max_cost < math.inf and any(isinstance(each, Linear) for each in combinations):
        raise ConfigError(
            "--max-cost: a linear model cannot be reduced to a cost",
            fix="limit its members, --max-members, or use another --method",
        )
    cheapest = final.options.by_cost[0].cost
    if cheapest > max_cost:
        raise ConfigError(
            f"--max-cost: every option has more than {max_cost / 1e6:g} M parameters",
            fix=f"allow at least {cheapest / 1e6:g} M, the cheapest option",
        )


class _Scored:
    """The choice on all of dev, with the scores of the halves' choices on their held-out rows.

    Scored are several strategies: each level, then the level that each half prefers (nested
    cross-fitting), then equal weights. `nested` and `simple` are the indices of the last two.
    """

    def __init__(
        self,
        final: Decision,
        halves: Sequence[Decision],
        levels: Sequence[Level],
        nested: tuple[Option, ...],
        settings: Settings,
        prefer: Prefer | None,
    ) -> None:
        self.final, self.halves, self.levels = final, halves, levels
        self.settings, self.prefer = settings, prefer
        tasks = {name: of_task.task for name, of_task in final.view.items()}
        simple = tuple(Option(half.simple, (), 0, 0.0) for half in halves)
        self.strategies = [*(level.of_folds for level in levels), nested, simple]
        self.nested, self.simple = len(levels), len(levels) + 1
        self.singles = index_of(levels, final.options.singles)
        views = [half.view for half in halves]
        self.scores = held_out(views, self.strategies, settings.effort.num_replicates)
        self.total = overall_of(self.scores, tasks)
        of_levels = {name: values[: len(levels)] for name, values in self.scores.items()}
        self.front = front_of(levels, of_levels, self.total[: len(levels)], self.singles)
        self.shipped, selective, self.declined = self._shipped()
        self.level = index_of(levels, self.shipped)
        self.strategy_of = {
            Method.BEST_SINGLE: self.singles,
            Method.SIMPLE: self.simple,
            Method.SELECTIVE: selective,
        }
        self.combinations: dict[Method, Mapping[str, Combination]] = {
            Method.BEST_SINGLE: final.options.singles.combinations,
            Method.SIMPLE: final.simple,
            Method.SELECTIVE: self.shipped.combinations,
        }

    def choice(self) -> EnsembleChoice:
        """Return the result."""
        whole = self.final.options.selective[0]
        return EnsembleChoice(
            tasks={name: self._task(name) for name in self.final.view},
            overall={m: self._overall(strategy) for m, strategy in self.strategy_of.items()},
            gains={m: self._gain(self.strategy_of[m]) for m in _BASELINES},
            one_for_all=self._one_for_all(),
            front=self._front(),
            whole=self._point(whole, index_of(self.levels, whole)),
            declined=None if self.declined is None else self._point(self.declined, self.nested),
            cost=self.settings.cost,
            prefer=self.prefer,
        )

    def _shipped(self) -> tuple[Option, int, Option | None]:
        """Return the option that ships, the strategy whose scores are its, and the option that
        would have shipped had its gain over one model for all tasks been clear."""
        max_cost = self.settings.max_cost
        if self.prefer is None:
            return unreduced(self.final.options, max_cost), self.nested, None
        levels, total = self.levels, self.total[: len(self.levels)]
        best = preferred(levels, self.front, total, self.prefer, max_cost)
        single = preferred(levels, self.front, total, Prefer.SINGLE, max_cost)
        gain = gain_of(self.total[self.nested], self.total[single])
        is_one_model = len(levels[single].option.members) == 1
        if best == single and is_one_model:
            return levels[best].option, best, None
        if self.prefer is Prefer.BALANCED and is_one_model and not gain.is_clear:
            return levels[single].option, single, levels[best].option
        return levels[best].option, self.nested, None

    def _task(self, name: str) -> TaskChoice:
        view = self.final.view[name]
        views = [half.view[name] for half in self.halves]
        methods: dict[Method, MethodChoice] = {}
        chosen: dict[Method, list[Combination]] = {}  # on each half
        scores = {m: self.scores[name][strategy] for m, strategy in self.strategy_of.items()}
        for method, strategy in self.strategy_of.items():
            chosen[method] = [option.combinations[name] for option in self.strategies[strategy]]
            pairs = zip(views, chosen[method], strict=True)
            in_sample = _mean(half.score(each, half.fold.fit) for half, each in pairs)
            methods[method] = _method_choice(
                view,
                self.combinations[method][name],
                Scores(held_out=float(scores[method][0]), in_sample=in_sample),
            )
        return TaskChoice(
            metric=str(view.task.metric),
            num_rows=len(view.labels),
            methods=methods,
            rule=self.halves[0].rules[name],
            gains={m: gain_of(scores[Method.SELECTIVE], scores[m]) for m in _BASELINES},
            curve=curve_of(
                views,
                chosen[Method.SELECTIVE],
                chosen[Method.BEST_SINGLE],
                self.settings.effort.curve_replicates,
            ),
        )

    def _overall(self, strategy: int) -> Scores:
        views = [half.view for half in self.halves]
        pairs = zip(views, self.strategies[strategy], strict=True)
        in_sample = _mean(overall_score(v, o.combinations) for v, o in pairs)
        return Scores(held_out=float(self.total[strategy, 0]), in_sample=in_sample)

    def _gain(self, strategy: int) -> Gain:
        return gain_of(self.total[self.strategy_of[Method.SELECTIVE]], self.total[strategy])

    def _one_for_all(self) -> OneForAll | None:
        option = self.final.options.one_for_all
        if option is None or any(half.options.one_for_all is None for half in self.halves):
            return None
        strategy = index_of(self.levels, option)
        return OneForAll(option.members[0], self._overall(strategy), self._gain(strategy))

    def _front(self) -> tuple[Point, ...]:
        options = {strategy: self.levels[strategy].option for strategy in self.front}
        if self.level not in options:  # the user's own rule or members
            options[self.level] = self.shipped
        return tuple(self._point(option, strategy) for strategy, option in options.items())

    def _point(self, option: Option, strategy: int) -> Point:
        gain = gain_of(self.total[self.level], self.total[strategy])
        return Point(option.members, option.cost, self._overall(strategy), gain)


def _method_choice(view: TaskView, combination: Combination, scores: Scores) -> MethodChoice:
    weights, intercept = weights_and_intercept(combination)
    members = [
        Member(view.candidates[m], float(weights[m]), view.transforms[m])
        for m in np.flatnonzero(weights)
    ]
    return MethodChoice(
        members=tuple(sorted(members, key=lambda m: (-abs(m.weight), m.candidate.order))),
        scores=scores,
        trajectory=tuple(view.score(some, view.fold.fit) for some in prefixes(combination)),
        intercept=None if intercept is None else tuple(intercept.tolist()),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
