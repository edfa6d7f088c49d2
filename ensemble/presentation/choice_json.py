"""A choice as JSON, as printed by `ensweep ensemble --json` and stored in its MLflow run."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ensemble.candidates.pool import Pool
from ensemble.choice.request import Request
from ensemble.choice.result import EnsembleChoice, Member, Method, Point, TaskChoice
from ensemble.presentation.words import doubts_by_task, num_encoders, verdict
from ensemble.statistics.bootstrap import Gain

CAVEAT = (
    "held-out: members are chosen on a half of dev and scored on the other; means over halves. The "
    "final members are chosen on all of dev, which the hyperparameter search has used: for an "
    "unbiased score, run ensweep evaluate BUNDLE on labelled data that was not used"
)


def describe(request: Request, pool: Pool, choice: EnsembleChoice) -> dict[str, Any]:
    """Return the choice, its request and its pool as JSON values."""
    return {
        "schema_version": 1,
        "sweeps": list(request.sweeps),
        "averaged": request.averaged.value,
        "num_candidates": len(pool.candidates),
        **choice_json(choice),
        "added": [
            {"file": one.candidate.trial, "task": one.task, "form": one.form} for one in pool.added
        ],
        "rejected": [vars(rejected) for rejected in pool.rejected],
        "caveat": CAVEAT,
    }


def choice_json(choice: EnsembleChoice) -> dict[str, Any]:
    """Return a choice as JSON values; null for a score that is NaN."""
    single, notes = choice.one_for_all, doubts_by_task(choice)
    return {
        "tasks": {n: _task_json(task, notes[n]) for n, task in choice.tasks.items()},
        "overall": {method.value: s.to_json() for method, s in choice.overall.items()},
        "gains": _gains_json(choice.gains),
        "note": notes["overall"],
        "num_encoders": {
            method.value: num_encoders(choice.candidates(method)) for method in Method
        },
        "num_parameters": {
            method.value: choice.cost(choice.candidates(method)) for method in Method
        },
        "one_for_all": None
        if single is None
        else {
            **asdict(single.candidate),
            "overall": single.scores.to_json(),
            "gain": asdict(single.gain),
        },
        "prefer": None if choice.prefer is None else choice.prefer.value,
        "front": [_point_json(point) for point in choice.front],
        "whole": _point_json(choice.whole),
        "declined": None if choice.declined is None else _point_json(choice.declined),
        "verdict": verdict(choice),
    }


def _point_json(point: Point) -> dict[str, Any]:
    return {
        "num_encoders": num_encoders(point.candidates),
        "cost": point.cost,
        "overall": point.scores.to_json(),
        "members": [candidate.key for candidate in point.candidates],
        "gain_of_what_ships": asdict(point.gain),
    }


def _task_json(task: TaskChoice, note: str | None) -> dict[str, Any]:
    methods = {
        method.value: {
            "members": [_member_json(member) for member in choice.members],
            "scores": choice.scores.to_json(),
            "trajectory": list(choice.trajectory),
            "intercept": choice.intercept,
        }
        for method, choice in task.methods.items()
    }
    optimism = task.selective.scores.optimism
    return {
        "metric": task.metric,
        "num_rows": task.num_rows,
        "methods": methods,
        "rule": task.rule.rule,
        "rules": [asdict(row) for row in task.rule.scores],
        "gains": _gains_json(task.gains),
        "curve": asdict(task.curve),
        "optimism": None if math.isnan(optimism) else optimism,
        "note": note,
    }


def _member_json(member: Member) -> dict[str, Any]:
    return {
        **asdict(member.candidate),
        "weight": member.weight,
        "transform": asdict(member.transform),
    }


def _gains_json(gains: Mapping[Method, Gain]) -> dict[str, Any]:
    return {f"over_{method.value}": asdict(gain) for method, gain in gains.items()}
