"""The candidates of each task: chosen on all of dev, scored by cross-fitting.

Dev is cut in two, several times over, by hashes of the rows' ids. Each half chooses, epochs and
rules and members and the level of cost alike, and what it chose is scored on the other: that is
the choice's cross-fitted score. What is kept is then chosen on all of dev, by the rule that
dev-train settled on, at the level of cost that the halves' scores prefer.

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
    Terms,
    as_it_is,
    choose_level,
    decide,
    place_of,
    preferred,
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


def choose(
    pool: Pool,
    rule: str | None = None,
    max_members: int | None = None,
    max_cost: float | None = None,
    averaged: Averaged = Averaged.PAPER,
    effort: Effort = SHIPPED,
    prefer: Prefer | None = None,
) -> EnsembleChoice:
    """Best single, simple and selective for each task of the pool.

    Args:
        rule: of `ensemble.selection.rules`, for every task; None: the one that suits the task.
        max_members: of a task, at most.
        max_cost: parameters of selective's distinct encoders over all tasks, at most.
        averaged: what is averaged.
        effort: how often what is random, or has an interval, is repeated.
        prefer: which level of cost ships; None: balanced, but a `rule`'s members as they are.

    Raises:
        ConfigError: there is no such rule, nothing is as cheap as `max_cost`, or what candidates
            cost is not recorded.
        NothingUsableError: no candidate; the message has the reason for each run.
    """
    if not pool.candidates:
        reasons = [f"{run.trial}: {run.reason}" for run in pool.rejected]
        raise NothingUsableError(
            "\n  ".join(["no run can be a member of an ensemble", *reasons]),
            fix="ensweep leaderboard shows what became of each trial",
        )
    if prefer is None and rule is None:
        prefer = Prefer.BALANCED
    limit = math.inf if max_cost is None else max_cost
    terms = Terms(_rules(rule, max_members), rule is None, _cost(pool, max_cost), limit, effort)
    # Products here are small: more threads wait for each other, and round by their number.
    with threadpool_limits(1, "blas"):
        return _choose(pool, terms, averaged, prefer)


def _choose(pool: Pool, terms: Terms, averaged: Averaged, prefer: Prefer | None) -> EnsembleChoice:
    whole, *views = views_of(pool, averaged)
    tally = Tally("choosing an ensemble", 3 * len(views) + 2)  # by what each part takes
    halves = list(_told(tally, (decide(view, terms) for view in views)))
    suited = {name: choice.rule for name, choice in halves[0].rules.items()}
    final = decide(whole, terms, suited)
    tally.add()
    _require_cheap(final, terms.max_cost)
    levels = levels_of(final.options, [half.options for half in halves])
    nested = tuple(_told(tally, (choose_level(half, terms, prefer) for half in halves), 2))
    choice = _Scored(final, halves, levels, nested, terms, prefer).choice()
    tally.add()
    return choice


def _told(tally: Tally, results: Iterable[_Result], weight: int = 1) -> Iterator[_Result]:
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


def _cost(pool: Pool, max_cost: float | None) -> Cost:
    everyone = {c for task_pool in pool.tasks.values() for c in task_pool.candidates}
    cost = Cost.of_pool(everyone)
    if max_cost is not None and not cost.is_in_parameters:
        unknown = min(c.label for c in everyone if not (c.num_parameters or c.is_added))
        raise ConfigError(
            f"--max-cost: the parameters of {unknown} are not recorded",
            fix="cap the members instead: --max-members",
        )
    return cost


def _require_cheap(final: Decision, max_cost: float) -> None:
    if max_cost == math.inf:
        return
    if any(isinstance(c, Linear) for c in final.options.selective[0].combinations.values()):
        raise ConfigError(
            "--max-cost: a linear model cannot be cut down to a cost",
            fix="cap its members, --max-members, or take another --method",
        )
    least = final.options.every[0].cost
    if least > max_cost:
        raise ConfigError(
            f"--max-cost: nothing is as cheap as {max_cost / 1e6:g} M parameters",
            fix=f"the cheapest costs {least / 1e6:g} M",
        )


class _Scored:
    """What all of dev and its halves choose, scored on the held-out rows.

    Ways to choose are the levels, then the level that each half prefers, then equal weights.
    """

    def __init__(
        self,
        final: Decision,
        halves: Sequence[Decision],
        levels: Sequence[Level],
        nested: tuple[Option, ...],
        terms: Terms,
        prefer: Prefer | None,
    ) -> None:
        self.final, self.halves, self.levels = final, halves, levels
        self.terms, self.prefer = terms, prefer
        self.tasks = {name: of_task.task for name, of_task in final.view.items()}
        simple = tuple(Option(half.simple, (), 0, 0.0) for half in halves)
        self.ways = [*(level.of_folds for level in levels), nested, simple]
        self.nested, self.simple = len(levels), len(levels) + 1
        self.singles = place_of(levels, final.options.singles)
        views = [half.view for half in halves]
        self.scores = held_out(views, self.ways, terms.effort.num_replicates)
        self.total = overall_of(self.scores, self.tasks)
        of_levels = {name: values[: len(levels)] for name, values in self.scores.items()}
        self.front = front_of(levels, of_levels, self.total[: len(levels)], self.singles)
        self.shipped, self.way, self.declined = self._shipped()
        self.level = self._level(self.shipped)

    def choice(self) -> EnsembleChoice:
        """All of it as a result."""
        ways = {
            Method.BEST_SINGLE: (self.final.options.singles.combinations, self.singles),
            Method.SIMPLE: (self.final.simple, self.simple),
            Method.SELECTIVE: (self.shipped.combinations, self.way),
        }
        whole = self.final.options.selective[0]
        return EnsembleChoice(
            tasks={name: self._task(name, ways) for name in self.tasks},
            overall={method: self._overall(way) for method, (_, way) in ways.items()},
            gains={m: self._gain(ways[m][1]) for m in (Method.BEST_SINGLE, Method.SIMPLE)},
            one_for_all=self._one_for_all(),
            front=self._front(),
            whole=self._point(whole, self._level(whole)),
            declined=None if self.declined is None else self._point(self.declined, self.nested),
            cost=self.terms.cost,
            prefer=self.prefer,
        )

    def _shipped(self) -> tuple[Option, int, Option | None]:
        """What ships, its cross-fitted score, and what would have shipped,
        had its gain over one model for all been clear."""
        max_cost = self.terms.max_cost
        if self.prefer is None:
            return as_it_is(self.final.options, max_cost), self.nested, None
        levels, total = self.levels, self.total[: len(self.levels)]
        place = preferred(levels, self.front, total, self.prefer, max_cost)
        single = preferred(levels, self.front, total, Prefer.SINGLE, max_cost)
        gain = gain_of(self.total[self.nested], self.total[single])
        is_one = len(levels[single].option.members) == 1
        if place == single and is_one:
            return levels[place].option, place, None
        if self.prefer is Prefer.BALANCED and is_one and not gain.is_clear:
            return levels[single].option, single, levels[place].option
        return levels[place].option, self.nested, None

    def _task(
        self, name: str, ways: Mapping[Method, tuple[Mapping[str, Combination], int]]
    ) -> TaskChoice:
        view = self.final.view[name]
        views = [half.view[name] for half in self.halves]
        chosen = {m: [o.combinations[name] for o in self.ways[way]] for m, (_, way) in ways.items()}
        values = {method: self.scores[name][way] for method, (_, way) in ways.items()}
        ours = values[Method.SELECTIVE]
        return TaskChoice(
            metric=str(view.task.metric),
            num_rows=len(view.labels),
            methods={
                method: _method_choice(
                    view,
                    combinations[name],
                    Scores(
                        held_out=float(values[method][0]),
                        in_sample=_mean(
                            v.score(c, v.fold.fit)
                            for v, c in zip(views, chosen[method], strict=True)
                        ),
                    ),
                )
                for method, (combinations, _) in ways.items()
            },
            rule=self.halves[0].rules[name],
            gains={m: gain_of(ours, values[m]) for m in (Method.BEST_SINGLE, Method.SIMPLE)},
            curve=curve_of(
                views,
                chosen[Method.SELECTIVE],
                chosen[Method.BEST_SINGLE],
                self.terms.effort.curve_replicates,
            ),
        )

    def _overall(self, way: int) -> Scores:
        views = [half.view for half in self.halves]
        pairs = zip(views, self.ways[way], strict=True)
        in_sample = _mean(overall_score(v, o.combinations) for v, o in pairs)
        return Scores(held_out=float(self.total[way, 0]), in_sample=in_sample)

    def _gain(self, way: int) -> Gain:
        return gain_of(self.total[self.way], self.total[way])

    def _one_for_all(self) -> OneForAll | None:
        option = self.final.options.one
        if option is None or any(half.options.one is None for half in self.halves):
            return None
        way = self._level(option)
        return OneForAll(option.members[0], self._overall(way), self._gain(way))

    def _front(self) -> tuple[Point, ...]:
        options = {way: self.levels[way].option for way in self.front}
        if self.level not in options:  # as it was asked for
            options[self.level] = self.shipped
        return tuple(self._point(option, way) for way, option in options.items())

    def _level(self, option: Option) -> int:
        """Where an option is among the levels."""
        return place_of(self.levels, option)

    def _point(self, option: Option, way: int) -> Point:
        gain = gain_of(self.total[self.level], self.total[way])
        return Point(option.members, option.cost, self._overall(way), gain)


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
