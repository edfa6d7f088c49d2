"""What came of a sweep, from the tracked runs."""

import json
import math
from dataclasses import dataclass
from typing import Any

from mlflow_setup.schema import OVERALL, Outcome, RunRecord, Tag
from search.config.baselines import BASELINES

NUM_EPOCHS = "num_epochs"
"""The tag with the number of epochs that a trial has completed."""
_BEST = "best/dev/"


@dataclass(frozen=True)
class Row:
    """A trial on the leaderboard."""

    rank: int | None  # None: a baseline
    trial: str
    recipe: str
    outcome: str  # an Outcome, or "running"
    reason: str
    epochs: int | None  # completed; None where the mirror has not said
    overall: float | None  # best of any epoch; None before the first
    metrics: dict[str, float]  # dev metric of a task -> its best of any epoch
    params: dict[str, Any]  # dotted name -> value, of those in which the trials differ

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dict(vars(self))


def leaderboard(runs: list[RunRecord]) -> list[Row]:
    """The baselines, then the trials: each by best overall, the earlier of equals first, those
    without a score last."""
    ordered = sorted(
        runs,
        key=lambda run: (math.inf if math.isnan(run.overall) else -run.overall, run.trial),
    )
    trials = [run for run in ordered if run.tags.get(Tag.RECIPE) not in BASELINES]
    varying = varying_params(trials)
    return [
        *(_row(None, run, []) for run in ordered if run.tags.get(Tag.RECIPE) in BASELINES),
        *(_row(rank, run, varying) for rank, run in enumerate(trials, start=1)),
    ]


def varying_params(runs: list[RunRecord]) -> list[str]:
    """The settings in which the trials differ, in the order of their names. A trial that failed
    before it had settings differs in none."""
    configured = [run.params for run in runs if run.params]
    names = sorted({name for params in configured for name in params})
    return [name for name in names if len({params.get(name) for params in configured}) > 1]


def _row(rank: int | None, run: RunRecord, varying: list[str]) -> Row:
    tasks = {
        name.removeprefix("best/"): value
        for name, value in sorted(run.metrics.items())
        if name.startswith(_BEST) and name != f"best/{OVERALL}"
    }
    return Row(
        rank=rank,
        trial=run.trial,
        recipe=run.tags.get(Tag.RECIPE, ""),
        outcome=run.outcome.value if isinstance(run.outcome, Outcome) else "running",
        reason=run.tags.get(Tag.REASON, ""),
        epochs=int(run.tags[NUM_EPOCHS]) if NUM_EPOCHS in run.tags else None,
        overall=None if math.isnan(run.overall) else run.overall,
        metrics=tasks,
        params={name: _value(run.params[name]) for name in varying if name in run.params},
    )


def _value(text: str) -> Any:
    """A param as it was: numbers, booleans and lists are tracked as JSON, text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text
