"""Which candidates answer for each task: chosen on dev-train, judged on dev-dev.

Dev is cut in two by a hash of each row's id. Whatever is chosen here, best singles included, has
seen the labels of dev-train alone; the other half says what the choice is worth.

Legend: M candidates, N rows, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.bootstrap import Gain, gain
from ensemble.candidates import Candidate, Pool, TaskPool
from ensemble.combine import average, to_vote
from ensemble.inner import RuleChoice, choose_rule
from ensemble.rules import OFFERED, RULES, Rule, canonical, capped
from ensemble.selection import best_single
from mlflow_setup.errors import ConfigError, NothingUsableError
from trainable.metrics import overall, task_metric
from trainable.predictions import dev_train_mask
from trainable.tasks import Task


class Method(StrEnum):
    """The ways to choose."""

    BEST_SINGLE = "best_single"  # the best candidate for the task
    SIMPLE = "simple"  # the best overall epoch of every run, equal weights
    SELECTIVE = "selective"  # what the rule that suits the task makes of the candidates


@dataclass(frozen=True)
class Scores:
    """A metric on both halves of dev."""

    dev_train: float  # in-sample: what was chosen by
    dev_dev: float  # on rows that had no say

    def to_json(self) -> dict[str, float | None]:
        """JSON values: null for what is not a number."""
        return {name: None if math.isnan(s) else s for name, s in asdict(self).items()}


@dataclass(frozen=True)
class Member:
    """A candidate and its share."""

    candidate: Candidate
    weight: float


@dataclass(frozen=True)
class MethodChoice:
    """The members that a method chose for a task, and what they are worth."""

    members: tuple[Member, ...]  # the heaviest first; weights above 0, sum 1
    scores: Scores
    trajectory: tuple[float, ...]  # metric on dev-train of the heaviest 1, 2, ... members


@dataclass(frozen=True)
class TaskChoice:
    """What each method chose for a task."""

    metric: str
    num_dev_train: int
    num_dev_dev: int
    methods: dict[Method, MethodChoice]
    rule: RuleChoice  # of selective, chosen on dev-train alone
    gains: dict[Method, Gain]  # of selective over the others, on dev-dev

    @property
    def best_single(self) -> MethodChoice:
        return self.methods[Method.BEST_SINGLE]

    @property
    def simple(self) -> MethodChoice:
        return self.methods[Method.SIMPLE]

    @property
    def selective(self) -> MethodChoice:
        return self.methods[Method.SELECTIVE]

    @property
    def note(self) -> str | None:
        """Said where selective is not clearly above best single on the judged half."""
        selective, single = self.selective.scores.dev_dev, self.best_single.scores.dev_dev
        if selective <= single:
            return f"selective ({selective:.4f}) is not above best single ({single:.4f}) on dev-dev"
        gain = self.gains[Method.BEST_SINGLE]
        return (
            None if gain.is_clear else f"the gain over best single may be noise: {gain.describe()}"
        )


@dataclass(frozen=True)
class OneForAll:
    """The candidate that is best overall, for all tasks, and its overall."""

    candidate: Candidate
    scores: Scores


@dataclass(frozen=True)
class EnsembleChoice:
    """What each method chose for every task, and its overall."""

    tasks: dict[str, TaskChoice]
    overall: dict[Method, Scores]
    one_for_all: OneForAll | None  # None: no candidate has all tasks

    def candidates(self, method: Method) -> tuple[Candidate, ...]:
        """The distinct encoders over all tasks: what a prediction of every task costs."""
        found = {m.candidate for task in self.tasks.values() for m in task.methods[method].members}
        return tuple(sorted(found, key=lambda candidate: candidate.order))

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        single = self.one_for_all
        return {
            "tasks": {name: _task_json(task) for name, task in self.tasks.items()},
            "overall": {method.value: s.to_json() for method, s in self.overall.items()},
            "num_encoders": {method.value: len(self.candidates(method)) for method in Method},
            "one_for_all": None
            if single is None
            else {**asdict(single.candidate), "overall": single.scores.to_json()},
        }


def choose(pool: Pool, rule: str | None = None, max_members: int | None = None) -> EnsembleChoice:
    """Best single, simple and selective for each task of the pool.

    Args:
        rule: of `ensemble.rules`, for every task; None: the one that suits the task.
        max_members: of a task, at most.

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
    split = {name: _SplitTask(task_pool) for name, task_pool in pool.tasks.items()}
    averaged = _best_epoch_of_each_run(pool, split)
    if rule is not None and rule not in RULES:
        raise ConfigError(f"--method {rule}: no such rule", fix=f"one of {', '.join(RULES)}")
    rules = OFFERED if rule is None else {rule: RULES[rule]}
    if max_members is not None:
        rules = {name: capped(each, max_members) for name, each in rules.items()}
    tasks = {name: _choose_for(task, averaged, rules) for name, task in split.items()}
    return EnsembleChoice(
        tasks=tasks,
        overall={
            method: _overall({n: task.methods[method].scores for n, task in tasks.items()}, split)
            for method in Method
        },
        one_for_all=_one_for_all(pool, split),
    )


@dataclass(frozen=True, eq=False)
class _Half:
    votes: NDArray[np.float64]  # [M, N] or [M, N, C]
    labels: NDArray[np.float64]  # [N]

    def score(self, task: Task, weights: Sequence[float]) -> float:
        return task_metric(task, average(task, self.votes, weights), self.labels)[0]


class _SplitTask:
    """A task's candidates, with the half that chooses and the half that judges."""

    def __init__(self, pool: TaskPool) -> None:
        self.task, self.candidates = pool.task, pool.candidates
        votes = np.stack([to_vote(pool.task, outputs) for outputs in pool.outputs])
        rows = dev_train_mask(pool.ids)
        self.dev_train_ids = [row for row, is_train in zip(pool.ids, rows, strict=True) if is_train]
        self.dev_train = _Half(votes[:, rows], pool.labels[rows])
        self.dev_dev = _Half(votes[:, ~rows], pool.labels[~rows])

    def scores(self, weights: Sequence[float]) -> Scores:
        return Scores(
            self.dev_train.score(self.task, weights), self.dev_dev.score(self.task, weights)
        )

    def alone(self, candidate: Candidate) -> list[float]:
        """The weights of a candidate that answers alone."""
        return [float(candidate == other) for other in self.candidates]


def _choose_for(
    split: _SplitTask, averaged: set[Candidate], rules: Mapping[str, Rule]
) -> TaskChoice:
    task, half, judge = split.task, split.dev_train, split.dev_dev
    order = [candidate.order for candidate in split.candidates]
    is_plain = [candidate in averaged for candidate in split.candidates]
    kept, sample = canonical(task, half.votes, half.labels, order, is_plain)
    chosen = choose_rule(sample, split.dev_train_ids, rules)
    selective = np.zeros(len(order))
    selective[kept] = rules[chosen.rule](sample)
    found = {
        Method.BEST_SINGLE: np.array(best_single(task, half.votes, half.labels, order).weights),
        Method.SIMPLE: np.array(is_plain) / sum(is_plain),
        Method.SELECTIVE: selective,
    }
    outputs = {
        method: average(task, judge.votes, weights.tolist()) for method, weights in found.items()
    }
    return TaskChoice(
        metric=str(task.metric),
        num_dev_train=len(half.labels),
        num_dev_dev=len(judge.labels),
        methods={method: _method_choice(split, weights) for method, weights in found.items()},
        rule=chosen,
        gains={
            method: gain(task, outputs[Method.SELECTIVE], outputs[method], judge.labels)
            for method in (Method.BEST_SINGLE, Method.SIMPLE)
        },
    )


def _method_choice(split: _SplitTask, weights: NDArray[np.float64]) -> MethodChoice:
    members = [
        Member(candidate, float(weight))
        for candidate, weight in zip(split.candidates, weights, strict=True)
        if weight > 0
    ]
    members.sort(key=lambda member: (-member.weight, member.candidate.order))
    return MethodChoice(tuple(members), split.scores(weights.tolist()), _trajectory(split, members))


def _trajectory(split: _SplitTask, members: Sequence[Member]) -> tuple[float, ...]:
    weight = {member.candidate: member.weight for member in members}
    scores = []
    for count in range(1, len(members) + 1):
        first = {member.candidate for member in members[:count]}
        kept = np.array([weight[c] if c in first else 0.0 for c in split.candidates])
        scores.append(split.dev_train.score(split.task, (kept / kept.sum()).tolist()))
    return tuple(scores)


def _best_epoch_of_each_run(pool: Pool, split: Mapping[str, _SplitTask]) -> set[Candidate]:
    """Each run's candidate with the best overall on dev-train; of equals, the earliest epoch."""
    best: dict[str, tuple[float, int, Candidate]] = {}
    for candidate in pool.candidates:
        entry = (_dev_train_overall(candidate, split), -candidate.epoch, candidate)
        if candidate.run_id not in best or entry[:2] > best[candidate.run_id][:2]:
            best[candidate.run_id] = entry
    return {candidate for _, _, candidate in best.values()}


def _one_for_all(pool: Pool, split: Mapping[str, _SplitTask]) -> OneForAll | None:
    complete = [c for c in pool.candidates if all(c in task.candidates for task in split.values())]
    if not complete:
        return None
    candidate = max(complete, key=lambda c: _dev_train_overall(c, split))  # of equals, the first
    scores = {name: task.scores(task.alone(candidate)) for name, task in split.items()}
    return OneForAll(candidate, _overall(scores, split))


def _dev_train_overall(candidate: Candidate, split: Mapping[str, _SplitTask]) -> float:
    scores = {
        name: task.dev_train.score(task.task, task.alone(candidate))
        for name, task in split.items()
        if candidate in task.candidates
    }
    return overall(scores, {name: task.task for name, task in split.items()})


def _overall(scores: Mapping[str, Scores], split: Mapping[str, _SplitTask]) -> Scores:
    tasks = {name: task.task for name, task in split.items()}
    return Scores(
        overall({name: s.dev_train for name, s in scores.items()}, tasks),
        overall({name: s.dev_dev for name, s in scores.items()}, tasks),
    )


def _task_json(task: TaskChoice) -> dict[str, Any]:
    methods = {
        method.value: {
            "members": [{**asdict(m.candidate), "weight": m.weight} for m in choice.members],
            "scores": choice.scores.to_json(),
            "trajectory": list(choice.trajectory),
        }
        for method, choice in task.methods.items()
    }
    return {
        "metric": task.metric,
        "num_dev_train": task.num_dev_train,
        "num_dev_dev": task.num_dev_dev,
        "methods": methods,
        "rule": task.rule.rule,
        "rules": [asdict(row) for row in task.rule.scores],
        "gains": {f"over_{method.value}": asdict(found) for method, found in task.gains.items()},
        "optimism": _optimism(task.selective.scores),
        "note": task.note,
    }


def _optimism(scores: Scores) -> float | None:
    """In-sample less judged: what looking only at the rows that one chose by would promise."""
    return None if math.isnan(scores.dev_dev) else scores.dev_train - scores.dev_dev
