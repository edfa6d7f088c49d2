"""Which candidates answer for each task: chosen on all of dev, judged by cross-fitting.

Dev is cut in two, several times over, by hashes of the rows' ids. Each half chooses, epochs and
rules and members alike, and what it chose is scored on the other: that is what so choosing is
worth. What is kept is then chosen on all of dev, by the rule that dev-train settled on.

Legend: M candidates, N rows, H halves.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from ensemble.candidates.pool import Pool
from ensemble.choice.decide import Chooser, Decision, Weights
from ensemble.choice.gain_curve import curve_of, prefixes
from ensemble.choice.result import (
    EnsembleChoice,
    Member,
    Method,
    MethodChoice,
    OneForAll,
    Point,
    Scores,
    TaskChoice,
)
from ensemble.choice.task_view import WHOLE, TaskPredictions
from ensemble.selection.combine import Averaged
from ensemble.selection.rules import OFFERED, RULES, Rule, capped
from ensemble.selection.sample import Combination, weights_and_intercept
from ensemble.statistics.bootstrap import Gain, gain_of_halves, overall_gain
from ensemble.statistics.dev_splits import NUM_HALVES
from ensemble.statistics.effort import SHIPPED, Effort
from mlflow_setup.errors import ConfigError, NothingUsableError
from trainable.evaluation.metrics import overall

HALVES = range(1, 1 + NUM_HALVES)
DEV_TRAIN = 1


def choose(
    pool: Pool,
    rule: str | None = None,
    max_members: int | None = None,
    max_cost: float | None = None,
    averaged: Averaged = Averaged.PAPER,
    effort: Effort = SHIPPED,
) -> EnsembleChoice:
    """Best single, simple and selective for each task of the pool.

    Args:
        rule: of `ensemble.selection.rules`, for every task; None: the one that suits the task.
        max_members: of a task, at most.
        max_cost: parameters of selective's distinct encoders over all tasks, at most.
        averaged: what is averaged.
        effort: how often what is random, or has an interval, is repeated.

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
    chooser = Chooser(pool, _rules(rule, max_members), max_cost, averaged, effort)
    halves = {half: chooser.choose_on(half) for half in HALVES}
    suited = {name: found.rule for name, found in halves[DEV_TRAIN].rules.items()}
    final = chooser.choose_on(WHOLE, suited)
    tasks = {
        name: _task_choice(name, predictions, halves, final, effort)
        for name, predictions in chooser.tasks.items()
    }
    total = {method: _overall_of(chooser, tasks, method) for method in Method}
    return EnsembleChoice(
        tasks=tasks,
        overall=total,
        gains={
            method: overall_gain({n: t.gains[method] for n, t in tasks.items()}, chooser.records)
            for method in (Method.BEST_SINGLE, Method.SIMPLE)
        },
        one_for_all=_one_for_all(chooser, halves, final),
        front=_front(chooser, halves, final, total[Method.SELECTIVE]),
        cost=chooser.cost,
    )


def _rules(rule: str | None, max_members: int | None) -> Mapping[str, Rule]:
    if rule is not None and rule not in RULES:
        raise ConfigError(f"--method {rule}: no such rule", fix=f"one of {', '.join(RULES)}")
    rules = OFFERED if rule is None else {rule: RULES[rule]}
    if max_members is None:
        return rules
    return {name: capped(each, max_members) for name, each in rules.items()}


def _task_choice(
    name: str,
    predictions: TaskPredictions,
    halves: Mapping[int, Decision],
    final: Decision,
    effort: Effort,
) -> TaskChoice:
    found = {
        method: {half: decision.found(method, name) for half, decision in halves.items()}
        for method in Method
    }
    return TaskChoice(
        metric=str(predictions.task.metric),
        num_rows=len(predictions.labels),
        methods={
            method: _method_choice(
                predictions.by(WHOLE), final.found(method, name), _scores(predictions, by_half)
            )
            for method, by_half in found.items()
        },
        rule=halves[DEV_TRAIN].rules[name],
        gains=_gains(predictions, found, effort.num_replicates),
        curve=curve_of(
            predictions, found[Method.SELECTIVE], found[Method.BEST_SINGLE], effort.curve_replicates
        ),
    )


def _scores(predictions: TaskPredictions, by_half: Mapping[int, Combination]) -> Scores:
    seen = [
        (predictions.by(half), found, predictions.rows[half]) for half, found in by_half.items()
    ]
    return Scores(
        held_out=_mean(of_half.score(found, ~rows) for of_half, found, rows in seen),
        in_sample=_mean(of_half.score(found, rows) for of_half, found, rows in seen),
    )


def _gains(
    predictions: TaskPredictions,
    found: Mapping[Method, Mapping[int, Combination]],
    num_replicates: int,
) -> dict[Method, Gain]:
    rests = {half: ~predictions.rows[half] for half in HALVES}
    outputs = {
        method: [predictions.by(half).outputs(by_half[half], rest) for half, rest in rests.items()]
        for method, by_half in found.items()
    }
    others = {method: outputs[method] for method in (Method.BEST_SINGLE, Method.SIMPLE)}
    gains = gain_of_halves(
        predictions.task,
        outputs[Method.SELECTIVE],
        list(others.values()),
        predictions.labels,
        list(rests.values()),
        num_replicates,
    )
    return dict(zip(others, gains, strict=True))


def _method_choice(
    predictions: TaskPredictions, found: Combination, scores: Scores
) -> MethodChoice:
    weights, intercept = weights_and_intercept(found)
    members = [
        Member(predictions.candidates[m], float(weights[m]), predictions.transforms[m])
        for m in np.flatnonzero(weights)
    ]
    return MethodChoice(
        members=tuple(sorted(members, key=lambda m: (-abs(m.weight), m.candidate.order))),
        scores=scores,
        trajectory=tuple(
            predictions.score(some, predictions.rows[WHOLE]) for some in prefixes(found)
        ),
        intercept=None if intercept is None else tuple(intercept.tolist()),
    )


def _one_for_all(
    chooser: Chooser, halves: Mapping[int, Decision], final: Decision
) -> OneForAll | None:
    chosen = {half: d.single for half, d in halves.items()}
    if final.single is None or None in chosen.values():
        return None
    weights = {half: chooser.exclusive(single) for half, single in chosen.items() if single}
    return OneForAll(final.single, _overall(chooser, weights))


def _front(
    chooser: Chooser, halves: Mapping[int, Decision], final: Decision, selective: Scores
) -> tuple[Point, ...]:
    """Of each cost: what a half chooses for so much at most. A point that is no better than a
    cheaper one is left out, but the last, which is selective as it is."""
    points: list[Point] = []
    for weights in reversed(final.front):
        members = sorted(chooser.encoders(weights), key=lambda candidate: candidate.order)
        limit = chooser.cost(members)
        if weights is final.front[0]:
            points.append(Point(tuple(members), limit, selective))
            break
        affordable = {}
        for half, decision in halves.items():
            cheap = [w for w in decision.front if chooser.cost(chooser.encoders(w)) <= limit]
            affordable[half] = (cheap or decision.front[-1:])[0]
        scores = _overall(chooser, affordable)
        if all(scores.held_out > cheaper.scores.held_out for cheaper in points):
            points.append(Point(tuple(members), limit, scores))
    return tuple(points)


def _overall(chooser: Chooser, by_half: Mapping[int, Weights]) -> Scores:
    return Scores(
        held_out=_mean(chooser.overall(w, half, on_rest=True) for half, w in by_half.items()),
        in_sample=_mean(chooser.overall(w, half) for half, w in by_half.items()),
    )


def _overall_of(chooser: Chooser, tasks: Mapping[str, TaskChoice], method: Method) -> Scores:
    found = {name: task.methods[method].scores for name, task in tasks.items()}
    return Scores(
        held_out=overall(
            {name: scores.held_out for name, scores in found.items()}, chooser.records
        ),
        in_sample=overall({n: scores.in_sample for n, scores in found.items()}, chooser.records),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
