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
"""What stands for a trial's name and recipe where the row is the chosen ensemble's."""
BYTES = 4
"""Of a parameter in float32."""
_BEST = "best/dev/"
_HELD_OUT = "held_out/selective/"


@dataclass(frozen=True)
class Row:
    """A trial on the leaderboard, a baseline, or the chosen ensemble."""

    rank: int | None  # None: a baseline, or the ensemble
    trial: str
    recipe: str
    outcome: str  # an Outcome, or "running"; of the ensemble "held-out"
    reason: str
    epochs: int | None  # completed; None where the mirror has not said
    overall: float | None  # best of any epoch; None before the first; of the ensemble held-out
    metrics: dict[str, float]  # dev metric of a task -> likewise
    params: dict[str, Any]  # dotted name -> value, of those in which the trials differ
    run_id: str = ""
    folder: str | None = None  # of the trial; None: not recorded, or an ensemble
    seconds: float | None = None  # of all attempts at training; None: not recorded
    num_parameters: int | None = None  # of the encoders and heads that a prediction takes
    ms_per_sentence: float | None = None  # of a prediction, where it ran; None: not recorded

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return dict(vars(self))

    @property
    def is_ensemble(self) -> bool:
        return self.recipe == ENSEMBLE and self.rank is None

    @property
    def megabytes(self) -> float | None:
        """Megabytes of the float32 weights that a prediction of all tasks takes."""
        return None if self.num_parameters is None else self.num_parameters * BYTES / 1e6


def leaderboard(runs: list[RunRecord], choice: ChoiceRecord | None = None) -> list[Row]:
    """The ensemble, where one was chosen, the baselines, then the trials: each by best overall,
    the earlier of equals first, those without a score last."""
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
    """`fcn_size` of `model.fcn_size`, where no other setting has the same last part."""
    last = [name.rpartition(".")[2] for name in settings]
    return [
        short if last.count(short) == 1 else name
        for name, short in zip(settings, last, strict=True)
    ]


def varying_params(runs: list[RunRecord]) -> list[str]:
    """The settings in which the trials differ, in the order of their names. A trial that failed
    before it had settings differs in none."""
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
    """Scores on held-out rows; seconds of its distinct members."""
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
        # where parameters are not recorded, what it costs is the number of its members
        num_parameters=int(cost) if cost > num_encoders else None,
        ms_per_sentence=metrics.get(MS_PER_SENTENCE),
    )


def _of_tasks(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    """`dev/sentiment/accuracy` -> the metric that stands under the prefix, by name."""
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
    """A param as it was: numbers, booleans and lists are tracked as JSON, text as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text
