"""The leaderboard of a sweep, from its tracked runs: trials, baselines, and the ensemble."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_setup.runs.projection import MS_PER_SENTENCE
from mlflow_setup.runs.query import ChoiceRecord
from mlflow_setup.schema import RunRecord, Tag, state_of
from mlflow_setup.text import counted
from search.config.baselines import BASELINES

ENSEMBLE = "ensemble"
"""Trial name and recipe of the chosen ensemble's row."""
BYTES = 4
"""Size of a float32 parameter."""
_BEST = "best/dev/"
_HELD_OUT = "held_out/selective/"


@dataclass(frozen=True)
class Row:
    """A trial on the leaderboard, a baseline, or the chosen ensemble."""

    rank: int | None  # None: a baseline, or the ensemble
    trial: str
    recipe: str
    outcome: str  # an Outcome, or "running"; "held-out" for the ensemble
    reason: str
    epochs: int | None  # completed; None: not recorded
    overall: float | None  # best over the epochs; None before the first; held-out for the ensemble
    metrics: dict[str, float]  # dev metric of a task -> its value, best or held-out likewise
    params: dict[str, Any]  # dotted name -> value, of the settings in which the trials differ
    run_id: str = ""
    folder: str | None = None  # of the trial; None: not recorded, or an ensemble
    seconds: float | None = None  # training time of all attempts; None: not recorded
    num_parameters: int | None = None  # of the encoders and heads that predict all tasks
    ms_per_sentence: float | None = None  # prediction time, where it ran; None: not recorded

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dict(vars(self))

    @property
    def is_ensemble(self) -> bool:
        return self.recipe == ENSEMBLE and self.rank is None

    @property
    def megabytes(self) -> float | None:
        """Megabytes of the float32 weights that predict all tasks."""
        return None if self.num_parameters is None else self.num_parameters * BYTES / 1e6


def leaderboard(runs: list[RunRecord], choice: ChoiceRecord | None = None) -> list[Row]:
    """Return the rows: the ensemble if one was chosen, then the baselines, then the trials.

    Baselines and trials are sorted by best overall, ties by name, those without a score last.
    """
    ordered = sorted(
        runs,
        key=lambda run: (math.inf if math.isnan(run.overall) else -run.overall, run.trial),
    )
    trials = [run for run in ordered if run.tags.get(Tag.RECIPE) not in BASELINES]
    varying = varying_params(trials)
    return [
        *(() if choice is None else (_ensemble_row(choice, runs),)),
        *(_row(None, run, []) for run in ordered if run.tags.get(Tag.RECIPE) in BASELINES),
        *(_row(rank, run, varying) for rank, run in enumerate(trials, start=1)),
    ]


def short_names(settings: Sequence[str]) -> list[str]:
    """Shorten `model.fcn_size` to `fcn_size` unless another setting ends in the same name."""
    last = [name.rpartition(".")[2] for name in settings]
    return [
        short if last.count(short) == 1 else name
        for name, short in zip(settings, last, strict=True)
    ]


def varying_params(runs: list[RunRecord]) -> list[str]:
    """Return the settings in which the trials differ, sorted by name.

    Trials that failed before their settings were recorded are left out.
    """
    configured = [run.params for run in runs if run.params]
    names = sorted({name for params in configured for name in params})
    return [name for name in names if len({params.get(name) for params in configured}) > 1]


def _row(rank: int | None, run: RunRecord, varying: list[str]) -> Row:
    tags, hours = run.tags, run.metrics.get("used/trial_hours")
    weights = tags.get(Tag.WEIGHTS_URI)
    return Row(
        rank=rank,
        trial=run.trial,
        recipe=tags.get(Tag.RECIPE, ""),
        outcome=state_of(run.outcome),
        reason=tags.get(Tag.REASON, ""),
        epochs=int(tags[Tag.NUM_EPOCHS]) if Tag.NUM_EPOCHS in tags else None,
        overall=None if math.isnan(run.overall) else run.overall,
        metrics=_of_tasks(run.metrics, _BEST),
        params={name: _value(run.params[name]) for name in varying if name in run.params},
        run_id=run.run_id,
        folder=weights.rpartition("/")[0] if weights else None,
        seconds=None if hours is None else 3600 * hours,
        num_parameters=_notes(tags).get("num_parameters") or None,
        ms_per_sentence=run.metrics.get(MS_PER_SENTENCE),
    )


def _ensemble_row(choice: ChoiceRecord, runs: Iterable[RunRecord]) -> Row:
    """Return the ensemble's row: held-out scores, and the training time of its distinct members."""
    known, members = {run.run_id: run for run in runs}, choice.member_run_ids
    hours = [known[each].metrics.get("used/trial_hours") for each in members if each in known]
    metrics, count = choice.metrics, len(members)
    cost, num_encoders = metrics.get("cost", 0), metrics.get("num_encoders", 0)
    of_single = metrics.get("held_out/best_single/overall")
    beside = "" if of_single is None else f"; best single {of_single:.4f}"
    return Row(
        rank=None,
        trial=ENSEMBLE,
        recipe=ENSEMBLE,
        outcome="held-out",
        reason=f"{counted(count, 'run')}{beside}",
        epochs=None,
        overall=metrics.get(f"{_HELD_OUT}overall"),
        metrics=_of_tasks(metrics, _HELD_OUT),
        params={},
        run_id=choice.run_id,
        seconds=3600 * sum(filter(None, hours)) if any(hours) else None,
        # if parameters are not recorded, `cost` is the number of members
        num_parameters=int(cost) if cost > num_encoders else None,
        ms_per_sentence=metrics.get(MS_PER_SENTENCE),
    )


def _of_tasks(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """Return the metrics with this prefix, which is replaced by `dev/`, sorted by name."""
    return {
        f"dev/{name.removeprefix(prefix)}": value
        for name, value in sorted(metrics.items())
        if name.startswith(prefix) and name != f"{prefix}overall"
    }


def _notes(tags: Mapping[str, str]) -> dict[str, int]:
    try:
        notes = json.loads(tags.get(Tag.NOTES, "{}"))
    except ValueError:
        return {}
    return notes if isinstance(notes, dict) else {}


def _value(text: str) -> Any:
    """Parse a tracked param: numbers, booleans and lists are JSON, anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
