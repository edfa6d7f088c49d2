"""Which candidates answer for each task: chosen on all of dev, judged by cross-fitting.

Dev is cut in two, several times over, by hashes of the rows' ids. Each half chooses, epochs and
rules and members alike, and what it chose is scored on the other: that is what so choosing is
worth. What is kept is then chosen on all of dev, by the rule that dev-train settled on.

Legend: M candidates, N rows, H halves.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ensemble.bootstrap import Gain, gain_of_halves, overall_gain
from ensemble.candidates import Pool
from ensemble.choice import (
    EnsembleChoice,
    Member,
    Method,
    MethodChoice,
    OneForAll,
    Point,
    Scores,
    TaskChoice,
    cost,
)
from ensemble.chooser import WHOLE, Chooser, Decision, Floats, TaskVotes, Weights
from ensemble.curve import curve_of
from ensemble.halves import NUM_HALVES
from ensemble.rules import OFFERED, RULES, Rule, capped
from mlflow_setup.errors import ConfigError, NothingUsableError

HALVES = range(1, 1 + NUM_HALVES)
DEV_TRAIN = 1


def choose(
    pool: Pool,
    rule: str | None = None,
    max_members: int | None = None,
    max_cost: float | None = None,
) -> EnsembleChoice:
    """Best single, simple and selective for each task of the pool.

    Args:
        rule: of `ensemble.rules`, for every task; None: the one that suits the task.
        max_members: of a task, at most.
        max_cost: parameters of selective's distinct encoders over all tasks, at most; one encoder
            is always left.

    Raises:
        ConfigError: there is no such rule.
        NothingUsableError: no candidate; the message has the reason for each run.
    """
    if not pool.candidates:
        reasons = [f"{run.trial}: {run.reason}" for run in pool.rejected]
        raise NothingUsableError(
            "\n  ".join(["no run can be a member of an ensemble", *reasons]),
            fix="ensweep leaderboard shows what became of each trial",
        )
    chooser = Chooser(pool, _rules(rule, max_members), max_cost)
    halves = {half: chooser.choose_on(half) for half in HALVES}
    suited = {name: found.rule for name, found in halves[DEV_TRAIN].rules.items()}
    final = chooser.choose_on(WHOLE, suited)
    tasks = {
        name: _task_choice(name, votes, halves, final) for name, votes in chooser.tasks.items()
    }
    weights = {method: {h: d.weights[method] for h, d in halves.items()} for method in Method}
    records = chooser.records
    return EnsembleChoice(
        tasks=tasks,
        overall={method: _overall(chooser, by_half) for method, by_half in weights.items()},
        gains={
            method: overall_gain({n: task.gains[method] for n, task in tasks.items()}, records)
            for method in (Method.BEST_SINGLE, Method.SIMPLE)
        },
        one_for_all=_one_for_all(chooser, halves, final),
        front=_front(chooser, halves, final),
    )


def _rules(rule: str | None, max_members: int | None) -> Mapping[str, Rule]:
    if rule is not None and rule not in RULES:
        raise ConfigError(f"--method {rule}: no such rule", fix=f"one of {', '.join(RULES)}")
    rules = OFFERED if rule is None else {rule: RULES[rule]}
    if max_members is None:
        return rules
    return {name: capped(each, max_members) for name, each in rules.items()}


def _task_choice(
    name: str, votes: TaskVotes, halves: Mapping[int, Decision], final: Decision
) -> TaskChoice:
    methods = {}
    for method in Method:
        chosen = {half: decision.weights[method][name] for half, decision in halves.items()}
        scores = Scores(
            judged=_mean(votes.score(w, ~votes.rows[half]) for half, w in chosen.items()),
            in_sample=_mean(votes.score(w, votes.rows[half]) for half, w in chosen.items()),
        )
        methods[method] = _method_choice(votes, final.weights[method][name], scores)
    return TaskChoice(
        metric=str(votes.task.metric),
        num_rows=len(votes.labels),
        methods=methods,
        rule=halves[DEV_TRAIN].rules[name],
        gains=_gains(name, votes, halves),
        curve=curve_of(
            votes,
            {half: decision.weights[Method.SELECTIVE][name] for half, decision in halves.items()},
            {half: decision.weights[Method.BEST_SINGLE][name] for half, decision in halves.items()},
        ),
    )


def _gains(name: str, votes: TaskVotes, halves: Mapping[int, Decision]) -> dict[Method, Gain]:
    rests = [~votes.rows[half] for half in halves]
    outputs = {
        method: [
            votes.outputs(decision.weights[method][name], rest)
            for decision, rest in zip(halves.values(), rests, strict=True)
        ]
        for method in Method
    }
    others = {method: outputs[method] for method in (Method.BEST_SINGLE, Method.SIMPLE)}
    found = gain_of_halves(
        votes.task, outputs[Method.SELECTIVE], list(others.values()), votes.labels, rests
    )
    return dict(zip(others, found, strict=True))


def _method_choice(votes: TaskVotes, weights: Floats, scores: Scores) -> MethodChoice:
    members = [Member(votes.candidates[m], float(weights[m])) for m in np.flatnonzero(weights)]
    members.sort(key=lambda member: (-member.weight, member.candidate.order))
    heaviest = [votes.candidates.index(member.candidate) for member in members]
    trajectory = []
    for count in range(1, len(members) + 1):
        some = votes.spread(heaviest[:count], weights[heaviest[:count]])
        trajectory.append(votes.score(some / some.sum(), votes.rows[WHOLE]))
    return MethodChoice(tuple(members), scores, tuple(trajectory))


def _one_for_all(
    chooser: Chooser, halves: Mapping[int, Decision], final: Decision
) -> OneForAll | None:
    chosen = {half: d.single for half, d in halves.items()}
    if final.single is None or None in chosen.values():
        return None
    weights = {half: chooser.alone(single) for half, single in chosen.items() if single}
    return OneForAll(final.single, _overall(chooser, weights))


def _front(chooser: Chooser, halves: Mapping[int, Decision], final: Decision) -> tuple[Point, ...]:
    """Of each cost: what a half chooses for so much at most. The last is selective as it is."""
    points = []
    for weights in reversed(final.chain):
        limit = math.inf if weights is final.chain[0] else cost(chooser.encoders(weights))
        affordable = {}
        for half, decision in halves.items():
            cheap = [w for w in decision.chain if cost(chooser.encoders(w)) <= limit]
            affordable[half] = (cheap or decision.chain[-1:])[0]
        members = sorted(chooser.encoders(weights), key=lambda candidate: candidate.order)
        points.append(Point(tuple(members), cost(members), _overall(chooser, affordable)))
    return tuple(points)


def _overall(chooser: Chooser, by_half: Mapping[int, Weights]) -> Scores:
    return Scores(
        judged=_mean(chooser.overall(w, half, on_rest=True) for half, w in by_half.items()),
        in_sample=_mean(chooser.overall(w, half) for half, w in by_half.items()),
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
